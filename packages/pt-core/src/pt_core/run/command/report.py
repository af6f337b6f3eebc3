"""`report RUN`: write a run's page again, from what the run folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pt_core.errors import UserError
from pt_core.run.command.flags import run_argument

if TYPE_CHECKING:
    from pt_core.run.declare.modality import Modality


def command(modality: Modality) -> click.Command:
    text = "Write the page of a run again; also of one that has not finished."
    return click.Command("report", help=text, callback=report, params=[run_argument()])


def report(run: Path) -> None:
    from pt_core.run.report import read_run, write_report
    from pt_core.run.train.rundir import RunDir

    if not (run / "run.json").is_file():
        raise UserError(f"{run} is not a run folder (no run.json)")
    page = run / "report.html"
    write_report(page, read_run(run))
    click.echo(f"page: {page}")
    if RunDir(run).status().get("status") != "finished":
        click.echo(f"the run has not finished; `resume {run}` goes on with it", err=True)
