"""`compare RUN...`: runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pt_core.errors import UserError
from pt_core.run.command.flags import FOLDER, out_option

if TYPE_CHECKING:
    from pt_core.run.declare.modality import Modality


def command(modality: Modality) -> click.Command:
    return click.Command(
        "compare",
        help="Compare runs: table with mean and std over seeds, and a page.",
        callback=compare,
        params=[click.Argument(["runs"], nargs=-1, required=True, type=FOLDER), out_option()],
    )


def compare(runs: tuple[Path, ...], out: Path | None) -> None:
    from pt_core.run.report.comparison import compare as compare_runs, compare_table

    for run in runs:
        if not (run / "run.json").is_file():
            raise UserError(f"{run} is not a run folder (no run.json)")
    page = (out or Path("runs")) / "compare.html" if out is None or out.suffix != ".html" else out
    page.parent.mkdir(parents=True, exist_ok=True)
    frame = compare_runs(list(runs), page)
    click.echo(compare_table(frame))
    for folder, reason in frame.attrs["left_out"]:
        click.echo(f"left out: {folder} ({reason})", err=True)
    click.echo(f"page: {page}", err=True)
