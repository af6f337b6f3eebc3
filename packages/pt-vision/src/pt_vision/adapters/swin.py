"""timm's SwinTransformer (v1) behind the Backbone contract.

Prompts in a windowed network (Jia et al. 2022, VPT): inside a block every window of an image gets its own copy of the
image's prompts and attends over [prompts | window]; relative position bias and shift mask are 0 wherever a prompt takes
part. Copies of kept prompts are averaged over the windows of their image afterwards. Between stages a kept prompt is
repeated four times along its channels and goes through the patch merging's norm and reduction.

Windows lie image by image in memory (row = image * windows + window), so copies are made by `repeat_interleave`.
Copying the whole batch instead would hand prompts of one image to windows of another, a defect of the published code.

Dropped prompts need no query, output or MLP. Copies of kept prompts share one projection per image, and their average
is taken before the output projection, which is linear. The reference concatenates tokens per window, product by
product.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pt_core.backbone import Edits as AnyEdits, Features, Layout
from pt_core.errors import UserError
from pt_core.kernels import fast_paths_enabled
from timm.models.swin_transformer import (
    PatchMerging,
    SwinTransformerBlock,
    WindowAttention,
)
from torch import Tensor, nn

from pt_vision.adapters.base import VisionBackbone
from pt_vision.adapters.edits import Edits, add_branches, apply_values, enter_block
from pt_vision.adapters.key_values import check_key_values, lower_prompts, merge_key_values, prompt_key_value
from pt_vision.adapters.sequence import Prompt, narrow, select
from pt_vision.adapters.windows import as_image, attend, attend_reference


class SwinStage(NamedTuple):
    """A stage: first block, number of blocks, token width, and grid (rows, columns) at `image_size`."""

    first_block: int
    depth: int
    dim: int
    resolution: tuple[int, int]


class SwinBackbone(VisionBackbone):
    """A timm `SwinTransformer`.

    Sites: `pixels`, `tokens[l]`, `kv[l]`, `attn_out[l]` (windows put back, before the residual), `mlp_in[l]`,
    `features`. Hidden states are (batch, [prompt +] rows * columns, dim) in raster order; kept prompts come first. `l`
    counts the blocks of all stages, `width(l)` differs per stage, and `tokens[l]` of a stage's first block lies behind
    the patch merging.

    Attributes:
        stages: first block, depth, width and resolution of every stage.
    """

    module: Any
    stages: tuple[SwinStage, ...]
    pools = ("default", "token", "prompt", "all_but_class", "all", "class")

    def __init__(self, module: nn.Module, source: str, preprocessing: Mapping[str, Any] | None = None) -> None:
        super().__init__(module, source, preprocessing)
        self._blocks: list[Any] = []
        self._first: dict[int, Any] = {}
        stages = []
        for stage in module.layers:  # type: ignore[union-attr]
            first = len(self._blocks)
            if type(stage.downsample) not in (PatchMerging, nn.Identity):
                raise UserError(
                    f"backbone {source!r}: patch merging {type(stage.downsample).__name__} is not supported"
                )
            self._first[first] = stage.downsample
            for block in stage.blocks:
                if type(block) is not SwinTransformerBlock or type(block.attn) is not WindowAttention:
                    raise UserError(f"backbone {source!r}: Swin block {type(block).__name__} is not supported")
                self._blocks.append(block)
            rows, columns = stage.output_resolution
            stages.append(SwinStage(first, len(stage.blocks), int(stage.blocks[0].dim), (int(rows), int(columns))))
        self.stages = tuple(stages)
        self.depth = len(self._blocks)
        self.dims = tuple(stage.dim for stage in stages for _ in range(stage.depth))
        self.dim = self.dims[-1]
        self.feature_dim = int(module.head.num_features)  # type: ignore[union-attr, arg-type]
        embed: Any = module.patch_embed
        self.patch_size = tuple(embed.patch_size)
        self.image_size = tuple(embed.img_size)
        self.grid = stages[-1].resolution
        self.sites = frozenset({"pixels", "tokens[l]", "kv[l]", "attn_out[l]", "mlp_in[l]", "features"})

    def encode(self, inputs: Tensor, edits: Edits, read: frozenset[str] | None) -> Features:
        """See `Backbone.__call__`. `inputs`: (batch, channel, row, column)."""
        x = self.module.patch_embed(self._read_pixels(inputs, edits, self.module.patch_embed))
        grid = (int(x.shape[1]), int(x.shape[2]))
        hidden, layout = x.flatten(1, 2), Layout((("token", grid[0] * grid[1]),), grid)
        for layer in range(self.depth):
            if layer in self._first:
                hidden, layout = self._merge(self._first[layer], hidden, layout)
            hidden, layout, prompts = enter_block(f"tokens[{layer}]", hidden, layout, edits, prefix=False)
            hidden = self._block(layer, hidden, layout, prompts, edits)
        return self._output(self.module.norm(hidden), layout, edits, read)

    def lower(self, edits: AnyEdits) -> AnyEdits:
        """See `lower_prompts`."""
        return lower_prompts(self, edits, self._blocks)

    def token_count(self, layer: int) -> int:
        rows, columns = next(s.resolution for s in self.stages if layer < s.first_block + s.depth)
        return rows * columns

    # -- the forward pass ------------------------------------------------------------------------------------

    def _merge(self, downsample: Any, hidden: Tensor, layout: Layout) -> tuple[Tensor, Layout]:
        """Patch merging in front of a stage."""
        if isinstance(downsample, nn.Identity):
            return hidden, layout
        prompt = layout.count("prompt")
        own = downsample(as_image(hidden[:, prompt:], layout))
        grid = (int(own.shape[1]), int(own.shape[2]))
        hidden_next, segments = own.flatten(1, 2), (("token", grid[0] * grid[1]),)
        if not prompt:
            return hidden_next, Layout(segments, grid)
        kept = downsample.reduction(downsample.norm(hidden[:, :prompt].repeat(1, 1, 4)))
        return torch.cat([kept.to(hidden_next.dtype), hidden_next], 1), Layout((("prompt", prompt), *segments), grid)

    def _block(self, layer: int, hidden: Tensor, layout: Layout, prompts: list[Prompt], edits: Edits) -> Tensor:
        """Block `layer`; `prompts` are attended to and dropped."""
        block = self._blocks[layer]
        extra = edits.get(f"kv[{layer}]", ())
        kept = layout.count("prompt")
        inside = extra or f"attn_out[{layer}]" in edits or f"mlp_in[{layer}]" in edits
        if not (inside or prompts or kept):
            out: Tensor = block(as_image(hidden, layout)).flatten(1, 2)
            return out
        normed = block.norm1(hidden)
        key_values = check_key_values(f"kv[{layer}]", extra, hidden, block.attn)
        if fast_paths_enabled() and not _drops(block):
            merged = merge_key_values([*key_values, *(prompt_key_value(block, p) for p in prompts)], hidden.shape[0])
            attended = attend(block, normed, layout, merged)
        else:
            attended = attend_reference(block, normed, layout, prompts, merge_key_values(key_values, hidden.shape[0]))
        attended = apply_values(f"attn_out[{layer}]", attended, layout, edits)
        hidden = hidden + block.drop_path1(attended)
        result = hidden + block.drop_path2(block.mlp(block.norm2(hidden)))
        return add_branches(f"mlp_in[{layer}]", hidden, layout, edits, result)

    # -- pooling ---------------------------------------------------------------------------------------------

    def _default_segments(self) -> tuple[str, ...]:
        return ("token",)

    def _pool(self, features: Features, how: str) -> Tensor:
        """`default` is the head's own pooling over the own tokens; VPT's published pooling on Swin is `all`."""
        parts, layout = select(features.layout, self.pool_segments(how) or ("prompt", "token"), self.source)
        x = narrow(features.tokens, parts)
        head: Any = self.module.head.global_pool
        pooled: Tensor = head(as_image(x, layout)) if how == "default" and head.pool_type else x.mean(1)
        return pooled


def _drops(block: Any) -> bool:
    return bool(block.training and (block.attn.attn_drop.p > 0 or block.attn.proj_drop.p > 0))
