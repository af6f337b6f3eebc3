"""`export RUN`: the artifact, one program of backbone and prompt, or a package's own formats."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pt_core.errors import UserError
from pt_core.run.command.flags import backbone_options, out_option, run_argument
from pt_core.run.command.runs import open_run, say

if TYPE_CHECKING:
    from pt_core.run.declare.modality import Modality


def command(modality: Modality) -> click.Command:
    return click.Command(
        "export",
        help="Export a tuned artifact, or backbone and prompt as one program.",
        callback=partial(export, modality),
        params=[
            run_argument(),
            out_option("File or folder to write.", required=True),
            click.Option(
                ["--format", "format_"],
                type=click.Choice(["artifact", "torch.export", "onnx", *modality.export_formats()]),
                default="artifact",
                show_default=True,
            ),
            click.Option(["--inference-only"], is_flag=True, help="Leave out what only further tuning needs."),
            *backbone_options(),
        ],
    )


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
    from pt_core.saving import save_artifact

    if out.exists():
        raise UserError(f"{out} exists; choose another --out")
    wanted = format_ == "artifact" and not inference_only
    predictor = open_run(modality, run, backbone, weights, allow_backbone_mismatch, device="cpu", training=wanted)
    notes: Sequence[str] = ()
    if format_ == "artifact":
        card = {**predictor.card, "notes": [*predictor.card.get("notes", ()), *predictor.notes]}
        save_artifact(out, predictor.method, card, inference_only)
    elif format_ in modality.export_formats():
        notes = modality.export_formats()[format_](predictor.method, out)
    else:
        from pt_core.run.use.export import export_program

        notes = export_program(modality, predictor, out, format_)
    for note in notes:
        say(note)
    click.echo(f"written: {out}")
