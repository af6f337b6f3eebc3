"""`info RUN`: what a run or an artifact holds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pt_core.errors import UserError
from pt_core.run.command.flags import echo_json, json_option, run_argument

if TYPE_CHECKING:
    from pt_core.run.declare.modality import Modality


def command(modality: Modality) -> click.Command:
    text = "What a run or artifact holds."
    return click.Command("info", help=text, callback=partial(info, modality), params=[run_argument(), json_option()])


def info(modality: Modality, run: Path, as_json: bool) -> None:
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
    for role, entry in _hosts(modality, run, card).items():
        click.echo(f"{role:<11} {entry['method']}  {_options(entry['config'])}".rstrip())
    if "made_by" in card:
        click.echo(f"made by     {card['made_by']['method']}  {_options(card['made_by']['config'])}".rstrip())
    if card:
        click.echo(f"parameters  {card['parameters']:,}")
        click.echo(f"format      {card['format_version']}")
        labels = card["task"].get("labels")
        if labels:
            words = card["task"].get("class_words", {})
            shown = [f"{name} ({words[name]})" if words.get(name, name) != name else name for name in labels]
            click.echo(f"labels      {', '.join(shown[:12])}{' ...' if len(labels) > 12 else ''}")
    for name, value in card.get("metrics", {}).items():
        click.echo(f"{name:<11} {value:.4f}")
    if status.get("message"):
        click.echo(f"message     {status['message']}")


def _hosts(modality: Modality, run: Path, card: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Host role -> method and options, as the card of a strategy or the configuration of its run has them."""
    from pt_core.run.declare.hosts import host_options
    from pt_core.run.declare.resolve import read_config

    if card.get("hosts") or not (run / "config.yaml").is_file():
        found: Mapping[str, Mapping[str, Any]] = card.get("hosts", {})
        return found
    named, options = read_config(run / "config.yaml")
    roles = modality.registry.infos()[named].hosts if named in modality.registry.infos() else {}
    return {role: {"method": options[role], "config": host_options(role, options)} for role in roles if role in options}


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())
