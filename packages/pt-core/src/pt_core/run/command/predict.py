"""`predict RUN... INPUT...`: predictions of one run, of a run per row, or of the mean of several runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pt_core.errors import UserError
from pt_core.run.command.flags import (
    FOLDER,
    OpenCommand,
    backbone_options,
    class_names_option,
    given,
    json_option,
    options_of,
)
from pt_core.run.command.runs import is_run, open_run, say, split_own
from pt_core.run.declare.process import working

if TYPE_CHECKING:
    from pt_core.run.declare.modality import Modality


def command(modality: Modality) -> click.Command:
    @click.pass_context
    def callback(ctx: click.Context, /, items: tuple[str, ...], **values: Any) -> None:
        words, own = split_own(modality, [*items, *ctx.args], ctx.command)
        predict(modality, tuple(words), **{**values, **own})

    own = {"predict": modality.predict_options} if modality.predict_options else {}
    name = modality.input_name
    return OpenCommand(
        "predict",
        help=f"Predict {name}s: `predict RUN {name}...`, or several runs with --route or --ensemble.",
        callback=callback,
        params=[
            click.Argument(["items"], nargs=-1, required=True, metavar=f"RUN... {name}..."),
            click.Option(
                ["--route"],
                help="With several runs: column of the input table (CSV/Parquet) that names the run for each row.",
            ),
            click.Option(["--ensemble"], is_flag=True, help="With several runs: predict by the mean of their outputs."),
            click.Option(["--batch-size"], type=click.IntRange(1), default=32, show_default=True),
            click.Option(["--out"], type=FOLDER, help="CSV, JSONL or Parquet file to write."),
            json_option(),
            *options_of(own),
            class_names_option(),
            *backbone_options(),
        ],
    )


def predict(
    modality: Modality,
    items: tuple[str, ...],
    route: str | None,
    ensemble: bool,
    batch_size: int,
    out: Path | None,
    as_json: bool,
    backbone: Sequence[str],
    weights: Sequence[str],
    allow_backbone_mismatch: bool,
    class_names: str | None = None,
    **further: Any,
) -> None:
    from pt_core.run.data.tables import check_table, write_table
    from pt_core.run.use.mixed import load_many

    options = given(further)
    runs = [Path(item) for item in items if is_run(Path(item))]
    inputs = [item for item in items if not is_run(Path(item))]
    if not runs:
        named = f"{items[0]!r} is not a run folder" if items else "no RUN given"
        raise UserError(f"{named}; usage: predict RUN {modality.input_name}...")
    if not inputs:
        raise UserError(f"no {modality.input_name} given; usage: predict RUN {modality.input_name}...")
    folder = out if out is not None and not out.suffix else None  # predictions that are files go to a folder
    if folder is not None and folder.is_file():
        raise UserError(f"--out {folder} is a file; name a folder, or a .csv, .jsonl or .parquet file")
    if out is not None:
        check_table(out if folder is None else out / "predictions.jsonl")
    if len(runs) > 1:
        if (route is None) is not ensemble:
            raise UserError(
                "several runs need either --route COLUMN, the column of the input table that names the run of each row, "
                "or --ensemble, the mean of all runs"
            )
        if len(inputs) > 1 and not ensemble:
            shown = ", ".join(map(repr, inputs[:3]))
            raise UserError(f"several runs take one input table; {shown} are no run folders: one table, or a wrong RUN")
        if class_names is not None:
            raise UserError("--class-names works with a single run only")
        if allow_backbone_mismatch:
            raise UserError("several runs share one backbone: --allow-backbone-mismatch works with a single run only")
        table = None if route is None else _routes(Path(inputs[0]), route)
        many = load_many(modality, runs, backbone=backbone, weights=weights)
        stream = (
            many.ensemble(inputs, batch_size, options) if table is None else many.stream(*table, batch_size, options)
        )
        task_of = {name: predictor.method.task for name, predictor in many.predictors.items()}
        task_of[""] = task_of[many.names[0]]
    else:
        if ensemble:
            raise UserError("--ensemble is the mean of several runs; give at least two, or leave it out")
        if route is not None:
            raise UserError("--route chooses among several runs; give at least two, or leave it out")
        predictor = open_run(modality, runs[0], backbone, weights, allow_backbone_mismatch, class_names)
        results = predictor.results(inputs, batch_size, options=options)
        stream = (record for record, files in results if _kept(folder, record, files))
        task_of = {"": predictor.method.task}
    working()
    rows = []
    for record in stream:
        if as_json:
            click.echo(json.dumps(record))
        else:
            name = record.get("run", "")
            click.echo(task_of[name].line(record) + (f"  [{name}]" if name else ""))
        rows.append(record)
    if out is not None:
        write_table(out if folder is None else folder / "predictions.jsonl", rows)
        say(f"{len(rows)} predictions written to {out}")


def _kept(folder: Path | None, record: Mapping[str, Any], files: Mapping[str, bytes]) -> bool:
    """Write a prediction's files, if it has some."""
    from pt_core.run.data.tables import write_files

    if files and folder is None:
        raise UserError("these predictions are files: name a folder with --out")
    if folder is not None:
        write_files(folder, str(record["id"]), files)
    return True


def _routes(table: Path, column: str) -> tuple[list[str], list[str]]:
    import pandas as pd

    if not table.is_file():
        raise UserError(
            f"with --route the input is a CSV or Parquet table with columns path and {column!r}; {table} is not a file"
        )
    frame = pd.read_parquet(table) if table.suffix == ".parquet" else pd.read_csv(table)
    for name in ("path", column):
        if name not in frame.columns:
            raise UserError(f"{table} has no column {name!r}; it has: {', '.join(map(str, frame.columns))}")
    return [str(table.parent / path) for path in frame["path"]], [str(value) for value in frame[column]]
