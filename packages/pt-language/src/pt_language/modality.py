"""pt-language's side of the shared commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pt_language.options import PretrainOptions
from pt_language.text import Text

if TYPE_CHECKING:
    import click


class Language(Text):
    """Text, and the commands, demos and pretraining that only this package has."""

    def commands(self) -> Sequence[click.Command]:
        from pt_language.commands import commands

        return commands(self)

    def pretrain(self, options: PretrainOptions, out: Path) -> str:
        from pt_language.pretrain.config import PretrainConfig
        from pt_language.pretrain.train import pretrain

        pretrain(PretrainConfig(**asdict(options)), out)
        return f"local:{out}"
