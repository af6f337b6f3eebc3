"""In-context learning: labelled examples in front of the query, nothing is trained (Brown et al., NeurIPS 2020, arXiv 2005.14165).

The baseline that prompts start from: with `examples=0` it is the model's zero-shot answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from pt_core import Backbone, Batch, Dataset, Stage, Task
from pt_core.errors import ConfigError
from pt_core.lowered import Watch
from pt_core.method import View
from torch import Tensor

from pt_language.adapters.base import Prefix
from pt_language.adapters.decoder import DecoderBackbone
from pt_language.context import behind, build_context, choose
from pt_language.method import LanguageMethod

ID = "icl"
TITLE = "Language Models are Few-Shot Learners (in-context learning, baseline)"
TUNES = "nothing: training examples are put before the text"
NEEDS = {"train": "texts with answers"}


@dataclass(frozen=True)
class InContextConfig:
    examples: Annotated[int, Ge(0)] | None = None
    """Training examples shown, spread over the classes (default: all of them; 0: zero-shot)."""
    order_seed: Annotated[int, Ge(0)] = 0
    """Seed of the choice and the order of the examples."""


class InContext(LanguageMethod):
    """logits(ids) = LM([examples; ids]); the examples' keys and values are computed once.

    Parameters: 0 (and C * d + C that are not trained, with a classification head, which this method refuses).
    """

    Config = InContextConfig
    kinds = ("decoder",)
    class_tensors = ("context",)
    sized_by_data = True
    recipe: ClassVar[Mapping[str, Any]] = {"batch_size": 32, "epochs": 1}
    config: InContextConfig
    context: Tensor

    def __init__(self, config: InContextConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        if self.head is not None:
            raise ConfigError("icl trains nothing, so it has no classification head; use --scoring words")
        self.register_buffer("context", torch.zeros(0, dtype=torch.long))
        self._watch = Watch()
        self._cached: Prefix | None = None

    def adopt(self, data: Mapping[str, Dataset]) -> None:
        """Lay out the examples."""
        train: Any = data["train"]
        rows = choose(train, self.config.examples, self.config.order_seed)
        if self.config.examples != 0:
            self.context = build_context(
                [train.sample(row, epoch=None, seed=0) for row in rows], train.end, train.begin
            ).ids
        super().adopt({role: dataset for role, dataset in data.items() if role != "train" or self.config.examples == 0})

    def restore(self, view: View, tensors: Mapping[str, Tensor]) -> None:
        super().restore(view, tensors)
        self._cached = None

    def has_class_tensors(self) -> bool:
        """Examples show the answers of their classes; without any the classes may be others."""
        return len(self.context) > 0

    def front(self) -> int:
        return len(self.context)

    @property
    def begin(self) -> tuple[int, ...]:
        """The examples begin with them."""
        return behind(self.context, super().begin)

    def prefix(self, batch: Batch) -> Prefix | None:
        """The examples' cache, computed once per loaded context and device."""
        if not len(self.context):
            return None
        state = (self.backbone.device, self.backbone.dtype, torch.is_grad_enabled())
        if not self._watch.same([self.context], *state) or self._cached is None:
            assert isinstance(self.backbone, DecoderBackbone)
            embeds = self.backbone.embed(self.context.to(self.backbone.device)[None])
            self._cached = self.backbone.run_prefix(embeds)[0]
        return self._cached

    def stages(self, ctx: Any) -> Iterator[Stage]:
        """None: there is nothing to train."""
        return iter(())
