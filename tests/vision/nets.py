"""Tiny networks with random weights for the backbone tests: one row per kind of network that the adapters treat differently."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from pt_vision.adapters import adapt
from pt_vision.adapters.base import VisionBackbone
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock, ResPostBlock, VisionTransformer
from torch import Tensor, nn

SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 0}
_vit = partial(VisionTransformer, **SIZE)
_eva = partial(Eva, **SIZE)

PLAIN: dict[str, Callable[[], nn.Module]] = {
    "class": _vit,
    "registers": partial(_vit, reg_tokens=3),
    "dinov2": partial(_vit, reg_tokens=4, no_embed_class=True, init_values=0.5),
    "no_class": partial(_vit, class_token=False, global_pool="avg"),
    "mae": partial(_vit, global_pool="avg"),
    "pool_prefix": partial(_vit, global_pool="avg", pool_include_prefix=True, reg_tokens=2),
    "max": partial(_vit, global_pool="max"),
    "avgmax": partial(_vit, global_pool="avgmax", fc_norm=False),
    "unpooled": partial(_vit, global_pool=""),
    "clip": partial(_vit, pre_norm=True, qkv_bias=False),
    "qk_norm": partial(_vit, qk_norm=True),
    "scale_norm": partial(_vit, scale_attn_norm=True, scale_mlp_norm=True),
    "siglip": partial(_vit, class_token=False, global_pool="map"),
    "map_with_class": partial(_vit, global_pool="map"),
    "no_position": partial(_vit, pos_embed="none"),
    "dynamic": partial(_vit, dynamic_img_size=True),
    "distilled": partial(VisionTransformerDistilled, **SIZE),
}
"""VisionTransformers made of timm's Block and Attention: every site, fast paths."""

OTHER: dict[str, Callable[[], nn.Module]] = {
    "parallel_scaling": partial(_vit, block_fn=ParallelScalingBlock),
    "parallel_things": partial(_vit, block_fn=ParallelThingsBlock),
    "post_norm": partial(_vit, block_fn=ResPostBlock),
    "differential": partial(_vit, attn_layer="diff"),
    "eva": partial(_eva, global_pool="token"),
    "eva_rope": partial(_eva, use_rot_pos_emb=True, swiglu_mlp=True, init_values=0.5),
    "eva_mixed": partial(_eva, use_rot_pos_emb=True, rope_type="mixed", use_abs_pos_emb=False, num_reg_tokens=2),
    "dinov3": partial(
        _eva, use_rot_pos_emb=True, rope_type="dinov3", num_reg_tokens=4, use_abs_pos_emb=False, init_values=0.5,
        rope_rotate_half=True, global_pool="token", attn_type="rope",
    ),
    "eva_map": partial(_eva, global_pool="map"),
}  # fmt: skip
"""Networks whose blocks run prompts by concatenation."""

_swin = partial(SwinTransformer, img_size=32, patch_size=2, embed_dim=16, num_classes=0)
SWIN: dict[str, Callable[[], nn.Module]] = {
    "shifted": partial(_swin, depths=(2, 2), num_heads=(2, 4), window_size=4),
    "padded": partial(_swin, depths=(2, 2), num_heads=(2, 4), window_size=5),
    "one_window": partial(_swin, depths=(1, 2, 2), num_heads=(2, 2, 4), window_size=8),
    "odd": partial(_swin, img_size=28, depths=(2, 2, 1), num_heads=(2, 2, 4), window_size=4),
    "dynamic": partial(_swin, depths=(2, 2), num_heads=(2, 4), window_size=4, strict_img_size=False),
}
ALL = {**PLAIN, **OTHER, **{f"swin_{name}": make for name, make in SWIN.items()}}


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Values of a plausible size everywhere: timm starts class tokens, biases and LayerScale next to nothing."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
            if parameter.ndim > 1 and 1 not in parameter.shape:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            else:
                parameter.copy_(parameter.mean().round() + 0.3 * noise)  # around 1 for norms, around 0 for the rest
    return module


def network(name: str, seed: int = 0) -> VisionBackbone:
    """A tiny float64 backbone by its name in the tables above."""
    return adapt(randomise(ALL[name]().double(), seed), f"tiny:{name}")


def images(backbone: VisionBackbone, batch: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(batch, 3, *backbone.image_size, generator=torch.Generator().manual_seed(seed)).double()


def prompts(backbone: VisionBackbone, length: int = 5, rows: int | None = None, seed: int = 2) -> list[Tensor]:
    """One leaf per block: (length, width), or (rows, length, width)."""
    rng = torch.Generator().manual_seed(seed)
    shape = (length,) if rows is None else (rows, length)
    drawn = [torch.randn(*shape, backbone.width(layer), generator=rng) for layer in range(backbone.depth)]
    return [x.double().requires_grad_() for x in drawn]


def close(have: Tensor, want: Tensor, tolerance: float = 1e-10) -> None:
    """Equal relative to the largest reference value; a reference that is zero everywhere proves nothing."""
    scale = want.abs().max().item()
    assert have.shape == want.shape, f"{tuple(have.shape)} is not {tuple(want.shape)}"
    assert scale > 1e-6
    worst = (have - want).abs().max().item()
    assert worst <= tolerance * scale, f"off by {worst:.3g} of {scale:.3g}"


def pull(out: Tensor, leaves: list[Tensor], seed: int = 3) -> list[Tensor]:
    """Gradients of a fixed random projection of `out`."""
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).to(out)
    return list(torch.autograd.grad((out * weights).sum(), leaves))
