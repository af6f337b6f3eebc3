"""Context optimisation: the words around a class name become learned vectors (Zhou et al., IJCV 2022, arXiv 2109.01134).

    t(c) = text([SOT | v_1 ... v_M | name of c . EOT]),   logits = exp(tau) cos(image(x), t(c)),   loss = cross-entropy

Only the vectors are tuned, so pictures are encoded once and kept (where they are not augmented), and inference costs what zero-shot costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge
from pt_core import Backbone, Task
from pt_core.errors import ConfigError
from pt_core.prompts import from_vectors, normal, overlaid
from torch import Tensor, nn

from pt_vision.adapters.clip.rows import Context
from pt_vision.clip.method import RECIPE, ClipMethod
from pt_vision.clip.words import context_vectors

ID = "coop"
TITLE = "Learning to Prompt for Vision-Language Models"
TUNES = "M context vectors in the text of the classes"
NEEDS = {"train": "labelled images"}
EXTRA = "clip"


@dataclass(frozen=True)
class CoOpConfig:
    context_length: Annotated[int, Ge(1)] | None = None
    """M, learned vectors (default: 16, or as many as the initial words)."""
    words: str | None = None
    """Initial words, such as "a photo of a"; each has to be one token (default: drawn from N(0, 0.02^2))."""
    class_specific: bool = False
    """A context of its own for every class; it then fits no other classes."""
    name_at: Literal["end", "middle", "front"] = "end"
    """Where the class name stands: behind the context, in its middle, or before it."""


class CoOp(ClipMethod):
    """Shapes: context (M, D_t), or (K, M, D_t) with `class_specific`.

    Parameters: M * D_t; class-specific K * M * D_t.
    """

    Config = CoOpConfig
    recipe: ClassVar[Mapping[str, Any]] = RECIPE
    config: CoOpConfig

    def __init__(self, config: CoOpConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        text = self.backbone.text
        sets: tuple[int, ...] = (task.outputs,) if config.class_specific else ()
        init = normal(0.02)
        length = config.context_length or 16
        if config.words is not None:
            vectors = context_vectors(text, config.words)
            length = len(vectors)
            if config.context_length not in (None, length):
                raise ConfigError(
                    f"words={config.words!r} are {length} tokens, context_length is {config.context_length}; leave one of them out"
                )
            init = from_vectors(vectors)
        self.context = nn.Parameter(init((*sets, length, text.dim)))
        if config.class_specific:
            self.class_tensors = ("context",)
        with torch.no_grad():
            self.check_room(length)

    def check_room(self, length: int) -> None:
        """Refuse a context that does not fit beside every class name, before anything is trained."""
        text: Any = self.backbone.text
        text.rows_for(self.words(), "{}.", length, self.config.name_at)

    def class_vectors(self) -> Tensor:
        """(class, joint)."""
        edits = {"input": Context(self.context, place=self.config.name_at)}
        return self.backbone.text.encode_words(self.words(), ["{}."], edits)

    def resized(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
        return overlaid(tensor, self.own_tensors()[name], axis=tensor.ndim - 2)
