"""timm's VisionTransformer (ViT, DeiT, CLIP, SigLIP, DINO, DINOv2, MAE ...) behind the Backbone contract.

The upstream modules are called, never copied. Where a block is timm's plain `Block` with its plain `Attention`,
prompts whose outputs are dropped cost keys and values only (see `pt_core.kernels.prompt_attention`); for any other
block, and inside `pt_core.kernels.reference_kernels()`, they are concatenated, the upstream block runs, and their
outputs are cut off.

Prompts get no position embedding. They enter behind `norm_pre`, as tokens of block l.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pt_core.backbone import Edits as AnyEdits, Features, KeyValue, Layout
from pt_core.errors import UserError
from pt_core.kernels import fast_paths_enabled, prompt_attention
from timm.models.vision_transformer import Attention, Block  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.nn import functional as F

from pt_vision.adapters.base import VisionBackbone
from pt_vision.adapters.edits import Edits, add_branches, apply_values, enter_block
from pt_vision.adapters.key_values import (
    check_key_values,
    lower_prompts,
    merge_key_values,
    project_key_value,
    prompt_key_value,
    split_heads,
)
from pt_vision.adapters.sequence import Prompt, concatenate, narrow, select

PRUNE_BELOW = 0.9
"""The last block is pruned to what is read if that is less than this share of its tokens: pruning splits a product."""


class VitBackbone(VisionBackbone):
    """A timm `VisionTransformer`.

    Sites: `pixels`, `input`, `tokens[l]`, `features`; with timm's `Block` also `attn_out[l]` and `mlp_in[l]`, and with
    its plain `Attention` also `kv[l]`. `attn_out[l]` is what is added to the residual stream, that is after LayerScale
    where a model has one; the branch of `mlp_in[l]` is added beside the scaled MLP. Edits see kept prompts as the
    segment `prompt`; they never see prompts that are dropped after a block.

    `features` follow `module.norm`. Models that normalise after pooling (MAE, average-pooled ViTs) have an identity
    there and `fc_norm` behind the pooling; `pool` applies it whatever is pooled.
    """

    module: Any

    def __init__(self, module: nn.Module, source: str, preprocessing: Mapping[str, Any] | None = None) -> None:
        super().__init__(module, source, preprocessing)
        blocks = list(module.blocks)  # type: ignore[arg-type]
        self.depth = len(blocks)
        self.dim = self.feature_dim = int(module.embed_dim)  # type: ignore[arg-type]
        self.dims = (self.dim,) * self.depth
        self.num_prefix = int(module.num_prefix_tokens)  # type: ignore[arg-type]
        self.has_class = module.cls_token is not None
        embed: Any = module.patch_embed
        self.patch_size = _pair(embed.patch_size)
        self.image_size = _pair(embed.img_size)
        self.grid = _pair(embed.grid_size)
        self._stepwise = self._known_blocks(blocks)
        self._fast = [self._stepwise and _plain_attention(block) for block in blocks]
        sites = {"pixels", "input", "tokens[l]", "features"}
        sites |= {"attn_out[l]", "mlp_in[l]"} if self._stepwise else set()
        self.sites = frozenset(sites | ({"kv[l]"} if all(self._fast) else set()))

    def encode(self, inputs: Tensor, edits: Edits, read: frozenset[str] | None) -> Features:
        """See `Backbone.__call__`. `inputs`: (batch, channel, row, column)."""
        hidden, layout, rope = self._embed(inputs, edits)
        for layer in range(self.depth):
            hidden, layout, prompts = enter_block(f"tokens[{layer}]", hidden, layout, edits)
            parts = None
            if layer == self.depth - 1 and read is not None and self._may_prune(layer, layout, edits, read):
                parts, left = select(layout, read, self.source)
                hidden = self._block(layer, hidden, layout, prompts, edits, parts, rope)
                layout = left
            else:
                hidden = self._block(layer, hidden, layout, prompts, edits, None, rope)
        return self._output(self.module.norm(hidden), layout, edits, read)

    def lower(self, edits: AnyEdits) -> AnyEdits:
        """See `lower_prompts`."""
        blocks = zip(self.module.blocks, self._fast, strict=True)
        return lower_prompts(self, edits, [block if fast else None for block, fast in blocks])

    def enter(self, tokens: Tensor) -> Tensor:
        entered: Tensor = self.module.norm_pre(tokens.to(self.dtype))
        return entered

    # -- the forward pass ------------------------------------------------------------------------------------

    def _embed(self, inputs: Tensor, edits: Edits) -> tuple[Tensor, Layout, Any]:
        """Everything before block 0: tokens, their layout, and what blocks take besides (rotary embeddings)."""
        module = self.module
        pixels = self._read_pixels(inputs, edits, module.patch_embed)
        x = module.patch_embed(pixels)
        grid = _pair(module.patch_embed.dynamic_feat_size(pixels.shape[2:]))
        if "input" in edits:
            flat = x.flatten(1, -2)
            x = apply_values("input", flat, Layout((("token", flat.shape[1]),), grid), edits).view(x.shape)
        hidden, rope = self._positions(x)
        own = hidden.shape[1] - self.num_prefix
        segments = [("class", int(self.has_class)), ("register", self.num_prefix - int(self.has_class)), ("token", own)]
        # Patch dropout (train mode only) leaves no full grid.
        layout = Layout(tuple(s for s in segments if s[1]), grid if own == grid[0] * grid[1] else None)
        return hidden, layout, rope

    def _positions(self, x: Tensor) -> tuple[Tensor, Any]:
        module = self.module
        return module.norm_pre(module.patch_drop(module._pos_embed(x))), None

    def _block(
        self,
        layer: int,
        hidden: Tensor,
        layout: Layout,
        prompts: list[Prompt],
        edits: Edits,
        parts: list[slice] | None,
        rope: Any,
    ) -> Tensor:
        """Block `layer`; returns the tokens named by `parts` (None: all). `prompts` are attended to and dropped."""
        block = self.module.blocks[layer]
        extra = edits.get(f"kv[{layer}]", ())
        inside = extra or f"attn_out[{layer}]" in edits or f"mlp_in[{layer}]" in edits
        fast = self._fast[layer] and fast_paths_enabled() and not _drops_attention(block)
        if not inside and not (fast and (prompts or parts)):
            joined, own = concatenate(hidden, layout, prompts) if prompts else (hidden, None)
            return narrow(narrow(self._whole(layer, joined, rope), own), parts)
        if fast:
            given = check_key_values(f"kv[{layer}]", extra, hidden, block.attn)
            key_values = [*given, *(prompt_key_value(block, prompt) for prompt in prompts)]
            merged = merge_key_values(key_values, hidden.shape[0])
            normed = block.norm1(hidden)
            attended = self._attention(block, normed, merged, parts) if merged or parts else block.attn(normed)
        else:
            joined, own = concatenate(hidden, layout, prompts) if prompts else (hidden, None)
            merged = merge_key_values(check_key_values(f"kv[{layer}]", extra, hidden, block.attn), hidden.shape[0])
            normed = block.norm1(joined)
            attended = narrow(self._attention(block, normed, merged, None) if merged else block.attn(normed), own)
            attended = narrow(attended, parts)
        return self._residuals(layer, block, narrow(hidden, parts), attended, layout, edits)

    def _whole(self, layer: int, hidden: Tensor, rope: Any) -> Tensor:
        out: Tensor = self.module.blocks[layer](hidden)
        return out

    def _residuals(
        self, layer: int, block: Any, hidden: Tensor, attended: Tensor, layout: Layout, edits: Edits
    ) -> Tensor:
        attended = apply_values(f"attn_out[{layer}]", block.ls1(attended), layout, edits)
        hidden = hidden + block.drop_path1(attended)
        out = hidden + block.drop_path2(block.ls2(block.mlp(block.norm2(hidden))))
        return add_branches(f"mlp_in[{layer}]", hidden, layout, edits, out)

    def _attention(self, block: Any, normed: Tensor, extra: KeyValue | None, parts: list[slice] | None) -> Tensor:
        """timm's `Attention.forward` over [extra keys | own keys], with queries for `parts` only."""
        attn = block.attn
        if _drops_attention(block):
            raise UserError("keys and values cannot be inserted while the backbone's attention dropout is active")
        heads = attn.num_heads
        asking = narrow(normed, parts)
        if parts is None:
            q, k, v = split_heads(attn.qkv(normed), 3, heads)
            q, k = attn.q_norm(q), attn.k_norm(k)
        else:
            inner = heads * attn.head_dim
            bias = None if attn.qkv.bias is None else attn.qkv.bias[:inner]
            (q,) = split_heads(F.linear(asking, attn.qkv.weight[:inner], bias), 1, heads)
            q = attn.q_norm(q)
            k, v = project_key_value(attn.qkv, heads, normed, attn.k_norm)
        if extra is None:
            out = F.scaled_dot_product_attention(q, k, v, scale=attn.scale)
        else:
            pk, pv = extra.k.to(k), extra.v.to(v)
            out = prompt_attention(q, k, v, pk, pv, index=extra.index, scale=attn.scale)
        out = out.transpose(1, 2).flatten(2)
        out = attn.norm(out) if hasattr(attn, "norm") else out
        if getattr(attn, "gate", None) is not None:
            out = out * attn.gate(asking).sigmoid()
        attended: Tensor = attn.proj_drop(attn.proj(out))
        return attended

    def _may_prune(self, layer: int, layout: Layout, edits: Edits, read: frozenset[str]) -> bool:
        """Edits inside the last block or behind it may read any token, so they see all of them."""
        seen = any(site in edits for site in (f"attn_out[{layer}]", f"mlp_in[{layer}]", "features"))
        count = sum(layout.count(kind) for kind in read)
        return self._fast[layer] and not seen and 0 < count < PRUNE_BELOW * len(layout)

    @staticmethod
    def _known_blocks(blocks: Sequence[nn.Module]) -> bool:
        return all(type(block) is Block for block in blocks)

    # -- pooling ---------------------------------------------------------------------------------------------

    def _default_segments(self) -> tuple[str, ...]:
        if hasattr(self.module, "dist_token"):  # DeiT's head averages class and distillation token
            return ("class", "register")
        pooling = self.module.global_pool
        if self._attention_pool() is None and (pooling == "token" or (not pooling and self.has_class)):
            return ("class",)
        return ("class", "register", "token") if self._pools_prefix() else ("token",)

    def _attention_pool(self) -> Any:
        return getattr(self.module, "attn_pool", None)

    def _pools_prefix(self) -> bool:
        return bool(getattr(self.module, "pool_include_prefix", False))

    def _pool(self, features: Features, how: str) -> Tensor:
        read = self.pool_segments(how)
        parts, _ = select(features.layout, read or [kind for kind, _ in features.layout.segments], self.source)
        x = narrow(features.tokens, parts)
        reduce = self.module.global_pool if how == "default" and "token" in (read or ()) else "avg"
        if how == "default" and self._attention_pool() is not None:
            x = self._attention_pool()(x)
        elif reduce == "max":
            x = x.amax(1)
        elif reduce == "avgmax":
            x = 0.5 * (x.amax(1) + x.mean(1))
        else:
            x = x.mean(1)
        pooled: Tensor = self.module.fc_norm(x)
        return pooled


def _plain_attention(block: Any) -> bool:
    """Whether keys and values of a block can be computed outside it, exactly."""
    attn = block.attn
    return type(attn) is Attention and type(attn.qkv) is nn.Linear


def _drops_attention(block: Any) -> bool:
    return bool(block.training and block.attn.attn_drop.p > 0)


def _pair(value: Any) -> tuple[int, int]:
    rows, columns = (value, value) if isinstance(value, int) else value
    return int(rows), int(columns)
