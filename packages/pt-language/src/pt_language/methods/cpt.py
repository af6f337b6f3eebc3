"""Context-aware Prompt Tuning: labelled examples as context, refined inside small balls (Blau et al., 2024, arXiv 2410.17222).

prompt = E0 + delta, with E0 (L, d) the frozen embeddings of the context and delta (L, d) trained, such that
- only input and template tokens move (type codes mod 4 in 1, 2, 3); labels, separators and end tokens keep delta = 0;
- after every step each row is projected into its ball: ||delta_j|| <= eps_j, eps_input or eps_format times sqrt(d / 2048);
- the loss is taken on the query's label and on the labels inside the context, older ones with weight gamma^age.

The context runs once per step with batch 1: its keys and values are shared by all queries, and its own label losses are computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from pt_core import Backbone, Batch, Dataset, Stage, StepOutput, Task
from pt_core.artifact import Artifact
from pt_core.bridges.answers import IGNORED
from pt_core.errors import ArtifactError, ConfigError
from pt_core.kernels._mode import fast_paths_enabled
from pt_core.lowered import Watch
from pt_core.method import View
from torch import Tensor, nn
from torch.nn import functional as F

from pt_language.adapters.base import Prefix
from pt_language.adapters.decoder import DecoderBackbone
from pt_language.adapters.logits import wide
from pt_language.context import behind, build_context, check_codes, choose
from pt_language.method import LanguageMethod

ID = "cpt"
TITLE = "Context-aware Prompt Tuning: Advancing In-Context Learning with Adversarial Methods"
TUNES = "the embeddings of in-context examples, inside small balls"
NEEDS = {"train": "texts with answers"}


@dataclass(frozen=True)
class CPTConfig:
    examples: Annotated[int, Ge(1)] | None = None
    """k, training examples that form the context, spread over the classes (default: all, as in the paper)."""
    queries: Literal["all", "others"] = "all"
    """Train on all examples, those of the context included (the paper), or only on the others (the released demo)."""
    epsilon_input: Annotated[float, Ge(0)] = 0.1
    """Radius of input tokens, times sqrt(d / 2048)."""
    epsilon_format: Annotated[float, Ge(0)] = 0.1
    """Radius of template tokens, times sqrt(d / 2048)."""
    weighting: Literal["decay", "none"] = "decay"
    """Weights of the label losses: gamma^age, or all 1."""
    gamma: Annotated[float, Gt(0), Le(1)] = 0.95
    """Decay per example, counted back from the query."""
    order_seed: Annotated[int, Ge(0)] = 0
    """Seed of the choice and the order of the examples."""


class CPT(LanguageMethod):
    """loss = mean over labelled tokens of w_g CE, w = 1 for the query, gamma, gamma^2, ... for older and older context examples.

    Shapes: context ids and codes (L,), E0 and delta (L, d). Parameters: L * d, of which d * #(codes mod 4 in 1, 2, 3) can change.

    The number of labelled tokens is the unit of the loss, context labels counted once per query, as the released code does.
    """

    Config = CPTConfig
    kinds = ("decoder",)
    class_tensors = ("*",)  # the context shows the answers of its classes
    sized_by_data = True
    recipe: ClassVar[Mapping[str, Any]] = {
        "optimizer": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.0,
        "batch_size": 16,
        "epochs": 25,
        "schedule": "linear",
    }
    config: CPTConfig
    ids: Tensor
    codes: Tensor

    def __init__(self, config: CPTConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        if self.head is not None:
            raise ConfigError("cpt refines label words in context, it has no classification head; use --scoring words")
        self.register_buffer("ids", torch.zeros(0, dtype=torch.long))
        self.register_buffer("codes", torch.zeros(0, dtype=torch.long))
        self.delta = nn.Parameter(torch.zeros(0, self.backbone.dim))
        self.rows: list[int] = []
        self._watch = Watch()
        self._cached: Prefix | None = None

    # ---- the context -----------------------------------------------------------------------------------------------------

    def adopt(self, data: Mapping[str, Dataset]) -> None:
        """Lay out the context; with queries='others' its examples are left out of the training stream."""
        train: Any = data["train"]
        self.rows = choose(train, self.config.examples, self.config.order_seed)
        if self.config.queries == "others" and len(self.rows) >= len(train):
            raise ConfigError(f"queries='others' leaves no training query: examples must be below {len(train)}")
        context = build_context([train.sample(row, epoch=None, seed=0) for row in self.rows], train.end, train.begin)
        self.set_context(context.ids, context.codes)
        super().adopt(data)

    def set_context(self, ids: Tensor, codes: Tensor) -> None:
        """Use a context of token ids and type codes, unrefined."""
        check_codes(ids, codes)
        device = self.delta.device
        self.ids, self.codes = ids.clone().to(device), codes.clone().to(device)
        self.delta = nn.Parameter(torch.zeros(len(ids), self.backbone.dim, device=device))
        self._cached = None

    def restore(self, view: View, tensors: Mapping[str, Tensor]) -> None:
        """Sizes the context by the artifact."""
        if view == "predict" and {"ids", "codes", "delta"} <= set(tensors):
            try:
                check_codes(tensors["ids"], tensors["codes"])
            except ValueError as error:
                raise ArtifactError(f"the stored context is not valid: {error}") from None
            if len(tensors["ids"]) and not 0 <= int(tensors["ids"].min()) <= int(tensors["ids"].max()) < len(
                self.backbone.embeddings
            ):
                raise ArtifactError(f"the stored context has token ids outside 0..{len(self.backbone.embeddings) - 1}")
            self.set_context(tensors["ids"], tensors["codes"])
        super().restore(view, tensors)
        self._cached = None

    def warm_start(self, role: str, artifact: Artifact) -> None:
        """The earlier run's context, as it was refined; a context of its own where the classes differ."""
        labels = artifact.card["task"].get("labels")
        given = artifact.tensors
        if {"ids", "codes"} <= set(given) and (labels is None or list(labels) == list(self.task.class_names())):
            self.set_context(given["ids"], given["codes"])
        super().warm_start(role, artifact)

    def front(self) -> int:
        return len(self.ids)

    @property
    def begin(self) -> tuple[int, ...]:
        """The context begins with them."""
        return behind(self.ids, super().begin)

    @property
    def movable(self) -> Tensor:
        """(L,) which rows may move."""
        return self.codes % 4 != 0

    @property
    def radii(self) -> Tensor:
        """(L,) eps_j; 0 for rows that may not move (the released code has 1e-10 there)."""
        scale = (self.backbone.dim / 2048) ** 0.5
        role = self.codes % 4
        radius = torch.where(role == 2, self.config.epsilon_input, self.config.epsilon_format) * scale
        return torch.where(self.movable, radius, torch.zeros_like(radius))

    def prompt(self) -> Tensor:
        """(L, d) float32: E0 + delta. Rows that may not move get neither gradient nor change."""
        moved = torch.where(self.movable[:, None], self.delta, torch.zeros_like(self.delta))
        return wide(self.backbone.embed(self.ids)) + moved

    def prompt_rows(self) -> Tensor:
        return self.prompt()

    @torch.no_grad()
    def project(self, ctx: Any = None) -> None:
        """Bring rows that left their ball back to its surface; rows inside stay as they are, bit for bit."""
        norm, radius = self.delta.norm(dim=1), self.radii
        over = norm > radius
        self.delta[over] *= (radius[over] / norm[over])[:, None]

    # ---- forward ---------------------------------------------------------------------------------------------------------

    def prefix(self, batch: Batch) -> Prefix:
        """The refined context's cache; outside training it is computed once."""
        assert isinstance(self.backbone, DecoderBackbone)
        if torch.is_grad_enabled():
            return self.backbone.run_prefix(self.prompt()[None])[0]
        tensors, state = [self.delta, self.ids], (self.backbone.device, self.backbone.dtype, fast_paths_enabled())
        if not self._watch.same(tensors, *state) or self._cached is None:
            self._cached = self.backbone.run_prefix(self.prompt()[None])[0]
        return self._cached

    def training_step(self, batch: Batch) -> StepOutput:
        """The weighted loss over query and context labels. Labelled tokens are counted; context labels once per query."""
        assert isinstance(self.backbone, DecoderBackbone)
        asked = torch.ones(len(batch), dtype=torch.bool, device=batch.index.device)
        if self.config.queries == "others":
            asked = ~torch.isin(batch.index, torch.tensor(self.rows, device=batch.index.device))
        answer = batch.extra["answer"].masked_fill(~asked[:, None], IGNORED)
        rows, length = int(asked.sum()), len(self.ids)
        masked = replace(batch, extra={**batch.extra, "answer": answer})
        fast = fast_paths_enabled()
        # The plain path: every row runs the whole context.
        front = self.prompt()[None] if fast else self.prompt()[None].expand(len(batch), -1, -1)
        run = self.backbone.run_prefix
        prefix, shown = run(front, keep=length)
        context_losses = self.context_losses(shown) * rows if fast else self.context_losses(shown[asked])

        def scores(part: Batch) -> Tensor:
            own = prefix if fast else run(front[: len(part)])[0]
            return self.backbone.target_logits(part.inputs, part.extra["answer"], prefix=own)

        logits = self.together(masked, answer.shape[1] - 1, scores)
        losses = F.cross_entropy(wide(logits).flatten(0, 1), answer.flatten(), reduction="sum", ignore_index=IGNORED)
        own = int((answer != IGNORED).sum())
        count = own + rows * int(self.labelled.sum())
        loss = (losses + context_losses) / max(1, count)
        return StepOutput(loss, count, {"query_loss": losses.detach() / max(1, own)})

    @property
    def labelled(self) -> Tensor:
        """(L,) which context tokens are labels that have a token before them."""
        found = (self.codes > 0) & (self.codes % 4 == 0)
        found[0] = False
        return found

    def context_losses(self, logits: Tensor) -> Tensor:
        """Weighted sum of the context labels' losses over the rows of logits (rows, L, vocabulary)."""
        where = self.labelled.nonzero().flatten()
        weights = self.label_weights()[where]
        target = self.ids[where].expand(len(logits), -1)
        each = F.cross_entropy(wide(logits[:, where - 1]).flatten(0, 1), target.flatten(), reduction="none")
        return (each.view(target.shape) * weights).sum()

    def label_weights(self) -> Tensor:
        """(L,) gamma^age of the example a label belongs to: the last example has age 1, the query age 0."""
        example = torch.div(self.codes + 3, 4, rounding_mode="floor")
        age = example.max() - example + 1
        gamma = self.config.gamma if self.config.weighting == "decay" else 1.0
        return torch.where(self.labelled, gamma ** age.float(), torch.zeros_like(age, dtype=torch.float32))

    def stages(self, ctx: Any) -> Iterator[Stage]:
        yield Stage("train", after_step=self.project)
