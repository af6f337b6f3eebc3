"""What names a CLIP-type network, and what is wrong with a name; imports no torch."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from pt_core.errors import MissingExtra, UserError, nearest

CONFIG = "open_clip_config.json"
FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
"""Weights beside it, the safest first."""
INSTALL = "pip install 'pt-vision[clip]'"


def is_clip(spec: str) -> bool:
    """Whether a name is that of an image and a text tower: `open_clip:NAME[@TAG]`, or a folder with open_clip's configuration."""
    kind, _, name = spec.partition(":")
    return kind == "open_clip" or (kind in ("file", "local") and (Path(name) / CONFIG).is_file())


def check_clip(spec: str) -> None:
    """Refuse a name that does not exist, or whose library is not installed.

    Raises:
        UserError: names what is wrong, and the nearest name where there is one.
    """
    if importlib.util.find_spec("open_clip") is None:
        raise MissingExtra(f"backbone {spec!r} needs open_clip; run: {INSTALL}")
    kind, _, name = spec.partition(":")
    if kind != "open_clip":
        folder_weights(Path(name))
        folder_config(Path(name))
        return
    import open_clip

    architecture, _, tag = name.partition("@")
    known = open_clip.list_models()
    if architecture not in known:
        raise UserError(f"open_clip has no model {architecture!r}{nearest(architecture, known)}")
    if tag and not open_clip.get_pretrained_cfg(architecture, tag):
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        listed = f"; it has {', '.join(tags)}" if tags else "; it has none: give a file with --weights"
        raise UserError(f"open_clip's {architecture!r} has no weights {tag!r}{nearest(tag, tags)}{listed}")


def folder_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's open_clip_config.json.

    Raises:
        UserError: not readable, or no model in it.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON ({str(error)[:120]})") from None
    model = config.get("model_cfg") if isinstance(config, dict) else None
    if not isinstance(model, dict) or not all(isinstance(model.get(part), dict) for part in ("vision_cfg", "text_cfg")):
        raise UserError(f"{path} has no model_cfg with vision_cfg and text_cfg")
    return config


def folder_weights(folder: Path) -> Path:
    """The weight file of a folder.

    Raises:
        UserError: there is none.
    """
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder} has no weights; expected {FILES[0]} beside {CONFIG}")
