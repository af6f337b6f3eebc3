"""What --backbone may name, and what is wrong with a name; weights are not read, and torch is imported for the names of libraries only."""

from __future__ import annotations

from pathlib import Path

from pt_core.errors import UserError, nearest

from pt_vision.networks.clip.names import check_clip, is_clip

ASSETS = Path(__file__).parents[1] / "assets"
BUILTIN = {
    "vit_glyphs": "small ViT shipped with the package, pretrained on drawn glyphs (32 px)",
    "mit_shapes": "small MiT with a SegFormer decoder, pretrained on drawn shapes (segmentation, crops of 128 px)",
}
MIT = ("mit", "segformer")
WITH_WEIGHTS = ("builtin", "file", "local")
"""Kinds that bring their own weights."""


def builtin_path(name: str) -> Path:
    """The file of a built-in backbone, whether or not it exists."""
    return ASSETS / f"{name}.safetensors"


def builtin_names() -> list[str]:
    return sorted(path.stem for path in ASSETS.glob("*.safetensors"))


def weights_needed(spec: str) -> str:
    """Why a MiT cannot be loaded by its name alone."""
    return f"backbone {spec!r} needs --weights FILE, a published MiT or SegFormer state dict (.pth or .safetensors)"


def check_spec(spec: str) -> None:
    """Refuse a spec whose kind, name or file does not exist.

    Raises:
        UserError: names what is wrong, and the nearest name where there is one.
    """
    kind, _, name = spec.partition(":")
    if is_clip(spec):
        check_clip(spec)
    elif kind == "timm":
        from pt_vision.networks.timm_models import check_model

        check_model(name)
    elif kind in MIT:
        from pt_vision.networks.mit import check_size

        check_size(name)
    elif kind not in WITH_WEIGHTS or not name:
        raise UserError(
            f"backbone {spec!r} is of no known kind; use timm:NAME, open_clip:NAME@TAG, mit:b0, segformer:b0, local:FOLDER, file:FILE or "
            "builtin:NAME"
        )
    elif kind == "builtin" and name not in builtin_names():
        raise UserError(
            f"no built-in backbone {name!r}{nearest(name, builtin_names())}; known: {', '.join(builtin_names())}"
        )
    elif kind == "file" and not Path(name).is_file():
        raise UserError(f"{name} does not exist; make it with: pt-vision pretrain --data DIR --out {name}")
    elif kind == "local":
        from pt_vision.networks.hub_folder import config_file, weight_file

        config_file(Path(name))
        weight_file(Path(name))
