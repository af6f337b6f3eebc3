"""Visual Prompt Tuning: learned tokens join the patch tokens of a frozen ViT or Swin (Jia et al., ECCV 2022, arXiv 2203.12119).

VPT-shallow inserts p tokens before block 1 and lets them evolve. VPT-deep inserts new ones before every block and drops their outputs;
since nobody reads those outputs, deep prompts run as extra keys and values (same values and gradients, see `prompt_attention`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Lt
from pt_core import Add, Backbone, Batch, Edits, Insert, Layout, LoweredEdits, Method, PromptTokens, Stage, Task
from pt_core.errors import ConfigError
from pt_core.prompts import overlaid, uniform, vpt_bound
from pt_core.task import Predictions
from torch import Tensor, nn

from pt_vision.classification.heads import RECIPE, build_head, decay_groups
from pt_vision.classification.method import VisionMethod

ID = "vpt"
TITLE = "Visual Prompt Tuning"
TUNES = "p tokens before the first or before every block, and a linear head"
NEEDS = {"train": "labelled images"}


@dataclass(frozen=True)
class VPTConfig:
    mode: Literal["deep", "shallow"] = "deep"
    """`deep` inserts new prompts before every block, `shallow` before the first one only."""
    prompt_length: Annotated[int, Ge(0)] = 5
    """p, tokens per set. The paper searches 1, 5, 10, 50, 100, 200 per task."""
    prompt_dropout: Annotated[float, Ge(0), Lt(1)] | None = None
    """Dropout of the inserted prompts, one mask per image (default: 0.1 for deep, 0 for shallow, as in the paper)."""
    depth: Annotated[int, Ge(1)] | None = None
    """k, deep prompts in the first k blocks only (default: all)."""
    reverse_depth: bool = False
    """Count `depth` from the last block (then the first block gets no prompts)."""
    after_depth: Literal["keep", "drop"] = "keep"
    """What later blocks see of the prompts of block k: their evolved outputs, or nothing."""
    shared: bool = False
    """One set of prompts reused in every block."""
    location: Literal["prepend", "add", "add_one"] = "prepend"
    """`prepend` inserts tokens; `add` adds a learned vector to every token; `add_one` adds one vector to all tokens."""
    projection: Annotated[int, Ge(1)] | None = None
    """r, store prompts of width r and map them to the backbone's width by a shared linear layer."""
    init: Literal["uniform", "class_means"] = "uniform"
    """Start from U(-v, v), v = sqrt(6 / (3 h w + d)), or from the mean pooled feature of each class."""
    pool: Literal["default", "class", "token", "prompt", "all_but_class", "all"] = "default"
    """What the head reads. `all_but_class` includes the prompts (the official choice for MAE), `all` likewise for Swin."""
    head_layers: Annotated[int, Ge(0)] = 0
    """Hidden layers of the head (Linear, ReLU, BatchNorm, dropout 0.1); 0 is a linear head."""

    def __post_init__(self) -> None:
        if self.location != "prepend" and (self.projection or self.pool == "prompt" or self.init == "class_means"):
            raise ValueError(
                f"location={self.location!r} has no prompt tokens: projection, pool='prompt' and init='class_means' need 'prepend'"
            )
        if self.mode == "shallow" and (self.depth is not None or self.shared or self.reverse_depth):
            raise ValueError("depth, shared and reverse_depth belong to mode='deep'")
        if self.prompt_length == 0 and self.pool == "prompt":
            raise ValueError("pool='prompt' needs prompt_length >= 1")


class VPT(VisionMethod):
    """y = head(pool(backbone(x; prompts))).

    Shapes: prompts (sets, p, d) with sets = 1 (shallow, shared) or the number of prompted blocks; Swin has one such tensor per width.

    Parameters: shallow p * d + C * d + C; deep sum over prompted blocks of p * d_l, + C * d + C.

    The learning rate is not published (it is searched per task between 0.05 and 1000, scaled by batch / 256); the default of 5 is ours.
    """

    Config = VPTConfig
    class_tensors = ("head.*",)
    recipe: ClassVar[Mapping[str, Any]] = RECIPE
    config: VPTConfig

    def __init__(self, config: VPTConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        backbone, deep = self.backbone, config.mode == "deep"
        backbone.require_tokens()
        if config.depth is not None and config.depth > backbone.depth:
            raise ConfigError(f"depth={config.depth} exceeds the {backbone.depth} blocks of {backbone.source!r}")
        if config.init == "class_means" and (config.projection or {*backbone.dims} != {backbone.feature_dim}):
            raise ConfigError(
                f"init='class_means' puts {backbone.feature_dim} pooled features into every block: it needs one width in all blocks "
                f"and no projection; {backbone.source!r} has width {', '.join(map(str, sorted({*backbone.dims})))}"
            )
        count = (config.depth or backbone.depth) if deep else 1
        first = backbone.depth - count if config.reverse_depth else 0
        self.layers = range(first, first + count)
        dropout = config.prompt_dropout if config.prompt_dropout is not None else (0.1 if deep else 0.0)
        # Swin's official prompts use the width of the first stage for the bound of all stages.
        bound = vpt_bound(backbone.patch_size, config.projection or backbone.width(0))
        self.sets = nn.ModuleList()
        for number, (width, run) in enumerate(itertools.groupby(self.layers, backbone.width)):
            sets = 1 if config.shared else len(list(run))
            length = {"prepend": config.prompt_length, "add": backbone.token_count(0), "add_one": 1}[config.location]
            if config.location == "add" and len(backbone.dims) != backbone.dims.count(width):
                raise ConfigError(
                    f"location='add' needs one number of tokens in all blocks; {backbone.source!r} has stages"
                )
            name = f"prompt.{number}"  # sets of another stage draw masks of their own
            self.sets.append(PromptTokens(sets, length, width, uniform(bound), dropout, config.projection, name))
        self.head = build_head(backbone.feature_dim, task.outputs, config.head_layers)
        self.coupled = config.head_layers > 0  # BatchNorm
        self._lowered = LoweredEdits()

    def prompts(self, batch: int) -> Iterator[tuple[int, Tensor]]:
        """(block, prompts) with prompts (p, d), or (batch, p, d) while dropout is active."""
        for tokens, (_, run) in zip(self.sets, itertools.groupby(self.layers, self.backbone.width), strict=True):
            drawn = tokens(batch)
            for number, layer in enumerate(run):
                yield layer, drawn[0 if self.config.shared else number]

    def edits(
        self, batch: int, index: Tensor | None = None, prompts: Sequence[tuple[int, Tensor]] | None = None
    ) -> Edits:
        pairs = list(self.prompts(batch)) if prompts is None else prompts
        if self.config.location != "prepend":
            return {f"tokens[{layer}]": Add(_constant(p)) for layer, p in pairs}
        if self.config.prompt_length == 0:
            return {}
        last, kept = self.layers[-1], self.config.mode == "shallow" or self.config.after_depth == "keep"
        end = self.backbone.depth - 1
        reads_prompts = self.config.pool in ("prompt", "all_but_class", "all")
        # Outputs of the last set stay only where someone reads them: a later block, or the pooling.
        keep = kept and (last < end or reads_prompts)
        return {f"tokens[{layer}]": Insert(p, keep_output=keep and layer == last, index=index) for layer, p in pairs}

    def forward(self, batch: Batch) -> Tensor:
        """(batch, class) logits."""
        if self.training or torch.is_grad_enabled():
            edits = self.edits(len(batch))
        else:
            edits = self._lowered.get(self.backbone, list(self.sets.parameters()), lambda: self.edits(len(batch)))
        return self.classify(self.pooled(batch, edits))

    def pooled(self, batch: Batch, edits: Edits) -> Tensor:
        """(batch, dim): the feature the head reads."""
        features = self.backbone(batch.inputs, edits, read=self.backbone.pool_segments(self.config.pool))
        return self.backbone.pool(features, self.config.pool)

    def stages(self, ctx: Any) -> Iterator[Stage]:
        if self.config.init == "class_means" and self.config.prompt_length:
            yield Stage("init", trains=("sets.*",), streams={}, run=self.start_from_class_means)
        yield Stage("train", tracks=("head.*",) if self.config.head_layers else ())

    @torch.no_grad()
    def start_from_class_means(self, ctx: Any) -> None:
        """Prompt i of every set becomes the mean default-pooled feature of class i modulo C."""
        sums = torch.zeros(self.task.outputs, self.backbone.feature_dim, device=ctx.device)
        counts = torch.zeros(self.task.outputs, 1, device=ctx.device)
        for batch in ctx.batches("train"):
            pooled = self.backbone.pool(self.backbone(batch.inputs), "default").float()
            sums.index_add_(0, batch.target, pooled)
            counts.index_add_(0, batch.target, torch.ones_like(pooled[:, :1]))
        means = sums / counts.clamp(min=1)
        for tokens in self.sets:
            assert isinstance(tokens, PromptTokens)
            rows = torch.arange(tokens.length, device=ctx.device) % len(means)
            tokens.tokens.copy_(means[rows].expand_as(tokens.tokens))

    def resized(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
        """Inserted tokens have no order: of a longer or shorter prompt those are kept that both have. Elsewhere each has a place."""
        prompt = name.startswith("sets.") and name.endswith(".tokens") and self.config.location == "prepend"
        return overlaid(tensor, self.own_tensors()[name], axis=1) if prompt else None

    def param_groups(self, stage: Stage) -> list[dict[str, Any]]:
        return decay_groups(self, self.head)

    @classmethod
    def mixed(cls, methods: Sequence[Method]) -> Callable[[Batch, Tensor], Sequence[Predictions]] | None:
        first = methods[0]
        assert isinstance(first, VPT)
        tenants = [method for method in methods if isinstance(method, VPT)]
        if (
            any(method.config != first.config for method in tenants)
            or first.config.location != "prepend"
            or not first.config.prompt_length
        ):
            return None
        with torch.no_grad():
            rows = [list(method.prompts(1)) for method in tenants]
            stacked = [(layer, torch.stack([row[n][1] for row in rows])) for n, (layer, _) in enumerate(rows[0])]

        def run(batch: Batch, index: Tensor) -> list[Predictions]:
            pooled = first.pooled(batch, first.edits(len(batch), index, stacked))
            return [
                {
                    name: value[:1]
                    for name, value in tenants[int(t)].task.predict(tenants[int(t)].classify(pooled[n : n + 1])).items()
                }
                for n, t in enumerate(index)
            ]

        return run


def _constant(prompt: Tensor) -> Callable[[Tensor, Layout], Tensor]:
    return lambda hidden, _: prompt.expand_as(hidden)
