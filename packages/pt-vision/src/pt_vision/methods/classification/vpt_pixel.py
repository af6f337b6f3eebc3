"""The pixel placements of Visual Prompt Tuning: prompts as pixels instead of tokens (Jia et al., ECCV 2022, arXiv 2203.12119, ablation).

Three places: a learned frame around the picture, a learned strip that the frozen patch convolution turns into tokens, or learned image
channels below the colours with a patch convolution learned anew. The paper finds all of them weaker than tokens. They exist at the
input only; there is no deep form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge
from pt_core import Backbone, Batch, Edits, Insert, Layout, Replace, Stage, Task
from pt_core.errors import ConfigError
from pt_core.prompts import uniform, vpt_bound
from torch import Tensor, nn
from torch.nn import functional as F

from pt_vision.classification.heads import RECIPE, build_head, decay_groups
from pt_vision.classification.method import VisionMethod

ID = "vpt_pixel"
TITLE = "Visual Prompt Tuning (pixel placements)"
TUNES = "a pixel frame, a pixel strip or image channels, and a linear head"
NEEDS = {"train": "labelled images"}


@dataclass(frozen=True)
class VPTPixelConfig:
    location: Literal["pad", "prepend_pixel", "below"] = "pad"
    """`pad`: a frame around the picture; `prepend_pixel`: a strip that becomes tokens; `below`: further image channels."""
    prompt_length: Annotated[int, Ge(1)] = 5
    """p: width of the frame in pixels, tokens of the strip, or number of channels."""
    patch_init: Literal["random", "pretrained"] = "random"
    """`below`: the learned patch convolution starts at U(-v, v) (released ViT code) or, in its colour channels, at the frozen weights."""


class VPTPixel(VisionMethod):
    """y = head(pool(backbone(x; pixel prompts))), for pictures (3, H, W), patches h x w and width d.

    - `pad`: x is shrunk to H - 2p x W - 2p (bilinear, antialiased) and framed by learned pixels, so that the network gets its H x W. The
      pixels are values in [0, 1] at the start, normalised like a picture. (The released code enlarges the input to H + 2p instead and
      resamples the position embeddings; load the backbone with that `image_size` for pictures of the former size.)
    - `prepend_pixel`: a strip (3, h, p w) through the frozen patch convolution gives p tokens behind the class token, without position.
    - `below`: p channels of H x W below the colours, and a patch convolution (3 + p -> d) of the method's own in place of the frozen one.

    `pad` works with every backbone (ViT, Eva, Swin, and as in the paper ResNet and ConvNeXt), the other two with networks whose tokens
    are patch embeddings plus positions (ViT, Eva).

    Parameters, plus C * d + C for the head: pad 6 p (H + W - 2p); prepend_pixel 3 h w p; below p H W + (3 + p) h w d + d.
    """

    Config = VPTPixelConfig
    class_tensors = ("head.*",)
    recipe: ClassVar[Mapping[str, Any]] = RECIPE
    config: VPTPixelConfig
    mean: Tensor
    std: Tensor

    def __init__(self, config: VPTPixelConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        backbone, p = self.backbone, config.prompt_length
        (rows, columns), (high, wide) = backbone.image_size, backbone.patch_size
        self.patch: nn.Conv2d | None = None
        if config.location == "pad":
            if 2 * p >= min(rows, columns):
                raise ConfigError(
                    f"prompt_length={p} leaves nothing of the {rows}x{columns} picture that {backbone.source!r} takes"
                )
            self.across = nn.Parameter(torch.rand(3, 2 * p, columns))
            self.along = nn.Parameter(torch.rand(3, rows - 2 * p, 2 * p))
            for name in ("mean", "std"):
                value = torch.tensor(backbone.preprocessing[name], dtype=torch.float32)
                self.register_buffer(name, value.view(-1, 1, 1), persistent=False)
        else:
            self._convolution()
            draw = uniform(vpt_bound(backbone.patch_size, backbone.width(0)))
            if config.location == "prepend_pixel":
                self.strip = nn.Parameter(draw((3, high, p * wide)))
            else:
                self.channels = nn.Parameter(draw((p, rows, columns)))
                self.patch = self._own_convolution(draw)
        self.head = build_head(backbone.feature_dim, task.outputs)

    def _convolution(self) -> nn.Conv2d:
        """The frozen patch convolution.

        Raises:
            ConfigError: the backbone has none whose outputs are its tokens.
        """
        backbone: Any = self.backbone
        convolution = getattr(getattr(backbone.module, "patch_embed", None), "proj", None)
        if not isinstance(convolution, nn.Conv2d) or "input" not in backbone.sites:
            raise ConfigError(
                f"location={self.config.location!r} needs a backbone whose tokens are patch embeddings plus positions (ViT, Eva); "
                f"{backbone.source!r} is none: use location='pad'"
            )
        return convolution

    def _own_convolution(self, draw: Any) -> nn.Conv2d:
        frozen, size = self._convolution(), self.backbone.patch_size
        own = nn.Conv2d(3 + self.config.prompt_length, frozen.out_channels, size, stride=size)
        assert own.bias is not None
        with torch.no_grad():
            own.weight.copy_(draw(tuple(own.weight.shape)))
            own.bias.zero_()
            if self.config.patch_init == "pretrained":
                own.weight[:, :3].copy_(frozen.weight)
                if frozen.bias is not None:
                    own.bias.copy_(frozen.bias)
        return own

    def frame(self, pixels: Tensor, layout: Layout) -> Tensor:
        """(batch, 3, H, W) -> the same shape: the picture shrunk and framed."""
        p, (rows, columns) = self.config.prompt_length, pixels.shape[2:]
        if (rows, columns) != self.backbone.image_size:
            want = "x".join(map(str, self.backbone.image_size))
            raise ConfigError(f"the frame is made for pictures of {want}, got {rows}x{columns}")
        small = F.interpolate(pixels.float(), (rows - 2 * p, columns - 2 * p), mode="bilinear", antialias=True)
        across, along = (
            ((x - self.mean) / self.std).expand(len(pixels), -1, -1, -1) for x in (self.across, self.along)
        )
        middle = torch.cat([along[..., :p], small, along[..., p:]], 3)
        return torch.cat([across[:, :, :p], middle, across[:, :, p:]], 2)

    def edits(self, batch: Batch) -> Edits:
        """The edits for a batch."""
        if self.config.location == "pad":
            return {"pixels": Replace(self.frame)}
        embed: Any = self.backbone.module.patch_embed
        if self.config.location == "prepend_pixel":
            tokens = embed.norm(_flat(embed.proj(self.strip[None].to(self.backbone.dtype))))
            return {"tokens[0]": Insert(tokens, keep_output=True)}
        own = self.patch
        assert own is not None

        def replace(_: Tensor, layout: Layout) -> Tensor:
            pixels = torch.cat([batch.inputs, self.channels.expand(len(batch), -1, -1, -1)], 1)
            return embed.norm(_flat(own(pixels)).to(self.backbone.dtype))

        return {"input": Replace(replace)}

    def forward(self, batch: Batch) -> Tensor:
        """(batch, class) logits."""
        features = self.backbone(batch.inputs, self.edits(batch), read=self.backbone.pool_segments("default"))
        return self.classify(self.backbone.pool(features))

    def param_groups(self, stage: Stage) -> list[dict[str, Any]]:
        return decay_groups(self, self.head)


def _flat(grid: Tensor) -> Tensor:
    """(batch, dim, row, column) -> (batch, row * column, dim)."""
    return grid.flatten(2).transpose(1, 2)
