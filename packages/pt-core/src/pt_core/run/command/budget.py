"""`budget METHOD`: what a run would cost, counted before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pt_core.run.command.flags import MethodGroup, StrictCommand, echo_json, json_option, method_params
from pt_core.run.command.runs import collect

if TYPE_CHECKING:
    from pt_core.run.declare.modality import Modality


def command(modality: Modality) -> click.Command:
    text = "Tokens, FLOPs, memory and tuned parameters of METHOD, before training."
    return MethodGroup(modality, "budget", text, _of_method)


def _of_method(modality: Modality, method: str) -> click.Command:
    @click.pass_context
    def callback(ctx: click.Context, /, as_json: bool, classes: int, **values: Any) -> None:
        from pt_core.run.use.budget import method_budget

        given = {**values, **ctx.meta["pt.hosts"]}
        spec = collect(modality, method, given, ctx.meta["pt.problems"], loads=False, trains=False)
        result = method_budget(modality, spec, classes)
        if as_json:
            echo_json(result.to_json())
        else:
            click.echo(result.table())

    params = [
        *method_params(modality, method),
        click.Option(["--classes"], type=click.IntRange(2), default=10, show_default=True),
        json_option(),
    ]
    text = "Cost of this method, counted without weights."
    hosts = modality.registry.info(method).hosts
    return StrictCommand(method, hosts, help=text, callback=callback, params=params)
