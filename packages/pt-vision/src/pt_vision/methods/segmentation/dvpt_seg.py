"""Dynamic Visual Prompt Tuning for segmentation: the variant `code_segformer` of the released code (He et al., arXiv 2307.09787)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Le
from pt_core import Add, Backbone, Batch, Edits, Layout, StepOutput, Task
from pt_core.errors import ConfigError
from pt_core.prompts import normal, overlaid
from torch import Tensor, nn
from torch.nn import functional as F

from pt_vision.bottleneck import Bottleneck, group_blocks
from pt_vision.networks.segformer import resize
from pt_vision.segmentation.method import WindowMethod
from pt_vision.segmentation.mixing import dice_loss
from pt_vision.segmentation.network import CROP

ID = "dvpt_seg"
TITLE = (
    "DVPT: Dynamic Visual Prompt Tuning of Large Pre-trained Models for Medical Image Analysis (variant code_segformer)"
)
TUNES = "prompts per block, shared gated bottlenecks, and a 1x1 classifier"
NEEDS = {"train": "images with masks (--task segmentation)"}
BACKBONES = {"encoder": "fit, predict"}


@dataclass(frozen=True)
class DVPTSegConfig:
    variant: Literal["code_segformer"] = "code_segformer"
    """The only one that is defined for a MiT with SegFormer's decoder; the others are in `dvpt`."""
    prompt_length: Annotated[int, Ge(0)] = 10
    """p, prompts of each block; 0 leaves the bottlenecks alone."""
    latent: Annotated[int, Ge(1)] = 10
    """r, width of the bottlenecks."""
    group: Annotated[int, Ge(1)] = 2
    """s, consecutive blocks that share one bottleneck; counted anew in every stage."""
    classifier_input: Literal["concatenated", "fused"] = "concatenated"
    """What the classifier reads: the decoder's four mapped stages side by side (as released), or its frozen fusion of them."""
    dice_weight: Annotated[float, Ge(0), Le(1)] = 0.5
    """Share of the soft Dice loss; the rest is cross-entropy."""
    crop_size: Annotated[int, Ge(32)] | None = None
    """Side of training crops and inference windows (default: 512 as published, or the backbone's own where it is smaller)."""


class DVPTSeg(WindowMethod):
    """Block l of a frozen MiT, with prompts P_l (p, d) of its own and a bottleneck B shared by s blocks of a stage, x (batch, N, d)::

        x = x + Attn(LN x)
        x[:, :p] += gate2_l * softmax(P_l x^T d^-1/2) x          added to the first p tokens (the top left), as released
        x = x + MLP(LN x) + B(x)                                  B(x) = gate (W_u quickgelu(W_d x + b_d) + b_u)

    The decoder's four frozen linear maps get a bottleneck of their own; their outputs at 1/4, concatenated, go into a 1x1 classifier.
    All gates start at 0: the network starts as the frozen one.

    Parameters: sum_l (p d_l + 1) + sum over groups (2 d r + r + d + 1) + sum over stages (d r + r + r E + E + 1) + K e + K, where E is the
    decoder's width and e = 4 E (E with the fused input). MiT-B4, two classes: 113,920 + 41 + 129,266 + 44,076 + 6,146 = 293,449.
    """

    Config = DVPTSegConfig
    class_tensors = ("classifier.*",)
    recipe: ClassVar[Mapping[str, Any]] = {
        "optimizer": "adamw",
        "lr": 5e-4,
        "weight_decay": 1e-4,
        "epochs": 80,
        "warmup_epochs": 5,
        "batch_size": 10,
        "augment": "flip",
    }
    config: DVPTSegConfig

    def __init__(self, config: DVPTSegConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        backbone = self.backbone
        width = backbone.decoder.width
        self.crop = config.crop_size or min(CROP // 2, int(backbone.preprocessing.get("crop") or CROP))
        self._check_token_counts()
        stages = [stage for stage, depth in enumerate(backbone.depths) for _ in range(depth)]
        self.group_of = group_blocks(stages, config.group)
        dims = {group: backbone.width(layer) for layer, group in enumerate(self.group_of)}
        self.bottlenecks = nn.ModuleList(Bottleneck(dims[group], config.latent) for group in sorted(dims))
        self.decoder_bottlenecks = nn.ModuleList(
            Bottleneck(dim, config.latent, outputs=width) for dim in backbone.stage_dims
        )
        count = config.prompt_length
        init = normal(0.02, truncate=True)
        self.prompts = nn.ParameterList(nn.Parameter(init((count, dim))) for dim in backbone.dims if count)
        self.gates = nn.Parameter(torch.zeros(backbone.depth if count else 0))
        self.classifier = nn.Conv2d((4 if config.classifier_input == "concatenated" else 1) * width, task.outputs, 1)

    def _check_token_counts(self) -> None:
        """The last stage of a crop has few tokens, and prompts are added to p of them."""
        for stage, depth in enumerate(self.backbone.depths):
            tokens = math.ceil(self.crop / (4 * 2**stage)) ** 2
            if depth and self.config.prompt_length > tokens:
                raise ConfigError(
                    f"prompt_length={self.config.prompt_length} exceeds the {tokens} tokens of stage {stage + 1} at crops of {self.crop} "
                    "px; lower it, or raise crop_size"
                )

    def add_to_first_tokens(self, layer: int, x: Tensor, layout: Layout) -> Tensor:
        """gate2 softmax(P x^T d^-1/2) x, on the first p tokens."""
        prompt = self.prompts[layer].to(x.dtype)
        weights = torch.softmax(prompt @ x.transpose(1, 2) / math.sqrt(x.shape[-1]), -1)
        return F.pad(self.gates[layer] * (weights @ x), (0, 0, 0, x.shape[1] - len(prompt)))

    def branch(self, module: nn.Module, x: Tensor, layout: Layout) -> Tensor:
        out: Tensor = module(x.float() if x.dtype in (torch.bfloat16, torch.float16) else x)
        return out

    def edits(self) -> Edits:
        found: dict[str, Any] = {}
        for layer in range(self.backbone.depth):
            found[f"mlp_in[{layer}]"] = Add(partial(self.branch, self.bottlenecks[self.group_of[layer]]))
            if self.config.prompt_length:
                found[f"mid[{layer}]"] = Add(partial(self.add_to_first_tokens, layer))
        for stage, module in enumerate(self.decoder_bottlenecks):
            found[f"decoder[{stage}]"] = Add(partial(self.branch, module))
        return found

    def logits(self, images: Tensor) -> Tensor:
        """(batch, class, row, column) of one window."""
        extra = self.backbone(images, self.edits(), read=["decoder", "fused"][: 1 + self.fused]).extra
        features = extra["fused" if self.fused else "decoder"]
        return resize(self.classifier(features.to(self.classifier.weight.dtype)), images.shape[2:])

    @property
    def fused(self) -> bool:
        return self.config.classifier_input == "fused"

    def training_step(self, batch: Batch) -> StepOutput:
        """Cross-entropy and soft Dice of the batch; the published code applies softmax twice in the latter."""
        output, share = self(batch), self.config.dice_weight
        entropy, _ = self.task.loss(output, batch)
        return StepOutput((1 - share) * entropy + share * dice_loss(output, batch.target), len(batch))

    def resized(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
        """Prompt i is added to token i, whatever their number: those are kept that both have."""
        return overlaid(tensor, self.own_tensors()[name]) if name.startswith("prompts.") else None
