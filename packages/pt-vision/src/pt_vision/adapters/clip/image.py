"""Image towers of open_clip behind the contract. What goes into the joint space is `features.extra["pooled"]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock
from pt_core.backbone import Features, Insert, KeyValue, Layout
from pt_core.errors import ConfigError, UserError
from pt_core.kernels import fast_paths_enabled, prompt_attention
from torch import Tensor, nn
from torch.nn import functional as F

from pt_vision.adapters.base import VisionBackbone
from pt_vision.adapters.clip.blocks import projected, residual
from pt_vision.adapters.edits import Edits, apply_values, enter_block, resolve_insert
from pt_vision.adapters.key_values import merge_key_values
from pt_vision.adapters.probe import shares
from pt_vision.adapters.sequence import Prompt, concatenate, insert_kept, narrow


class ImageTower(VisionBackbone):
    """An image tower: `pool(features)` is what the text tower's vectors are compared with."""

    pools = ("default",)

    def _pool(self, features: Features, how: str) -> Tensor:
        pooled: Tensor = features.extra["pooled"]
        return pooled

    def _default_segments(self) -> tuple[str, ...]:
        raise TypeError("an image tower pools by itself")

    def pool_segments(self, how: str = "default") -> tuple[str, ...] | None:
        if how not in self.pools:
            raise UserError(f"the image tower of {self.source!r} pools by itself; pool 'default'")
        return None

    def probe_features(self, inputs: Tensor) -> Tensor:
        features = self(inputs)
        return shares([features.tokens, features.extra["pooled"]])

    def _checked_pixels(self, inputs: Tensor, edits: Edits) -> Tensor:
        channels, rows, columns = self.preprocessing["input_size"]
        if inputs.ndim != 4 or inputs.shape[1] != channels or not inputs.is_floating_point():
            raise UserError(
                f"images must be normalised floats (batch, {channels}, rows, columns), got {tuple(inputs.shape)}"
            )
        pixels = apply_values("pixels", inputs, Layout((), (inputs.shape[2], inputs.shape[3])), edits)
        if tuple(pixels.shape[2:]) != (rows, columns):
            shown = "x".join(map(str, pixels.shape[2:]))
            raise UserError(f"images are {shown}, backbone {self.source!r} takes {rows}x{columns}")
        return pixels.to(self.dtype)

    def require_tokens(self) -> None:
        if not self.depth:
            raise ConfigError(
                f"the image tower of {self.source!r} is a {type(self.module).__name__}, which has no token sequence to put prompts into; "
                "choose a ViT, or tune the text side: coop, cocoop"
            )


class ViTImage(ImageTower):
    """open_clip's `VisionTransformer`.

    Sites: `pixels`, `input` (patches), `embedded` (class token and patches with positions, before the first norm; takes kept `Insert`),
    `tokens[l]` (`tokens[0]` follows the first norm), `features` (after the last norm, where it stands before the pooling). Prompts that are
    dropped after a block are extra keys and values there, in blocks with torch's attention; elsewhere they are concatenated.
    """

    module: Any
    has_class = True
    num_prefix = 1
    inserts = frozenset({"embedded", "tokens[l]"})

    def __init__(self, module: nn.Module, source: str, preprocessing: Mapping[str, Any]) -> None:
        super().__init__(module, source, preprocessing)
        blocks = list(self.module.transformer.resblocks)
        self.depth, self.dim = len(blocks), int(self.module.class_embedding.shape[0])
        self.dims = (self.dim,) * self.depth
        self.feature_dim = int(self.module.output_dim)
        self.patch_size, self.image_size = tuple(self.module.patch_size), tuple(self.module.image_size)
        self.grid = tuple(self.module.grid_size)
        self.sites = frozenset({"pixels", "input", "embedded", "tokens[l]", "features"})
        self._fast = [type(block) is ResidualAttentionBlock for block in blocks]

    def encode(self, inputs: Tensor, edits: Edits, read: frozenset[str] | None) -> Features:
        hidden, layout = self._embed(inputs, edits)
        for layer, block in enumerate(self.module.transformer.resblocks):
            hidden, layout, prompts = enter_block(f"tokens[{layer}]", hidden, layout, edits)
            if not prompts:
                hidden = block(hidden)
            elif self._fast[layer] and fast_paths_enabled():
                hidden = _beside(block, hidden, prompts)
            else:
                joined, own = concatenate(hidden, layout, prompts)
                hidden = narrow(block(joined), own)
        return self._pooled(hidden, layout, edits)

    def enter(self, tokens: Tensor) -> Tensor:
        entered: Tensor = self.module.ln_pre(tokens.to(self.dtype))
        return entered

    def _embed(self, inputs: Tensor, edits: Edits) -> tuple[Tensor, Layout]:
        module = self.module
        patches = module.conv1(self._checked_pixels(inputs, edits))
        grid = (int(patches.shape[2]), int(patches.shape[3]))
        own = apply_values(
            "input", patches.flatten(2).transpose(1, 2), Layout((("token", grid[0] * grid[1]),), grid), edits
        )
        first = module.class_embedding.to(own.dtype).expand(len(own), 1, -1)
        hidden = module.patch_dropout(torch.cat([first, own], 1) + module.positional_embedding.to(own.dtype))
        layout = Layout((("class", 1), ("token", hidden.shape[1] - 1)), grid)
        for edit in edits.get("embedded", ()):
            if not isinstance(edit, Insert):
                hidden = apply_values("embedded", hidden, layout, {"embedded": (edit,)})
                continue
            if not edit.keep_output:
                raise UserError(
                    "'embedded' lies before the first norm: prompts there stay in the sequence (keep_output=True)"
                )
            prompt = resolve_insert("embedded", hidden, layout, edit)
            if prompt.tokens.shape[1]:
                hidden, layout = insert_kept("embedded", hidden, layout, prompt, True)
        return module.ln_pre(hidden), layout

    def _pooled(self, hidden: Tensor, layout: Layout, edits: Edits) -> Features:
        """open_clip's pooling over class token and patches; prompts were seen by attention and take no part in it."""
        module = self.module
        late = module.attn_pool is not None or module.final_ln_after_pool
        tokens = hidden if late else module.ln_post(hidden)
        tokens = apply_values("features", tokens, layout, edits)
        prompts = layout.slice("prompt")
        own = (
            torch.cat([tokens[:, : prompts.start], tokens[:, prompts.stop :]], 1) if layout.count("prompt") else tokens
        )
        pooled = module._pool(own)[0] if late else module._global_pool(own)[0]
        if pooled.ndim != 2:
            raise UserError(f"the image tower of {self.source!r} gives tokens, not one vector per image")
        return Features(tokens, layout, {"pooled": pooled if module.proj is None else pooled @ module.proj})


class TimmImage(ImageTower):
    """A timm network under open_clip's head. It has the sites of its own adapter, where there is one for it; else `pixels`."""

    module: Any

    def __init__(
        self, module: Any, source: str, preprocessing: Mapping[str, Any], trunk: VisionBackbone | None
    ) -> None:
        super().__init__(module, source, preprocessing)
        self.trunk = trunk
        rows, columns = (int(side) for side in preprocessing["input_size"][1:])
        self.image_size = (rows, columns)
        if trunk is None:
            self.depth, self.dim, self.dims, self.patch_size, self.grid = 0, 0, (), (1, 1), (1, 1)
            self.sites = frozenset({"pixels"})
        else:
            self.depth, self.dim, self.dims, self.patch_size = trunk.depth, trunk.dim, trunk.dims, trunk.patch_size
            self.grid, self.num_prefix, self.has_class = trunk.grid, trunk.num_prefix, trunk.has_class
            self.sites, self.inserts = trunk.sites, trunk.inserts
        self.feature_dim = 0 if str(self.device) == "meta" else _width(self)

    def encode(self, inputs: Tensor, edits: Edits, read: frozenset[str] | None) -> Features:
        if self.trunk is None:
            pooled = self.module(self._checked_pixels(inputs, edits))
            return Features(pooled[:, None], Layout((("class", 1),)), {"pooled": pooled})
        features = self.trunk.encode(inputs, edits, None)
        trunk: Any = self.module.trunk
        if self.trunk.depth:
            pooled = trunk.head(trunk.head_drop(self.trunk.pool(features)))
        else:
            assert features.layout.grid is not None
            pooled = trunk.forward_head(features.tokens.transpose(1, 2).unflatten(2, features.layout.grid))
        return Features(features.tokens, features.layout, {"pooled": self.module.head(pooled)})

    def enter(self, tokens: Tensor) -> Tensor:
        return tokens if self.trunk is None else self.trunk.enter(tokens)


class WholeImage(ImageTower):
    """A tower without tokens, such as open_clip's ResNets: pictures in, one vector out. Site `pixels`."""

    def __init__(self, module: Any, source: str, preprocessing: Mapping[str, Any]) -> None:
        super().__init__(module, source, preprocessing)
        rows, columns = (int(side) for side in preprocessing["input_size"][1:])
        self.image_size, self.patch_size, self.grid = (rows, columns), (1, 1), (1, 1)
        self.depth, self.dims, self.sites = 0, (), frozenset({"pixels"})
        self.dim = self.feature_dim = int(module.output_dim)

    def encode(self, inputs: Tensor, edits: Edits, read: frozenset[str] | None) -> Features:
        pooled = self.module(self._checked_pixels(inputs, edits))
        return Features(pooled[:, None], Layout((("class", 1),)), {"pooled": pooled})


def _beside(block: Any, hidden: Tensor, prompts: list[Prompt]) -> Tensor:
    """A block whose tokens also attend to prompts, of which only keys and values are computed, once for all rows that share them."""
    q, k, v = projected(block, hidden)
    pairs = [(projected(block, prompt.tokens), prompt.index) for prompt in prompts]
    given = [KeyValue(found[1], found[2], index) for found, index in pairs]
    merged = merge_key_values(given, len(hidden))
    if merged is None:
        return residual(block, hidden, F.scaled_dot_product_attention(q, k, v))
    return residual(block, hidden, prompt_attention(q, k, v, merged.k.to(k), merged.v.to(v), index=merged.index))


def _width(tower: TimmImage) -> int:
    with torch.no_grad():
        blank = torch.zeros(1, *tower.preprocessing["input_size"], device=tower.device, dtype=tower.dtype)
        return int(tower.module(blank).shape[1])
