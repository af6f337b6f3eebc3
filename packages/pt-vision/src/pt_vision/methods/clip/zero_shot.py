"""Zero-shot classification by names (Radford et al., ICML 2021, arXiv 2103.00020): nothing is tuned, class names suffice.

Several templates are an ensemble: every template's text vector is normalised, they are averaged, and the mean is normalised again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pt_core import Stage
from pt_core.errors import ConfigError
from torch import Tensor

from pt_vision.clip.method import ClipMethod, mean_of_texts

ID = "zero_shot"
TITLE = "Learning Transferable Visual Models From Natural Language Supervision (zero-shot baseline)"
TUNES = "nothing"
NEEDS = {}  # type: ignore[var-annotated]
EXTRA = "clip"

SEVEN = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""The selected ImageNet templates that CoOp's zero-shot baseline averages."""


@dataclass(frozen=True)
class ZeroShotConfig:
    template: str = "a photo of a {}."
    """Text of a class, with {} in its name's place; several with | between them are averaged."""
    ensemble: Literal["none", "seven"] = "none"
    """`seven` adds the seven selected ImageNet templates."""
    descriptions: bool = False
    """Use the texts that --class-names FILE.json gives for every class, in place of templates."""

    def __post_init__(self) -> None:
        for text in self.template.split("|"):
            if text.count("{}") != 1:
                raise ValueError(f"template {text!r} needs the class name's place, {{}}, once")

    def templates(self) -> tuple[str, ...]:
        return (*self.template.split("|"), *(SEVEN if self.ensemble == "seven" else ()))


class ZeroShot(ClipMethod):
    """logits = scale cos(image(x), mean over templates of text(template(class))).

    Parameters: 0.
    """

    Config = ZeroShotConfig
    config: ZeroShotConfig

    def stages(self, ctx: Any) -> Iterator[Stage]:
        yield from ()

    @torch.no_grad()
    def class_vectors(self) -> Tensor:
        """(class, joint)."""
        text, names = self.backbone.text, self.words()
        if not self.config.descriptions:
            return mean_of_texts([text.encode_words(names, [template]) for template in self.config.templates()])
        texts = self.task.class_texts()
        missing = [name for name in self.task.class_names() if not texts.get(name)]
        if missing:
            raise ConfigError(
                f"descriptions: class {missing[0]!r} has no text; give --class-names FILE.json with a list of texts per class"
            )
        rows = []
        for name in self.task.class_names():
            vectors = torch.nn.functional.normalize(text.encode_words(list(texts[name])), dim=-1)
            rows.append(torch.nn.functional.normalize(vectors.mean(0), dim=-1))
        return torch.stack(rows)
