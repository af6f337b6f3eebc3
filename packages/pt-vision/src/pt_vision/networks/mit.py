"""MiT-B0..B5 with or without SegFormer's decoder: built from timm's PVTv2, and filled from files in the published key layout."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from pt_core.errors import UserError, nearest
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from torch import Tensor, nn

from pt_vision.networks.segformer import SegFormerHead

SIZES: dict[str, dict[str, Any]] = {
    "b0": {"embed_dims": (32, 64, 160, 256), "depths": (2, 2, 2, 2)},
    "b1": {"embed_dims": (64, 128, 320, 512), "depths": (2, 2, 2, 2)},
    "b2": {"embed_dims": (64, 128, 320, 512), "depths": (3, 4, 6, 3)},
    "b3": {"embed_dims": (64, 128, 320, 512), "depths": (3, 4, 18, 3)},
    "b4": {"embed_dims": (64, 128, 320, 512), "depths": (3, 8, 27, 3)},
    "b5": {"embed_dims": (64, 128, 320, 512), "depths": (3, 6, 40, 3)},
}
DROP_PATH = 0.1
DECODER_WIDTH = {"b0": 256, "b1": 256}
"""E of the published SegFormer decoders; 768 for the others."""


def build_encoder(
    embed_dims: tuple[int, ...],
    depths: tuple[int, ...],
    num_heads: tuple[int, ...] = (1, 2, 5, 8),
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1),
    drop_path: float = DROP_PATH,
) -> PyramidVisionTransformerV2:
    """MiT: PVTv2 with MLP ratio 4 in every stage. LayerNorm eps is 1e-6 in blocks and 1e-5 in patch embeddings and reductions."""
    return PyramidVisionTransformerV2(
        num_classes=0,
        embed_dims=tuple(embed_dims),
        depths=tuple(depths),
        num_heads=tuple(num_heads),
        sr_ratios=tuple(sr_ratios),
        mlp_ratios=(4, 4, 4, 4),
        drop_path_rate=drop_path,
    )


class MitNetwork(nn.Module):
    """The encoder, and SegFormer's decoder where a published segmenter brings one."""

    def __init__(self, encoder: nn.Module, decoder: SegFormerHead | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder


def check_size(size: str) -> None:
    """Refuse a size that was not published.

    Raises:
        UserError: names the nearest.
    """
    if size not in SIZES:
        raise UserError(f"no MiT {size!r}{nearest(size, SIZES)}; known: {', '.join(SIZES)}")


def build_mit(size: str, decoder: bool) -> MitNetwork:
    """A published size, with SegFormer's decoder where asked."""
    check_size(size)
    dims = SIZES[size]["embed_dims"]
    head = SegFormerHead(dims, 0, DECODER_WIDTH.get(size, 768)) if decoder else None
    return MitNetwork(build_encoder(**SIZES[size]), head)


def published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of a published MiT (`block1.0.attn.q.weight`) or SegFormer file (`backbone.block1...`, `decode_head.linear_c1...`) as ours.

    The classifiers `head.*` and `linear_pred.*` are left out: they belong to their own label space.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith("decode_head."):
            name = "decoder." + name.removeprefix("decode_head.")
            if name.startswith(("decoder.linear_pred.", "decoder.conv_seg.")):
                continue
        elif not name.startswith(("encoder.", "decoder.")):
            name = name.removeprefix("backbone.")
            if name.startswith("head."):
                continue
            name = re.sub(
                r"^patch_embed(\d)\.",
                lambda m: "patch_embed." if m[1] == "1" else f"stages.{int(m[1]) - 1}.downsample.",
                name,
            )
            name = re.sub(r"^block(\d)\.(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}.", name)
            name = re.sub(r"^norm(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.norm.", name)
            name = "encoder." + name.replace("dwconv.dwconv", "dwconv")
        renamed[name] = tensor
    return renamed


def load_published(module: MitNetwork, state: Mapping[str, Tensor], where: str) -> None:
    """Copy a state dict in the published or in our layout.

    Raises:
        UserError: missing or unknown names, another shape, NaN or infinite values.
    """
    wanted, found = module.state_dict(), published_names(state)
    if module.decoder is None:  # the encoder of a segmenter's file
        found = {name: tensor for name, tensor in found.items() if not name.startswith("decoder.")}
    missing, unknown = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or unknown:
        parts = [
            f"{word} {', '.join(names[:5])}" for word, names in (("lacks", missing), ("has unknown", unknown)) if names
        ]
        raise UserError(f"{where} does not fit this MiT: it {' and '.join(parts)}; check the size (b0 ... b5)")
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            raise UserError(
                f"{where}: {name} has shape {tuple(tensor.shape)}, this MiT needs {tuple(wanted[name].shape)}; check the size"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{where}: {name} holds NaN or infinite values; fetch the file again")
    module.load_state_dict(found, strict=True)


def preprocessing(crop: int, mean: Any = IMAGENET_DEFAULT_MEAN, std: Any = IMAGENET_DEFAULT_STD) -> dict[str, Any]:
    """How images are prepared: `crop` is the side of the training crops; classification reads a quarter of it."""
    side = max(32, crop // 4)
    return {
        "input_size": [3, side, side],
        "mean": [float(v) for v in mean],
        "std": [float(v) for v in std],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "crop": int(crop),
    }
