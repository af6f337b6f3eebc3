"""Weights in the layout of the published Audio-MAE checkpoints (pre-trained or fine-tuned), as `vit.AudioViT`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from pt_core.errors import UserError
from torch import Tensor

from pt_audio.adapters.vit import AudioViT, ViTSizes

DROPPED = ("decoder_", "mask_token", "fc_norm.")
"""Parts of a pre-training checkpoint that encode nothing."""


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """Tensors of a .safetensors file, or of a .pth file read without unpickling code.

    Raises:
        UserError: missing, unreadable, or with anything but tensors in it.
    """
    if not path.is_file():
        raise UserError(f"weight file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or foreign file makes the readers raise
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path} cannot be read as weights ({reason}); convert it to .safetensors") from None
    content = content.get("model", content) if isinstance(content, Mapping) else content
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} holds no mapping of tensors; give a state dict")
    return content


def load_audiomae(path: Path, heads: int | None = None) -> AudioViT:
    """The encoder of a checkpoint; sizes are read off its tensors, 64 values per head (as in ViT-B).

    The fixed positions are taken from the file. A fine-tuned checkpoint names its final norm `fc_norm` and may lack `norm`; prompts use
    neither norm nor head, so what is missing of them keeps its initial values.

    Raises:
        UserError: a tensor is missing or of an unexpected shape.
    """
    found = {name.removeprefix("module."): tensor.float() for name, tensor in read_tensors(path).items()}
    tensors = {name: tensor for name, tensor in found.items() if not name.startswith(DROPPED)}
    try:
        dim, channels, patch, width = tensors["patch_embed.proj.weight"].shape
        positions = tensors["pos_embed"].shape[1] - 1
    except (KeyError, ValueError, IndexError):
        raise UserError(
            f"{path} has no patch embedding and positions as Audio-MAE names them (patch_embed.proj.weight, pos_embed)"
        ) from None
    depth = 1 + max((int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")), default=-1)
    frequencies = 8
    if channels != 1 or patch != width or positions % frequencies or depth < 1:
        raise UserError(f"{path}: patches of {channels} x {patch} x {width} and {positions} positions are no Audio-MAE")
    classes = tensors["head.weight"].shape[0] if "head.weight" in tensors else 0
    sizes = ViTSizes(
        frames=positions // frequencies * patch,
        bins=frequencies * patch,
        patch=patch,
        dim=dim,
        depth=depth,
        heads=heads or max(1, dim // 64),
        classes=classes,
    )
    model = AudioViT(sizes)
    missing, unknown = model.load_state_dict(tensors, strict=False)
    lost = [name for name in missing if not name.startswith(("norm.", "head."))]
    if lost or unknown:
        raise UserError(f"{path} does not fit Audio-MAE: missing {lost[:3] or 'none'}, unknown {unknown[:3] or 'none'}")
    return model
