"""What each command does. Heavy imports happen inside the functions, so that `--help` and `methods` answer at once."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pt_core.errors import ConfigError, UserError

if TYPE_CHECKING:
    from pt_core.backbone import Backbone
    from pt_core.run.fit import RunSpec
    from pt_core.run.modality import Modality
    from pt_core.run.predict import Predictor


def say(text: str) -> None:
    """A line for the user, once per run of several processes."""
    from pt_core.run.world import launched_rank

    if launched_rank() == 0:
        click.echo(text, err=True)


def methods(modality: Modality, as_json: bool) -> None:
    infos = modality.registry.infos().values()
    if as_json:
        click.echo(
            json.dumps(
                [{"id": i.id, "title": i.title, "tunes": i.tunes, "needs": i.needs, "extra": i.extra} for i in infos]
            )
        )
        return
    width = max((len(info.id) for info in infos), default=0)
    for info in infos:
        extra = f"  (needs pip install '{modality.package}[{info.extra}]')" if info.extra else ""
        needs = ", ".join(f"{role}: {what}" for role, what in info.needs.items())
        click.echo(f"{info.id:<{width}}  {info.title}. Tunes {info.tunes}. Data: {needs}.{extra}")
    click.echo(f"\nnext: {modality.package} fit METHOD --help", err=True)


def backbones(modality: Modality) -> None:
    rows = modality.backbones()
    width = max(len(spec) for spec, _ in rows)
    for spec, text in rows:
        click.echo(f"{spec:<{width}}  {text}")


def demo(modality: Modality, name: str | None, seeds: int, fast: bool, out: Path | None) -> None:
    known = {demo.name: demo for demo in modality.demos()}
    if not known:
        raise UserError(f"{modality.package} has no demo")
    chosen = name or next(iter(known))
    if chosen not in known:
        raise UserError(f"no demo {chosen!r}; known: {', '.join(known)}")
    known[chosen].run(out or free_folder(Path("runs"), f"demo-{chosen}"), seeds, fast)


def free_folder(parent: Path, name: str) -> Path:
    """The first of name-1, name-2 ... that does not exist. All processes of a run must agree, so it is chosen before training starts."""
    number = 1
    while (parent / f"{name}-{number}").exists():
        number += 1
    return parent / f"{name}-{number}"


def _collect(modality: Modality, method: str, values: dict[str, Any], problems: Sequence[str]) -> RunSpec:
    """Flags over --config over --recipe, with unknown flags and invalid values reported together."""
    from pt_core.run.cli import given
    from pt_core.run.fit import read_config, resolve

    config_file, recipe = values.pop("config_file", None), values.pop("recipe", None)
    found = list(problems)
    merged: dict[str, Any] = {}
    if config_file is not None:
        named, merged = read_config(config_file)
        if named is not None and named != method:
            found.append(f"{config_file} is a configuration of {named!r}, not of {method!r}")
    try:
        spec = resolve(modality, method, {**merged, **given(values)}, recipe)
    except ConfigError as error:
        raise ConfigError(found + error.problems) from None
    if found:
        raise ConfigError(found)
    return spec


def fit(modality: Modality, method: str, values: dict[str, Any], problems: Sequence[str]) -> None:
    from pt_core.run.world import launched_rank

    out, print_config, search = values.pop("out"), values.pop("print_config"), values.pop("search")
    spec = _collect(modality, method, values, problems)
    if print_config:
        import yaml

        click.echo(yaml.safe_dump({"method": spec.method, "options": spec.flat()}, sort_keys=False), nl=False)
        return
    import os

    if out is None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("--out is needed with several processes")
        out = free_folder(Path("runs"), method)
    if search:
        _search(modality, spec, search, out)
        return
    status = run_fit(modality, spec, out)
    if launched_rank() == 0:
        _summary(modality, status, out)


def run_fit(
    modality: Modality,
    spec: RunSpec,
    out: Path,
    backbones: Mapping[str, Backbone] | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Prepare and execute a run; nothing is written before everything was checked."""
    from pt_core.run.fit import execute, prepare

    tell = (lambda text: None) if quiet else say
    check_out(out)
    prepared = prepare(modality, spec, tell, backbones)
    return execute(modality, prepared, out, tell)


def check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder")
    if (out / "run.json").exists():
        raise UserError(f"{out} already holds a run; choose another --out, or continue it with `resume {out}`")


def _search(modality: Modality, spec: RunSpec, grid: Sequence[str], out: Path) -> None:
    """Every point is a run of its own below OUT/search; the best on validation becomes OUT."""
    from pt_core.run.fit import resolve
    from pt_core.run.search import parse_grid, search

    points = parse_grid(list(grid))
    flat = _plain(spec.flat())
    # All points are checked before the first run.
    specs = [resolve(modality, spec.method, {**flat, **point}) for point in points]
    name, mode = "", "max"

    def evaluate(point: Mapping[str, Any]) -> float:
        nonlocal name, mode
        number = points.index(dict(point))
        status = run_fit(modality, specs[number], out / "search" / f"{number:02d}", quiet=number > 0)
        name, mode = status["select"]
        value = status["results"]["val"].get(name)  # absent where the data do not define it
        if value is None:
            return float("-inf")
        return float(value) if mode == "max" else -float(value)

    result = search(points, evaluate, "max")
    click.echo(result.table())
    say(f"best on validation: {dict(result.best)}; running it into {out}")
    _summary(modality, run_fit(modality, specs[result.index], out, quiet=True), out)


def _plain(flat: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in flat.items()}


def _summary(modality: Modality, status: Mapping[str, Any], out: Path) -> None:
    results = status.get("results", {})
    for role in ("val", "test"):
        if role in results:
            # The metric that selects comes first.
            ordered = sorted(results[role].items(), key=lambda item: item[0] != status["select"][0])
            shown = ", ".join(f"{name} {value:.4f}" for name, value in ordered[:4])
            click.echo(f"{role}: {shown}")
    parameters = status["parameters"]
    share = f" ({parameters['share']:.2%} of the backbone)" if parameters.get("share") else ""
    click.echo(
        f"tuned {parameters['tuned']:,} parameters{share} in {status['time']['fit_seconds']:.1f} s; report: {out / 'report.html'}"
    )
    click.echo(f"next: {modality.package} predict {out} {modality.input_name}...")


def resume(modality: Modality, run: Path, checkpoint: str | None, allow_topology_change: bool) -> None:
    from pt_core.run.fit import execute, prepare, read_config, resolve
    from pt_core.run.rundir import RunDir
    from pt_core.run.world import launched_rank

    status = RunDir(run).status()
    if not status:
        raise UserError(f"{run} is not a run folder (no run.json); start one with `{modality.package} fit`")
    if status.get("status") == "finished":
        raise UserError(f"{run} is finished; use it with `{modality.package} predict {run} {modality.input_name}...`")
    method, options = read_config(run / "config.yaml")
    if method is None:
        raise UserError(f"{run / 'config.yaml'} names no method")
    spec = resolve(modality, method, options)
    prepared = prepare(modality, spec, say)
    before = status.get("data", {}).get("identity", {})
    for role, dataset in prepared.data.items():
        if role in before and before[role] != dataset.identity():
            raise UserError(f"the data of role {role!r} changed since {run} started; resume needs the same data")
    status = execute(modality, prepared, run, say, True, checkpoint, allow_topology_change)
    if launched_rank() == 0:
        _summary(modality, status, run)


def _open(
    modality: Modality, run: Path, backbone: Sequence[str], weights: Sequence[str], allow_backbone_mismatch: bool
) -> Predictor:
    from pt_core.run.predict import load

    predictor = load(modality, run, backbone=backbone, weights=weights, allow_backbone_mismatch=allow_backbone_mismatch)
    for note in predictor.notes:
        say(note)
    return predictor


def evaluate_run(
    modality: Modality,
    run: Path,
    data: str,
    role: str,
    as_json: bool,
    backbone: Sequence[str],
    weights: Sequence[str],
    allow_backbone_mismatch: bool,
) -> None:
    from pt_core.run.evaluate import evaluate
    from pt_core.run.fit import read_config
    from pt_core.run.sampling import with_classes

    predictor = _open(modality, run, backbone, weights, allow_backbone_mismatch)
    known = {field.name for field in dataclasses.fields(modality.data_options)}
    config = run / "config.yaml"
    stored = read_config(config)[1] if config.is_file() else {}
    from pt_core.run.options import build_all

    options = build_all({"data": modality.data_options}, {k: v for k, v in stored.items() if k in known})["data"]
    roles = modality.load_data(data, options, int(stored.get("sampling_seed") or stored.get("seed") or 0))
    if role not in roles:
        raise UserError(f"{data} has no part {role!r}; it has: {', '.join(roles)} (choose with --role)")
    for text in (text for part in roles.values() for text in getattr(part, "notes", ())):
        say(text)
    part = with_classes(roles[role], predictor.method.task.class_names())
    predictor.method.task.check_dataset(part, role)
    method = predictor.method
    dataset = modality.bind(part, method.backbones, method.task, options, training=False)
    result = evaluate(method, dataset, predictor.world, method.task.eval_batch, 0)
    if as_json:
        found = {"role": role, "samples": len(dataset), "metrics": result.metrics, "notes": predictor.notes}
        click.echo(json.dumps(found))
        return
    click.echo(f"{role}: {len(dataset)} samples")
    for name, value in result.metrics.items():
        click.echo(f"  {name:<20} {value:.4f}")


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
    **further: Any,
) -> None:
    from pt_core.run.cli import given
    from pt_core.run.predict import load_many, predict_options

    options = predict_options(modality, given(further))
    runs = [Path(item) for item in items if _is_run(Path(item))]
    inputs = [item for item in items if not _is_run(Path(item))]
    if not runs:
        raise UserError(f"{items[0]!r} is not a run folder; usage: predict RUN {modality.input_name}...")
    if not inputs:
        raise UserError(f"no {modality.input_name} given; usage: predict RUN {modality.input_name}...")
    if out is not None:
        _check_table(out)
    if len(runs) > 1:
        if (route is None) is not ensemble:
            raise UserError(
                "several runs need either --route COLUMN, the column of the input table that names the run of each row, "
                "or --ensemble, the mean of all runs"
            )
        if len(inputs) > 1 and not ensemble:
            shown = ", ".join(map(repr, inputs[:3]))
            raise UserError(f"several runs take one input table; {shown} are no run folders: one table, or a wrong RUN")
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
        predictor = _open(modality, runs[0], backbone, weights, allow_backbone_mismatch)
        stream = predictor.stream(inputs, batch_size, options=options)
        task_of = {"": predictor.method.task}
    rows = []
    for record in stream:
        if as_json:
            click.echo(json.dumps(record))
        else:
            name = record.get("run", "")
            click.echo(task_of[name].line(record) + (f"  [{name}]" if name else ""))
        rows.append(record)
    if out is not None:
        write_table(out, rows)
        say(f"{len(rows)} predictions written to {out}")


def _check_table(path: Path) -> None:
    """Before the work, not behind it."""
    if path.suffix not in (".csv", ".jsonl", ".parquet"):
        raise UserError(f"--out {path} must end in .csv, .jsonl or .parquet")
    if path.is_dir():
        raise UserError(f"--out {path} is a folder; name a file")
    for folder in path.parents:
        if folder.exists():
            if not folder.is_dir():
                raise UserError(f"--out {path}: {folder} is a file, not a folder")
            return


def _is_run(path: Path) -> bool:
    return (path / "run.json").is_file() or (path / "card.json").is_file() or (path / "tuned" / "card.json").is_file()


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


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write records as .csv, .jsonl or .parquet (by the suffix), atomically for the text forms."""
    from pt_core.sealed import write_text

    _check_table(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pandas as pd

        frame = pd.DataFrame(
            [{k: v if not isinstance(v, (dict, list)) else json.dumps(v) for k, v in row.items()} for row in rows]
        )
        frame.to_parquet(path, index=False)
    elif path.suffix == ".jsonl":
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    else:
        buffer = io.StringIO()
        names = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(buffer, names)
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, buffer.getvalue())


def compare(runs: tuple[Path, ...], out: Path | None) -> None:
    from pt_core.run.report import compare as compare_runs
    from pt_core.run.report import compare_table

    for run in runs:
        if not (run / "run.json").is_file():
            raise UserError(f"{run} is not a run folder (no run.json)")
    page = (out or Path("runs")) / "compare.html" if out is None or out.suffix != ".html" else out
    page.parent.mkdir(parents=True, exist_ok=True)
    click.echo(compare_table(compare_runs(list(runs), page)))
    click.echo(f"page: {page}", err=True)


def info(modality: Modality, run: Path, as_json: bool) -> None:
    from pt_core.artifact import read_artifact
    from pt_core.run.rundir import RunDir

    status = RunDir(run).status()
    try:
        card: dict[str, Any] = read_artifact(run).card
    except UserError:
        if not status:
            raise
        card = {}
    if as_json:
        click.echo(json.dumps({"run": status, "card": card}))
        return
    click.echo(f"method      {card.get('method') or status.get('method')}")
    click.echo(f"status      {status.get('status', 'artifact')}")
    for role, entry in card.get("backbones", {}).items():
        click.echo(f"{role:<11} {entry['source']}  fingerprint {entry['fingerprint']['exact'][:16]}")
    if card:
        click.echo(f"parameters  {card['parameters']:,}")
        click.echo(f"format      {card['format_version']}")
        labels = card["task"].get("labels")
        if labels:
            click.echo(f"labels      {', '.join(labels[:12])}{' ...' if len(labels) > 12 else ''}")
    for name, value in card.get("metrics", {}).items():
        click.echo(f"{name:<11} {value:.4f}")
    if status.get("message"):
        click.echo(f"message     {status['message']}")


def export(
    modality: Modality,
    run: Path,
    out: Path,
    format_: str,
    inference_only: bool,
    backbone: Sequence[str],
    weights: Sequence[str],
    allow_backbone_mismatch: bool,
) -> None:
    from pt_core.artifact import save_artifact
    from pt_core.run.predict import load

    if out.exists():
        raise UserError(f"{out} exists; choose another --out")
    wanted = format_ == "artifact" and not inference_only
    predictor = load(
        modality,
        run,
        backbone=backbone,
        weights=weights,
        allow_backbone_mismatch=allow_backbone_mismatch,
        device="cpu",
        training=wanted,
    )
    notes = list(predictor.notes)
    if format_ == "artifact":
        card = {**predictor.card, "notes": [*predictor.card.get("notes", ()), *notes]}
        save_artifact(out, predictor.method, card, inference_only)
    elif format_ in modality.export_formats():
        notes += modality.export_formats()[format_](predictor.method, out)
    else:
        from pt_core.run.export import export_program

        notes += export_program(modality, predictor, out, format_)
    for note in notes:
        say(note)
    click.echo(f"written: {out}")


def budget(modality: Modality, method: str, values: dict[str, Any], problems: Sequence[str], as_json: bool) -> None:
    from pt_core.run.budget import method_budget

    classes = values.pop("classes")
    spec = _collect(modality, method, values, problems)
    result = method_budget(modality, spec, classes)
    click.echo(json.dumps(result.to_json()) if as_json else result.table())


def pretrain(modality: Modality, values: Mapping[str, Any], out: Path) -> None:
    from pt_core.run.cli import given
    from pt_core.run.options import build_all

    options = modality.pretrain_options()
    assert options is not None
    built = build_all({"pretrain": options}, given(values))["pretrain"]
    if out.exists():
        raise UserError(f"{out} exists; choose another --out")
    spec = modality.pretrain(built, out)
    click.echo(f"next: {modality.package} fit METHOD --backbone {spec} --data DIR")
