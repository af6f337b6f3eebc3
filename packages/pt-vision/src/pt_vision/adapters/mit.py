"""MiT and PVTv2 (timm's PyramidVisionTransformerV2), with or without SegFormer's decoder, behind the Backbone contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pt_core.backbone import Features, Layout
from pt_core.errors import UserError
from torch import Tensor

from pt_vision.adapters.base import VisionBackbone
from pt_vision.adapters.edits import Edits, add_branches, apply_values
from pt_vision.adapters.probe import shares
from pt_vision.networks.mit import MitNetwork
from pt_vision.networks.segformer import SegFormerHead, resize


class MitBackbone(VisionBackbone):
    """A pyramid of four stages; features come out at 1/4, 1/8, 1/16 and 1/32 of the image.

    Sites, with l counting blocks over all stages and s stages from 0: `pixels`, `tokens[l]`, `attn_out[l]`, `mid[l]` (value site: the
    residual stream between attention and MLP, which `mlp_in[l]` reads), `mlp_in[l]`, `features`, and `decoder[s]` (what stage s's linear
    map of the decoder returns; the edit's function reads that map's input: Add adds to it, Replace stands for it).

    Every call gives `extra["maps"]`, the four (batch, channel, row, column) stage outputs behind their norms. `read` may name
    `decoder` (extra["decoder"]: the four mapped outputs at 1/4, concatenated from the last stage to the first) and `fused` (the
    decoder's fusion of them).
    """

    module: MitNetwork
    pools = ("default", "token")
    inserts = frozenset()

    def __init__(self, module: MitNetwork, source: str, preprocessing: Mapping[str, Any]) -> None:
        super().__init__(module, source, preprocessing)
        encoder: Any = module.encoder
        self.depths = tuple(int(n) for n in encoder.depths)
        self.stage_dims = tuple(int(info["num_chs"]) for info in encoder.feature_info)
        self.dims = tuple(dim for dim, depth in zip(self.stage_dims, self.depths, strict=True) for _ in range(depth))
        self.depth = len(self.dims)
        self.dim = self.feature_dim = self.stage_dims[-1]
        rows, columns = self.preprocessing["input_size"][1:]
        self.image_size = (int(rows), int(columns))
        self.patch_size = (32, 32)
        self.grid = (-(-self.image_size[0] // 32), -(-self.image_size[1] // 32))
        sites = {"pixels", "tokens[l]", "attn_out[l]", "mid[l]", "mlp_in[l]", "features"}
        self.sites = frozenset(sites | ({"decoder[l]"} if module.decoder is not None else set()))

    @property
    def decoder(self) -> SegFormerHead:
        """SegFormer's decoder.

        Raises:
            UserError: the network has none.
        """
        if self.module.decoder is None:
            raise UserError(
                f"backbone {self.source!r} has no SegFormer decoder; choose segformer:b0 ... b5 with --weights, or builtin:mit_shapes"
            )
        return self.module.decoder

    def token_count(self, layer: int) -> int:
        stage = next(s for s in range(len(self.depths)) if layer < sum(self.depths[: s + 1]))
        rows, columns = (-(-size // (4 * 2**stage)) for size in self.image_size)
        return rows * columns

    def require_tokens(self) -> None:
        raise UserError(
            f"backbone {self.source!r} is a MiT, which takes no inserted tokens; its prompt methods are dvpt_seg and coda "
            "(--task segmentation)"
        )

    def probe_features(self, inputs: Tensor) -> Tensor:
        """Of all four stages, and of the decoder's fusion where there is one."""
        decoded = ["token", "fused"] if self.module.decoder is not None else None
        extra = self(inputs, read=decoded).extra
        return shares([*extra["maps"], *([extra["fused"]] if decoded else [])])

    def encode(self, inputs: Tensor, edits: Edits, read: frozenset[str] | None) -> Features:
        """See `Backbone.__call__`. `inputs`: (batch, 3, row, column)."""
        if inputs.ndim != 4 or inputs.shape[1] != 3 or not inputs.is_floating_point():
            raise UserError(f"images must be normalised floats (batch, 3, rows, columns), got {tuple(inputs.shape)}")
        encoder: Any = self.module.encoder
        pixels = apply_values("pixels", inputs, Layout((), (inputs.shape[2], inputs.shape[3])), edits)
        hidden = encoder.patch_embed(pixels.to(self.dtype))
        maps: list[Tensor] = []
        layer, layout = 0, Layout(())
        for stage in encoder.stages:
            if stage.downsample is not None:
                hidden = stage.downsample(maps[-1])
            batch, rows, columns, dim = hidden.shape
            layout = Layout((("token", rows * columns),), (rows, columns))
            hidden = hidden.reshape(batch, rows * columns, dim)
            for block in stage.blocks:
                hidden = self._block(block, layer, hidden, layout, edits)
                layer += 1
            hidden = stage.norm(hidden)
            maps.append(hidden.transpose(1, 2).reshape(batch, dim, rows, columns))
        tokens = apply_values("features", hidden, layout, edits)
        extra: dict[str, Any] = {"maps": tuple(maps)}
        if read is not None and read & {"decoder", "fused"}:
            extra["decoder"] = self._decode(maps, edits)
            if "fused" in read:
                extra["fused"] = self.decoder.fuse(extra["decoder"])
        return Features(tokens, layout, extra)

    def _block(self, block: Any, layer: int, x: Tensor, layout: Layout, edits: Edits) -> Tensor:
        assert layout.grid is not None
        x = apply_values(f"tokens[{layer}]", x, layout, edits)
        attended = block.attn(block.norm1(x), layout.grid)
        x = x + block.drop_path1(apply_values(f"attn_out[{layer}]", attended, layout, edits))
        x = apply_values(f"mid[{layer}]", x, layout, edits)
        out = x + block.drop_path2(block.mlp(block.norm2(x), layout.grid))
        return add_branches(f"mlp_in[{layer}]", x, layout, edits, out)

    def _decode(self, maps: list[Tensor], edits: Edits) -> Tensor:
        """(batch, 4 E, row, column) at the first stage's resolution."""
        size, parts = maps[0].shape[2:], []
        for stage, (linear, found) in enumerate(zip(self.decoder.linears, maps, strict=True)):
            tokens = found.flatten(2).transpose(1, 2)
            layout = Layout((("token", tokens.shape[1]),), (found.shape[2], found.shape[3]))
            own: Tensor = linear(tokens)
            for edit in edits.get(f"decoder[{stage}]", ()):
                value = edit.fn(tokens, layout).to(own.dtype)  # type: ignore[union-attr]
                own = own + value if type(edit).__name__ == "Add" else value
            parts.append(resize(own.transpose(1, 2).unflatten(2, found.shape[2:]), size))
        return self.decoder.concatenate(parts)

    def _default_segments(self) -> tuple[str, ...]:
        return ("token",)

    def _pool(self, features: Features, how: str) -> Tensor:
        """Mean of the last stage, as timm's own head reads it."""
        return features.tokens.mean(1)
