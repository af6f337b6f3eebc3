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

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pt_core.backbone import Edit, Edits as AnyEdits, Features, Insert, KeyValue, Layout
from pt_core.errors import UserError
from pt_core.kernels import fast_paths_enabled, prompt_attention
from timm.models.swin_transformer import (
    PatchMerging,
    SwinTransformerBlock,
    WindowAttention,
    window_partition,
    window_reverse,
)
from torch import Tensor, nn
from torch.nn import functional as F

from pt_vision.adapters._common import (
    Edits,
    Prompt,
    VisionBackbone,
    add_branches,
    apply_values,
    check_key_value,
    enter_block,
    gather_rows,
    lower_inserts,
    merge_key_values,
    narrow,
    project_key_value,
    select,
    split_heads,
)


class SwinStage(NamedTuple):
    """A stage: first block, number of blocks, token width, and grid (rows, columns) at `image_size`."""

    first_block: int
    depth: int
    dim: int
    resolution: tuple[int, int]


class Windows(NamedTuple):
    """Own tokens cut into windows of `area` tokens."""

    tokens: Tensor  # (batch * per_image, area, dim), image by image
    mask: Tensor | None  # shift mask (per_image, area, area)
    per_image: int  # number of windows of an image
    padded: tuple[int, int]  # grid after padding


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
        hidden = apply_values("features", self.module.norm(hidden), layout, edits)
        if read is not None:
            parts, layout = select(layout, read, self.source)
            hidden = narrow(hidden, parts)
        return Features(hidden, layout)

    def lower(self, edits: AnyEdits) -> AnyEdits:
        """Precompute keys and values of prompts that are tensors and dropped after their block; carries no gradient."""
        if not fast_paths_enabled():
            return edits

        def to_key_value(layer: int, edit: Insert) -> KeyValue:
            assert isinstance(edit.tokens, Tensor)
            tokens = edit.tokens if edit.tokens.ndim == 3 else edit.tokens[None]
            width = self.dims[layer]
            if tokens.shape[-1] != width:
                raise UserError(f"prompt tokens {tuple(edit.tokens.shape)} do not fit tokens[{layer}], width {width}")
            return self._key_value(self._blocks[layer], Prompt(tokens.to(self.device, self.dtype), index=edit.index))

        with torch.no_grad():
            return lower_inserts(edits, to_key_value)

    def token_count(self, layer: int) -> int:
        rows, columns = next(s.resolution for s in self.stages if layer < s.first_block + s.depth)
        return rows * columns

    # -- the forward pass ------------------------------------------------------------------------------------

    def _merge(self, downsample: Any, hidden: Tensor, layout: Layout) -> tuple[Tensor, Layout]:
        """Patch merging in front of a stage."""
        if isinstance(downsample, nn.Identity):
            return hidden, layout
        prompt = layout.count("prompt")
        own = downsample(_image(hidden[:, prompt:], layout))
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
            out: Tensor = block(_image(hidden, layout)).flatten(1, 2)
            return out
        normed = block.norm1(hidden)
        key_values = self._checked(layer, extra, hidden)
        if fast_paths_enabled() and not _drops(block):
            merged = merge_key_values([*key_values, *(self._key_value(block, p) for p in prompts)], hidden.shape[0])
            attended = _attend(block, normed, layout, merged)
        else:
            attended = _attend_reference(block, normed, layout, prompts, merge_key_values(key_values, hidden.shape[0]))
        attended = apply_values(f"attn_out[{layer}]", attended, layout, edits)
        hidden = hidden + block.drop_path1(attended)
        result = hidden + block.drop_path2(block.mlp(block.norm2(hidden)))
        return add_branches(f"mlp_in[{layer}]", hidden, layout, edits, result)

    def _key_value(self, block: Any, prompt: Prompt) -> KeyValue:
        k, v = project_key_value(block.attn.qkv, block.attn.num_heads, block.norm1(prompt.tokens))
        return KeyValue(k, v, prompt.index)

    def _checked(self, layer: int, extra: Sequence[Edit], hidden: Tensor) -> list[KeyValue]:
        attn, site = self._blocks[layer].attn, f"kv[{layer}]"
        batch, head_dim = hidden.shape[0], attn.qkv.out_features // 3 // attn.num_heads
        return [check_key_value(site, edit, batch, attn.num_heads, head_dim, hidden.device) for edit in extra]

    # -- pooling ---------------------------------------------------------------------------------------------

    def _default_segments(self) -> tuple[str, ...]:
        return ("token",)

    def _pool(self, features: Features, how: str) -> Tensor:
        """`default` is the head's own pooling over the own tokens; VPT's published pooling on Swin is `all`."""
        parts, layout = select(features.layout, self.pool_segments(how) or ("prompt", "token"), self.source)
        x = narrow(features.tokens, parts)
        head: Any = self.module.head.global_pool
        pooled: Tensor = head(_image(x, layout)) if how == "default" and head.pool_type else x.mean(1)
        return pooled


def _image(hidden: Tensor, layout: Layout) -> Tensor:
    """(batch, rows * columns, dim) -> (batch, row, column, dim)."""
    assert layout.grid is not None
    return hidden.reshape(hidden.shape[0], *layout.grid, hidden.shape[-1])


def _partition(block: Any, normed: Tensor, layout: Layout) -> Windows:
    """timm's cyclic shift, padding and windows of the own tokens (batch, rows * columns, dim)."""
    x = _image(normed, layout)
    if any(block.shift_size):
        x = torch.roll(x, shifts=(-block.shift_size[0], -block.shift_size[1]), dims=(1, 2))
    (rows, columns), (high, wide) = x.shape[1:3], block.window_size
    x = F.pad(x, (0, 0, 0, -columns % wide, 0, -rows % high))
    mask = block.get_attn_mask(x) if getattr(block, "dynamic_mask", False) else block.attn_mask
    padded = (int(x.shape[1]), int(x.shape[2]))
    tokens = window_partition(x, block.window_size).flatten(1, 2)
    return Windows(tokens, mask, padded[0] // high * (padded[1] // wide), padded)


def _reverse(block: Any, tokens: Tensor, windows: Windows, layout: Layout) -> Tensor:
    """The inverse of `_partition`: (batch * per_image, area, dim) -> (batch, rows * columns, dim)."""
    assert layout.grid is not None
    rows, columns = layout.grid
    squares = tokens.reshape(-1, *block.window_size, tokens.shape[-1])
    x: Tensor = window_reverse(squares, block.window_size, *windows.padded)[:, :rows, :columns]
    if any(block.shift_size):
        x = torch.roll(x, shifts=tuple(block.shift_size), dims=(1, 2))
    return x.flatten(1, 2)


def _bias(block: Any, windows: Windows, batch: int, dtype: torch.dtype) -> Tensor:
    """Relative position bias plus shift mask: (1, heads, area, area) or (batch * per_image, heads, area, area)."""
    bias: Tensor = block.attn._get_rel_pos_bias().to(dtype)
    if windows.mask is None:
        return bias
    per_window = bias + windows.mask.to(dtype)[:, None]
    return per_window.expand(batch, *per_window.shape).flatten(0, 1)


def _attend(block: Any, normed: Tensor, layout: Layout, extra: KeyValue | None) -> Tensor:
    """Windowed attention of kept prompts and own tokens over [extra keys | kept prompts | window]."""
    attn, batch, kept = block.attn, normed.shape[0], layout.count("prompt")
    windows = _partition(block, normed[:, kept:], layout)
    q, k, v = split_heads(attn.qkv(windows.tokens), 3, attn.num_heads)
    mask = _bias(block, windows, batch, q.dtype)
    if kept:
        prompts = split_heads(attn.qkv(normed[:, :kept]), 3, attn.num_heads)
        copies = (x.repeat_interleave(windows.per_image, 0) for x in prompts)
        q, k, v = (torch.cat([copy, own], 2) for copy, own in zip(copies, (q, k, v), strict=True))
        mask = F.pad(mask, (kept, 0, kept, 0))
    if extra is None:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=attn.scale)
    else:
        per_row = extra.index is None and extra.k.shape[0] > 1
        pk, pv = (x.repeat_interleave(windows.per_image, 0) if per_row else x for x in (extra.k.to(k), extra.v.to(v)))
        index = None if extra.index is None else extra.index.repeat_interleave(windows.per_image)
        out = prompt_attention(q, k, v, pk, pv, index=index, mask=mask, scale=attn.scale)
    out = out.transpose(1, 2).flatten(2)
    own = _reverse(block, out[:, kept:], windows, layout)
    if kept:
        own = torch.cat([_average(out[:, :kept], windows), own], 1)
    attended: Tensor = attn.proj_drop(attn.proj(own))
    return attended


def _attend_reference(
    block: Any, normed: Tensor, layout: Layout, prompts: Sequence[Prompt], extra: KeyValue | None
) -> Tensor:
    """As `_attend`, with all prompts concatenated as tokens in every window, in the published order of operations."""
    attn, batch, kept = block.attn, normed.shape[0], layout.count("prompt")
    windows = _partition(block, normed[:, kept:], layout)
    dropped = [block.norm1(prompt.per_row(batch)) for prompt in prompts]
    copies = [x.repeat_interleave(windows.per_image, 0) for x in (*dropped, normed[:, :kept])]
    sequence = torch.cat([*copies, windows.tokens], 1)
    lost = sum(x.shape[1] for x in dropped)
    q, k, v = split_heads(attn.qkv(sequence), 3, attn.num_heads)
    mask = F.pad(_bias(block, windows, batch, q.dtype), (lost + kept, 0, lost + kept, 0))
    if extra is not None:
        pk, pv = (
            gather_rows(x, extra.index, batch).repeat_interleave(windows.per_image, 0) for x in (extra.k, extra.v)
        )
        k, v = torch.cat([pk.to(k), k], 2), torch.cat([pv.to(v), v], 2)
        mask = F.pad(mask, (pk.shape[2], 0))
    weights = attn.attn_drop(((q * attn.scale) @ k.transpose(-2, -1) + mask).softmax(-1))
    out = attn.proj_drop(attn.proj((weights @ v).transpose(1, 2).flatten(2)))[:, lost:]
    own = _reverse(block, out[:, kept:], windows, layout)
    if not kept:
        return own
    return torch.cat([_average(out[:, :kept], windows), own], 1)


def _average(copies: Tensor, windows: Windows) -> Tensor:
    """(batch * per_image, prompt, dim) -> (batch, prompt, dim): the mean over the windows of each image."""
    return copies.reshape(-1, windows.per_image, *copies.shape[1:]).mean(1)


def _drops(block: Any) -> bool:
    return bool(block.training and (block.attn.attn_drop.p > 0 or block.attn.proj_drop.p > 0))
