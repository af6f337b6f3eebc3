"""`info RUN`: what a run or an artifact holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pt_core.errors import UserError
from pt_core.run.command.flags import echo_json, json_option, run_argument

if TYPE_CHECKING:
    from pt_core.run.declare.modality import Modality


def command(modality: Modality) -> click.Command:
    text = "What a run or artifact holds."
    return click.Command("info", help=text, callback=info, params=[run_argument(), json_option()])


def info(run: Path, as_json: bool) -> None:
    from pt_core.artifact import read_artifact
    from pt_core.run.train.rundir import RunDir

    status = RunDir(run).status()
    try:
        card: dict[str, Any] = read_artifact(run).card
    except UserError:
        # A run that has not come so far has no artifact; one that has, or says so, is damaged.
        if not status or status.get("status") == "finished" or (run / "tuned").exists():
            raise
        card = {}
    if as_json:
        echo_json({"run": status, "card": card})
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
