"""`resume RUN`: continue an interrupted run exactly where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pt_core.errors import UserError
from pt_core.run.command.flags import run_argument
from pt_core.run.command.runs import say, summary
from pt_core.run.declare.process import launched_rank

if TYPE_CHECKING:
    from pt_core.run.declare.modality import Modality


def command(modality: Modality) -> click.Command:
    def callback(run: Path, checkpoint: str | None, allow_topology_change: bool) -> None:
        resume(modality, run, checkpoint, allow_topology_change)

    return click.Command(
        "resume",
        help="Continue an interrupted run exactly where it stopped.",
        callback=callback,
        params=[
            run_argument(),
            click.Option(["--checkpoint"], help="Name of a checkpoint (default: the newest)."),
            click.Option(["--allow-topology-change"], is_flag=True, help="Accept another number of processes."),
        ],
    )


def resume(modality: Modality, run: Path, checkpoint: str | None, allow_topology_change: bool) -> None:
    from pt_core.run.declare.resolve import read_config, resolve
    from pt_core.run.fit.execute import execute
    from pt_core.run.fit.prepare import prepare
    from pt_core.run.train.rundir import RunDir

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
        summary(modality, status, run)
