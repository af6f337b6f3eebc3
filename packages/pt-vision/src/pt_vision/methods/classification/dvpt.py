"""Dynamic Visual Prompt Tuning: prompts as queries over a bottleneck of each block's features (He et al., arXiv 2307.09787).

Three variants behind one switch. `paper` follows the abstract: bottleneck, prompts cross-attend over the squeezed features,
up-projection, gated sum beside the frozen MLP. `code_vit` and `code_swin` follow the released code, which does something else: in the
ViT file the cross-attention has no effect; in the Swin file it acts on full-width features before the bottleneck.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge
from pt_core import Add, Backbone, Batch, Edits, Insert, Layout, Task
from pt_core.errors import ConfigError
from pt_core.prompts import normal, overlaid
from torch import Tensor, nn

from pt_vision.bottleneck import Bottleneck, group_blocks
from pt_vision.classification.method import VisionMethod

ID = "dvpt"
TITLE = "DVPT: Dynamic Visual Prompt Tuning of Large Pre-trained Models for Medical Image Analysis"
TUNES = "prompts, shared gated bottlenecks, and a linear head"
NEEDS = {"train": "labelled images"}


@dataclass(frozen=True)
class DVPTConfig:
    variant: Literal["paper", "code_vit", "code_swin"] = "paper"
    """`paper` (ViT), or the released code's `code_vit` and `code_swin`; its `code_segformer` is the method dvpt_seg."""
    prompt_length: Annotated[int, Ge(0)] | None = None
    """p (default: 50 for ViT variants, 10 per block for code_swin)."""
    latent: Annotated[int, Ge(1)] | None = None
    """r, width of the bottleneck (default: 20 for ViT variants, 10 for code_swin)."""
    group: Annotated[int, Ge(1)] = 3
    """s, consecutive blocks that share one bottleneck; counted anew in every stage."""
    activation: Literal["between", "before"] = "between"
    """QuickGELU between the projections (standard bottleneck), or before the first one (the public re-implementation)."""
    scale: Literal["width", "latent"] = "width"
    """Attention scale d^-1/2 or r^-1/2 (variant `paper`)."""


class DVPT(VisionMethod):
    """One block with the bottleneck of its group (variant `paper`), x: (batch, p + 1 + N, d) = [prompts | class | patches]::

        x = x + Attn(LN x)
        h = act(x W_d + b_d), split into q (prompts), c (class), k (patches)
        o = softmax(q k^T d^-1/2) k
        x = x + MLP(LN x) + gate * ([o | c | k] W_u + b_u)

    Parameters, ViT variants: 2 p d + ceil(L / s) (2 d r + r + d + 1) + C e; code_swin: sum over blocks of p d_l + one bottleneck per
    started group of every stage + C e. The head has no bias; e is the width of the pooled feature. It reads the mean of prompts and class
    token; without a class token that of the prompts, and without prompts too what the backbone's own head reads.
    """

    Config = DVPTConfig
    class_tensors = ("head.*",)
    recipe: ClassVar[Mapping[str, Any]] = {
        "optimizer": "adamw",
        "lr": 5e-4,
        "weight_decay": 1e-4,
        "epochs": 60,
        "warmup_epochs": 5,
        "batch_size": 50,
        "clip_norm": 1.0,
    }
    config: DVPTConfig

    def __init__(self, config: DVPTConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        backbone = self.backbone
        backbone.require_tokens()
        swin = config.variant == "code_swin"
        staged = len(set(backbone.dims)) > 1
        if staged and not swin:
            raise ConfigError(
                f"variant={config.variant!r} is undefined on {backbone.source!r}, which has stages; use variant='code_swin'"
            )
        self.length = config.prompt_length if config.prompt_length is not None else (10 if swin else 50)
        latent = config.latent or (10 if swin else 20)
        self.group_of = group_blocks(backbone.dims, config.group)
        dims = {group: backbone.width(layer) for layer, group in enumerate(self.group_of)}
        self.bottlenecks = nn.ModuleList(
            Bottleneck(dims[g], latent, config.activation == "before") for g in sorted(dims)
        )
        if swin:
            self._check_token_counts()
            init = normal(0.02, truncate=True)
            self.block_prompts = nn.ParameterList(nn.Parameter(init((self.length, width))) for width in backbone.dims)
        else:
            dim = backbone.width(0)
            self.prompt = nn.Parameter(torch.randn(self.length, dim))
            self.prompt_position = nn.Parameter(torch.randn(self.length, dim) * dim**-0.5)
        self.head = nn.Linear(backbone.feature_dim, task.outputs, bias=False)

    def _check_token_counts(self) -> None:
        for layer in range(self.backbone.depth):
            if self.length > self.backbone.token_count(layer):
                raise ConfigError(
                    f"prompt_length={self.length} exceeds the {self.backbone.token_count(layer)} tokens of block {layer} of "
                    f"{self.backbone.source!r}; variant 'code_swin' adds prompts to that many tokens"
                )

    def bottleneck(self, layer: int) -> Bottleneck:
        module = self.bottlenecks[self.group_of[layer]]
        assert isinstance(module, Bottleneck)
        return module

    def dynamic(self, layer: int, x: Tensor, layout: Layout) -> Tensor:
        """The branch of block `layer`: (batch, tokens, dim) -> the same shape."""
        module = self.bottleneck(layer)
        h = module.squeeze(x.to(module.down.weight.dtype))  # fp32, also on a half-precision backbone
        if self.config.variant == "paper" and self.length:
            q, k = h[:, layout.slice("prompt")], h[:, layout.slice("token")]
            scale = (x.shape[-1] if self.config.scale == "width" else h.shape[-1]) ** -0.5
            o = torch.softmax(q @ k.transpose(1, 2) * scale, -1) @ k
            # The prompts come first (at="front"), so the rest follows them.
            h = torch.cat([o, h[:, layout.slice("prompt").stop :]], 1)
        return module.expand(h)

    def add_to_first_tokens(self, layer: int, attended: Tensor, layout: Layout) -> Tensor:
        """code_swin: softmax(P a^T d^-1/2) a lands on the first p spatial tokens."""
        prompt = self.block_prompts[layer].to(attended.dtype)
        weights = torch.softmax(prompt @ attended.transpose(1, 2) / math.sqrt(attended.shape[-1]), -1)
        return nn.functional.pad(weights @ attended, (0, 0, 0, attended.shape[1] - self.length))

    def edits(self) -> Edits:
        depth = range(self.backbone.depth)
        branches: dict[str, Any] = {f"mlp_in[{n}]": Add(partial(self.dynamic, n)) for n in depth}
        if not self.length:
            return branches
        if self.config.variant == "code_swin":
            return branches | {f"attn_out[{n}]": Add(partial(self.add_to_first_tokens, n)) for n in depth}
        tokens = self.backbone.enter(self.prompt + self.prompt_position)
        return branches | {"tokens[0]": Insert(tokens, at="front", keep_output=True)}

    def forward(self, batch: Batch) -> Tensor:
        """(batch, class) logits. The ViT head reads the mean of prompts and class token, Swin's the default pooling."""
        backbone = self.backbone
        if self.config.variant == "code_swin":
            return self.classify(backbone.pool(backbone(batch.inputs, self.edits()), "default"))
        read = [kind for kind, there in (("prompt", self.length > 0), ("class", backbone.has_class)) if there]
        if not read:
            return self.classify(backbone.pool(backbone(batch.inputs, self.edits()), "default"))
        return self.classify(backbone(batch.inputs, self.edits(), read=read).tokens.mean(1))

    def resized(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
        """Prompts ask the features each for itself: of a longer or shorter set those are kept that both have."""
        return overlaid(tensor, self.own_tensors()[name]) if "prompt" in name else None
