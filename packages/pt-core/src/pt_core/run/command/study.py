"""`study FILE --out STUDY`: many runs over shared networks and data, and what became of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pt_core.errors import UserError
from pt_core.run.command.flags import FOLDER, MULTIPLE, echo_json, json_option, out_option
from pt_core.run.command.runs import say

if TYPE_CHECKING:
    from pt_core.run.declare.modality import Modality


def command(modality: Modality) -> click.Command:
    def callback(
        source: Path,
        out: Path | None,
        jobs: int,
        only: tuple[str, ...],
        retry_failed: bool,
        status: bool,
        dry_run: bool,
        as_json: bool,
    ) -> int:
        return study(modality, source, out, jobs, only, retry_failed, status, dry_run, as_json)

    return click.Command(
        "study",
        help="Run many cells: methods x options x data x seeds, as a YAML FILE says. FILE may be the folder of a study, to continue it; "
        "cells that are finished are not run again.",
        callback=callback,
        params=[
            click.Argument(["source"], type=FOLDER, metavar="FILE"),
            out_option("Folder of the study (default: FILE, where that is one)."),
            click.Option(
                ["--jobs"],
                type=click.IntRange(1),
                default=1,
                show_default=True,
                help="Processes that run cells side by side.",
            ),
            click.Option(
                ["--only"],
                multiple=True,
                help=f"Cells to run, by name or pattern, with those they start from. {MULTIPLE}",
            ),
            click.Option(["--retry-failed"], is_flag=True, help="Run cells again that failed."),
            click.Option(["--status"], is_flag=True, help="Show what became of each cell and stop."),
            click.Option(["--dry-run"], is_flag=True, help="Show the cells and what they would cost, and stop."),
            json_option(),
        ],
    )


def study(
    modality: Modality,
    source: Path,
    out: Path | None,
    jobs: int,
    only: tuple[str, ...],
    retry_failed: bool,
    status: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Exit status 1 where cells failed."""
    from pt_core.run.study.cells import plan
    from pt_core.run.study.run import chosen, content_of, opened, run_study

    folder = out or (source if source.is_dir() else None)
    if status or dry_run:
        content = content_of(source)
        cells = plan(modality, content)
        names = chosen(cells, only)
        if dry_run:
            from pt_core.run.study.cost import Costs, cost_table

            costs = Costs(modality)
            found = [costs.of(cell) for cell in cells if cell.name in names]
            echo_json(found) if as_json else click.echo(cost_table(found))
            return 0
        if folder is None:
            raise UserError("--status needs the folder of a study: give it in place of FILE, or --out")
        now = opened(modality, folder, content)
    elif folder is None:
        raise UserError("--out is missing: name the folder of the study")
    else:
        now = run_study(modality, source, folder, jobs=jobs, only=only, retry_failed=retry_failed, say=say)
        names = {cell.name for cell in now.cells}
    told = [row for row in now.rows if row["cell"] in names]
    if as_json:
        echo_json(told)
    elif status:
        for row in told:
            click.echo(f"{row['status']:<12}{row['cell']}{'  ' + row['message'] if row['message'] else ''}")
    click.echo(
        now.summary() + ("" if status else f"; table: {folder / 'results.csv'}, page: {folder / 'study.html'}"),
        err=as_json,
    )
    return int(not status and now.count("failed") > 0)
