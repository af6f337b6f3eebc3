"""A backbone that reads images: sizes, pooling, and what all adapters do with pixels and with the last block's tokens."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from pt_core.backbone import Backbone, Claim, Features, Layout
from pt_core.errors import ConfigError, UserError, nearest
from torch import Tensor

from pt_vision.adapters.edits import Edits, apply_values
from pt_vision.adapters.probe import pictures, shares
from pt_vision.adapters.sequence import narrow, select


class VisionBackbone(Backbone):
    """A backbone that reads images (batch, channel, row, column), normalised floats.

    Attributes:
        dims: token width per block.
        feature_dim: width of what `pool` returns.
        patch_size, image_size: (rows, columns) in pixels.
        grid: (rows, columns) of the own tokens that leave the last block, at `image_size`.
        num_prefix: class and register tokens in front of the own tokens.
        has_class: whether there is a class token.
        notes: remarks of the loader that a user should see.
    """

    dims: tuple[int, ...]
    feature_dim: int
    patch_size: tuple[int, int]
    image_size: tuple[int, int]
    grid: tuple[int, int]
    num_prefix: int = 0
    has_class: bool = False
    notes: tuple[str, ...] = ()
    pools: tuple[str, ...] = ("default", "class", "token", "prompt", "all_but_class", "all")

    def width(self, layer: int) -> int:
        return self.dims[layer]

    def require_tokens(self) -> None:
        """Refuse a network that has no tokens to put prompts beside.

        Raises:
            ConfigError: names the network, and the method that works on it.
        """
        if not self.depth:
            raise ConfigError(
                f"backbone {self.source!r} is a {type(self.module).__name__}, which has no token sequence to put prompts into; "
                "choose a ViT, Eva or Swin, or tune pixels around its pictures: vpt_pixel --location pad"
            )

    def token_count(self, layer: int) -> int:
        """Tokens that enter block `layer` at `image_size`, prompts not counted."""
        return self.num_prefix + self.grid[0] * self.grid[1]

    def enter(self, tokens: Tensor) -> Tensor:
        """What embedded tokens go through before block 0 (a norm in CLIP-style models); for prompts that go there."""
        return tokens

    def probe(self) -> Tensor:
        """Two faint pictures of the network's own size."""
        channels = int(self.preprocessing["input_size"][0])
        return pictures(channels, *self.image_size)

    def probe_features(self, inputs: Tensor) -> Tensor:
        """Of the tokens, and of what the network's own pooling makes of them."""
        features = self(inputs)
        return shares([features.tokens, self.pool(features)])

    def pool(self, features: Features, how: str = "default", *, weights: Claim | None = None) -> Tensor:
        """One vector per image.

        Args:
            features: what the backbone returned, with at least the segments of `pool_segments(how)`.
            how: `default` (what the backbone's own head reads), `class`, `token` (mean of the input's own tokens),
                `prompt` (mean of the kept prompts), `all_but_class` (mean of own tokens, registers and kept prompts),
                `all` (mean of everything).
            weights: the claimed weights that produced `features`, where pooling itself has weights.

        Returns:
            (batch, feature_dim)

        Raises:
            UserError: an unknown pooling, or one that reads tokens which are not there.
        """
        self.pool_segments(how)
        if weights is None:
            return self._pool(features, how)
        swapped = {f"module.{name}": tensor for name, tensor in weights.tensors().items()}
        run: Any = lambda: self._pool(features, how)  # noqa: E731
        result: Any = torch.func.functional_call(self._call, swapped, (run,), tie_weights=True, strict=False)
        pooled: Tensor = result
        return pooled

    def pool_segments(self, how: str = "default") -> tuple[str, ...] | None:
        """The segments that `pool(..., how)` reads: pass them as `read`. None: all of them.

        Raises:
            UserError: an unknown pooling, or one that this backbone cannot do.
        """
        if how not in self.pools:
            raise UserError(f"unknown pooling {how!r}{nearest(how, self.pools)}; known: {', '.join(self.pools)}")
        if how == "class" and not self.has_class:
            raise UserError(f"backbone {self.source!r} has no class token; pool 'token' or 'default'")
        if how == "all":
            return None
        if how == "all_but_class":
            return ("prompt", "register", "token")
        return self._default_segments() if how == "default" else (how,)

    @abstractmethod
    def _default_segments(self) -> tuple[str, ...]:
        """The segments that the default pooling reads."""

    @abstractmethod
    def _pool(self, features: Features, how: str) -> Tensor:
        """(batch, dim) of the features by a pooling of `pools`."""

    def _read_pixels(self, inputs: Tensor, edits: Edits, patch_embed: Any) -> Tensor:
        """Check the images, apply the edits of `pixels`, and cast to the backbone's dtype."""
        channels = patch_embed.proj.in_channels if hasattr(patch_embed.proj, "in_channels") else 3
        if inputs.ndim != 4 or inputs.shape[1] != channels:
            raise UserError(f"images must be (batch, {channels}, rows, columns), got {tuple(inputs.shape)}")
        if not inputs.is_floating_point():
            raise UserError(f"images must be normalised floats, got {str(inputs.dtype).removeprefix('torch.')}")
        rows, columns = inputs.shape[2:]
        inputs = apply_values("pixels", inputs, Layout((), (rows, columns)), edits)
        rows, columns = inputs.shape[2:]
        if patch_embed.img_size is not None and getattr(patch_embed, "strict_img_size", True):
            want = tuple(patch_embed.img_size)
            if (rows, columns) != want:
                raise UserError(
                    f"images are {rows}x{columns}, backbone {self.source!r} takes {want[0]}x{want[1]}; "
                    "resize them, or load the backbone with another image_size"
                )
        high, wide = self.patch_size
        dynamic = not getattr(patch_embed, "strict_img_size", True) and not getattr(
            patch_embed, "dynamic_img_pad", False
        )
        if dynamic and (rows % high or columns % wide):
            raise UserError(
                f"images are {rows}x{columns}, no multiple of the patch size {high}x{wide} of {self.source!r}"
            )
        return inputs.to(self.dtype)

    def _output(self, hidden: Tensor, layout: Layout, edits: Edits, read: frozenset[str] | None) -> Features:
        """Normalised tokens behind the last block, with the edits of `features`, cut to the segments that are read."""
        hidden = apply_values("features", hidden, layout, edits)
        if read is not None:
            parts, layout = select(layout, read, self.source)
            hidden = narrow(hidden, parts)
        return Features(hidden, layout)
