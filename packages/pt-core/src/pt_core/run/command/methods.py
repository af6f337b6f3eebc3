"""`methods` and `backbones`: what there is, without importing any of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pt_core.run.command.flags import echo_json, json_option

if TYPE_CHECKING:
    from pt_core.run.declare.modality import Modality


def methods_command(modality: Modality) -> click.Command:
    def callback(as_json: bool) -> None:
        infos = modality.registry.infos().values()
        if as_json:
            echo_json(
                [{"id": i.id, "title": i.title, "tunes": i.tunes, "needs": i.needs, "extra": i.extra} for i in infos]
            )
            return
        width = max((len(info.id) for info in infos), default=0)
        for info in infos:
            extra = f"  (needs pip install '{modality.package}[{info.extra}]')" if info.extra else ""
            needs = ", ".join(f"{role}: {what}" for role, what in info.needs.items())
            data = f" Data: {needs}." if needs else " Needs no data."
            click.echo(f"{info.id:<{width}}  {info.title}. Tunes {info.tunes}.{data}{extra}")
        click.echo(f"\nnext: {modality.package} fit METHOD --help", err=True)

    text = "List the methods: id, what they tune, which data they need."
    return click.Command("methods", help=text, callback=callback, params=[json_option()])


def backbones_command(modality: Modality) -> click.Command:
    def callback() -> None:
        rows = modality.backbones()
        width = max(len(spec) for spec, _ in rows)
        for spec, text in rows:
            click.echo(f"{spec:<{width}}  {text}")

    return click.Command("backbones", help="List what --backbone accepts.", callback=callback)
