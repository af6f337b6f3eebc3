"""`demo [NAME]`: methods against baselines on built-in data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pt_core.errors import UserError, nearest
from pt_core.run.command.flags import out_option
from pt_core.run.command.runs import free_folder

if TYPE_CHECKING:
    from pt_core.run.declare.modality import Modality


def command(modality: Modality) -> click.Command:
    def callback(name: str | None, seeds: int, fast: bool, out: Path | None) -> None:
        known = {demo.name: demo for demo in modality.demos()}
        if not known:
            raise UserError(f"{modality.package} has no demo")
        chosen = name or next(iter(known))
        if chosen not in known:
            raise UserError(f"no demo {chosen!r}{nearest(chosen, known)}; known: {', '.join(known)}")
        known[chosen].run(modality, out or free_folder(Path("runs"), f"demo-{chosen}"), seeds, fast)

    names = ", ".join(demo.name for demo in modality.demos()) or "none"
    return click.Command(
        "demo",
        help=f"Compare methods on built-in data; nothing is downloaded. Demos: {names}.",
        callback=callback,
        params=[
            click.Argument(["name"], required=False),
            click.Option(
                ["--seeds"],
                type=click.IntRange(1),
                default=1,
                show_default=True,
                help="Seeds per method; mean and std.",
            ),
            click.Option(["--fast"], is_flag=True, help="A short version for checks (<= 20 s)."),
            out_option(),
        ],
    )
