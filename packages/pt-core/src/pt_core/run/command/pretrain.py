"""`pretrain`: a small backbone on data of one's own, by the recipe of the built-in one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pt_core.errors import UserError
from pt_core.run.command.flags import given, options_of, out_option

if TYPE_CHECKING:
    from pt_core.run.declare.modality import Modality


def command(modality: Modality) -> click.Command | None:
    """None where the package has no pretraining."""
    options = modality.pretrain_options()
    if options is None:
        return None

    def callback(out: Path, **values: Any) -> None:
        from pt_core.run.declare.options import build_all

        built = build_all({"pretrain": options}, given(values))["pretrain"]
        if out.exists():
            raise UserError(f"{out} exists; choose another --out")
        spec = modality.pretrain(built, out)
        click.echo(f"next: {modality.package} fit METHOD --backbone {spec} --data DIR")

    return click.Command(
        "pretrain",
        help="Pretrain a small backbone on labelled data of your own, or on built-in pictures.",
        callback=callback,
        params=[out_option("File to write (.safetensors).", required=True), *options_of({"pretrain": options})],
    )
