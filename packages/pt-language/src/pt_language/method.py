"""The base of pt-language's methods: language-model calls with the method's edits, and the optional classification head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from pt_core import Backbone, Batch, Claim, Dataset, Edits, LoweredEdits, Method, Task
from pt_core.artifact import Artifact
from pt_core.backbone import Weights
from pt_core.bridges.transformers import check_length
from pt_core.errors import ConfigError, UserError
from pt_core.method import View
from pt_core.task import Predictions
from torch import Tensor, nn

from pt_language.adapters.base import LanguageBackbone, Prefix
from pt_language.adapters.lengths import by_length
from pt_language.data.tokens import headless
from pt_language.mixing import mixed
from pt_language.tasks.contract import TextTask

RECIPE: Mapping[str, Any] = {
    "optimizer": "adamw",
    "weight_decay": 0.0,
    "batch_size": 32,
    "epochs": 20,
    "schedule": "linear",
    "clip_norm": 1.0,
}
"""What most methods here train with, besides a learning rate of their own."""


class LanguageMethod(Method):
    """A method says what it adds (`edits`, `prefix`, `weights`); tasks get logits, scores and generated text from it.

    Attributes:
        kinds: backbone kinds the method works with.
        static: whether `edits` is the same for every batch, so that inference computes it once.
        head: (C, d) linear head where the task asks for one, else None. Parameters: C * d + C.
        start: `prompt_rows` as training begins: with the data known, or as another run left them.
    """

    kinds: ClassVar[tuple[str, ...]] = ("decoder", "encoder-decoder", "encoder")
    static: ClassVar[bool] = True
    class_tensors = ("head.*",)
    sized_by_data = False

    def __init__(self, config: Any, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        if self.backbone.kind not in self.kinds:
            raise ConfigError(
                f"{type(self).__name__} needs a backbone of kind {' or '.join(self.kinds)}; {self.backbone.source!r} is of kind "
                f"{self.backbone.kind}"
            )
        self.text_task.attach(self.backbone)
        size = self.text_task.head_size
        self.head = nn.Linear(self.backbone.feature_dim, size) if size else None
        self._lowered = LoweredEdits()
        self.start: Tensor | None = None

    @property
    def backbone(self) -> LanguageBackbone:
        return cast("LanguageBackbone", self.backbones["backbone"])

    @property
    def text_task(self) -> TextTask:
        return cast("TextTask", self.task)

    # ---- what a method adds --------------------------------------------------------------------------------------------------

    def edits(self, batch: Batch) -> Edits:
        """The method's edits for a batch."""
        return {}

    def prefix(self, batch: Batch) -> Prefix | None:
        """A prefix that the method computes by itself, instead of edits."""
        return None

    @property
    def weights(self) -> Weights | None:
        """Weights that stand in for the network's own: what the method trains of it, or adds to it."""
        return None

    def front(self) -> int:
        """Positions that the method puts in front of every text."""
        return self.backbone.prompt_length(self.edits(_NO_BATCH)) if self.static else 0

    @property
    def begin(self) -> tuple[int, ...]:
        """Special tokens that a text begins with, behind what the method puts in front of it."""
        return self.text_task.begin

    def texts(self, batch: Batch) -> Mapping[str, Tensor]:
        """What the network reads of a batch."""
        return batch.inputs if self.begin else headless(batch.inputs, self.text_task.begin)

    def prompt_rows(self) -> Tensor | None:
        """(L, d) vectors in the space of token embeddings, for inspection; None where the prompt is of another kind."""
        return None

    # ---- what tasks get --------------------------------------------------------------------------------------------------

    def current_edits(self, batch: Batch) -> Edits:
        """The edits; for inference with fixed prompts, computed once and kept until a tensor changes."""
        if not self.static or self.weights is not None or self.training or torch.is_grad_enabled():
            return self.edits(batch)
        return self._lowered.get(self.backbone, list(self.parameters()), lambda: self.edits(batch))

    def forward(self, batch: Batch) -> Tensor:
        """(batch, answer, vocabulary) logits of the answer's tokens; (batch, class) logits of the head, or of the label words where a batch
        has no answers."""
        weights = self.weights
        if isinstance(weights, Claim) and weights.stochastic and self.training and self.network.recompute:
            raise ConfigError(
                "recompute runs blocks again after the call, when the network no longer draws; leave it out, or stochastic"
            )
        if self.head is not None:
            return self.head_logits(batch)
        if "answer" not in batch.extra and self.text_task.closed:
            return self.text_task.answer(self, batch)["logits"]
        return self.target_logits(batch)

    def predict_step(self, batch: Batch, rng: Callable[[str], torch.Generator]) -> Predictions:
        return self.text_task.answer(self, batch)

    def head_logits(self, batch: Batch) -> Tensor:
        """(batch, class)."""
        assert self.head is not None

        def pooled(part: Batch) -> Tensor:
            return self.network.pooled(part.inputs, self.current_edits(part), self.weights)

        logits: Tensor = self.head(self.together(batch, 0, pooled).to(self.head.weight.dtype))
        return logits

    def target_logits(self, batch: Batch) -> Tensor:
        """(batch, answer, vocabulary)."""

        def scores(part: Batch) -> Tensor:
            return self.network.target_logits(
                part.inputs, part.extra["answer"], self.current_edits(part), self.weights, self.prefix(part)
            )

        return self.together(batch, batch.extra["answer"].shape[1] - 1, scores)

    def choice_scores(self, batch: Batch, choices: Tensor) -> Tensor:
        """(batch, choice)."""

        def scores(part: Batch) -> Tensor:
            return self.network.choice_scores(
                part.inputs, choices, self.current_edits(part), self.weights, self.prefix(part)
            )

        return self.together(batch, choices.shape[1] - 1, scores)

    def generate(self, batch: Batch, max_new_tokens: int, options: Mapping[str, Any]) -> Tensor:
        """(batch, at most max_new_tokens)."""

        def tokens(part: Batch) -> Tensor:
            return self.network.generate(
                part.inputs, max_new_tokens, self.current_edits(part), self.weights, self.prefix(part), options
            )

        return self.together(batch, max_new_tokens, tokens, options.get("pad_token_id") or 0)

    def together(self, batch: Batch, behind: int, fn: Callable[[Batch], Tensor], fill: float = 0) -> Tensor:
        """fn of the batch's texts: of all together, or of those of one length at a time where padding would change results."""
        texts = replace(batch, inputs=self.texts(batch))
        front = 0 if self.network.sizes.window is None else self.front()
        return by_length(self.network, texts, front + behind, fn, fill)

    @property
    def network(self) -> LanguageBackbone:
        """The network that runs: the backbone, or what the method made of it."""
        return self.backbone

    def adopt(self, data: Mapping[str, Dataset]) -> None:
        """Refuse texts that do not fit the context window behind the prompt, before any training."""
        sizes, front = self.backbone.sizes, self.front()
        checks: list[tuple[dict[str, bool], int, int | None]] = [({}, front, sizes.context)]
        if (
            self.backbone.kind == "encoder-decoder"
        ):  # keys and values stand in front of the answer, all else in front of the text
            before = front if any(site.startswith("kv[") for site in self.edits(_NO_BATCH)) else 0
            checks = [({"answer": False}, front - before, sizes.context), ({"text": False}, before, sizes.answer)]
        for role, dataset in data.items():
            longest = getattr(dataset, "longest", None)
            if longest is None or not len(dataset):
                continue
            for what, places, limit in checks:
                tokens, name = longest(**what)
                try:
                    check_length(places, tokens, limit)
                except UserError as error:
                    raise UserError(f"row {name!r} of {role}: {error}, or cut texts with --max-text-tokens") from None
        self.note_start()

    def note_start(self) -> None:
        """Keep the prompt's rows as they are now, to tell their drift later."""
        if any(tensor.is_meta for tensor in self.own_tensors().values()):
            return  # only shapes are looked at
        with torch.no_grad():
            rows = self.prompt_rows()
            self.start = None if rows is None else rows.detach().clone().cpu()

    def restore(self, view: View, tensors: Mapping[str, Tensor]) -> None:
        super().restore(view, tensors)
        self.note_start()

    def warm_start(self, role: str, artifact: Artifact) -> None:
        super().warm_start(role, artifact)
        self.note_start()

    def retarget(self, task: Task) -> Method:
        """The same tensors on classes that are told by other words."""
        view = super().retarget(task)
        cast("TextTask", task).attach(self.backbone)
        return view

    @classmethod
    def bank(cls, methods: Sequence[LanguageMethod]) -> Edits | None:
        """Edits of several tuned methods stacked along a first axis (to be indexed per row), or None where that is not possible."""
        return None

    @classmethod
    def mixed(cls, methods: Sequence[Method]) -> Callable[[Batch, Tensor], Sequence[Predictions]] | None:
        """One forward for rows of several prompts, where all classes are told by words of one token."""
        tenants = [method for method in methods if isinstance(method, cls)]
        return mixed(tenants[0].backbone, [method.task for method in tenants], lambda: cls.bank(tenants))


_NO_BATCH = Batch({}, None, torch.zeros(0, dtype=torch.long), [])
