"""A folder in the hub's layout: its weight file, and its config.json, which is input from elsewhere and not trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pt_core.errors import UserError, nearest

FOLDER_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
MODEL_ARGS = frozenset(
    {
        *("img_size", "patch_size", "in_chans", "embed_dim", "depth", "depths", "num_heads", "head_dim", "mlp_ratio"),
        *("qkv_bias", "qk_norm", "proj_bias", "init_values", "class_token", "reg_tokens", "pos_embed"),
        *("no_embed_class",),
        *("pre_norm", "final_norm", "fc_norm", "global_pool", "pool_include_prefix", "norm_layer", "act_layer"),
        *("dynamic_img_size", "dynamic_img_pad", "strict_img_size", "window_size", "always_partition"),
    }
)
"""What a folder's config.json may set: it is input from elsewhere, so nothing else reaches a constructor."""
DATA_KEYS = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
LARGEST = 65536
"""Largest number accepted for a size in a config.json."""


def weight_file(path: Path) -> Path:
    """The file itself, or the weight file of a folder in the hub's layout.

    Raises:
        UserError: nothing there.
    """
    if path.is_dir():
        found = next((path / name for name in FOLDER_FILES if (path / name).is_file()), None)
        if found is None:
            raise UserError(
                f"folder {path} has no weight file; expected {FOLDER_FILES[0]} (or {', '.join(FOLDER_FILES[1:])})"
            )
        return found
    if not path.is_file():
        raise UserError(f"weight file {path} does not exist")
    return path


def config_file(folder: Path) -> Path:
    """The folder's config.json.

    Raises:
        UserError: nothing there.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} has no config.json; expected the hub's layout (config.json, model.safetensors)")
    return path


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json holds.

    Raises:
        UserError: missing, or not a JSON object.
    """
    path = config_file(folder)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON ({' '.join(str(error).split())[:100]})") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} does not hold a JSON object")
    return config


def declared_architecture(config: Mapping[str, Any]) -> str:
    """timm's name of the architecture, without the tag of its weights; empty where the config names none."""
    declared = config.get("architecture")
    return declared.partition(".")[0] if isinstance(declared, str) else ""


def architecture(folder: Path) -> str:
    """As `declared_architecture`.

    Raises:
        UserError: the folder names none.
    """
    declared = declared_architecture(read_config(folder))
    if not declared:
        raise UserError(f"{folder / 'config.json'} names no timm architecture; use timm:NAME --weights {folder}")
    return declared


def model_args(config: Mapping[str, Any], spec: str) -> dict[str, Any]:
    """Arguments of the network's constructor.

    Raises:
        UserError: an argument that is not among MODEL_ARGS, or no plausible size.
    """
    given = _section(config, "model_args", spec)
    arguments = {key: value for key, value in given.items() if key != "num_classes"}
    unknown = sorted(set(arguments) - MODEL_ARGS)
    if unknown:
        raise UserError(
            f"{spec}: config.json sets {unknown[0]!r}{nearest(unknown[0], MODEL_ARGS)}, no accepted model argument; "
            f"accepted: {', '.join(sorted(MODEL_ARGS))}"
        )
    for key, value in arguments.items():
        values = value if isinstance(value, list) else [value]
        limit = 512 if key in ("depth", "depths") else LARGEST
        for item in values:
            plain = (
                item is None or isinstance(item, (bool, str)) or (isinstance(item, (int, float)) and abs(item) <= limit)
            )
            if not plain or len(values) > 16:
                raise UserError(f"{spec}: config.json sets {key}={str(value)[:60]}, which is not a plausible size")
    return arguments


def overlay(config: Mapping[str, Any], spec: str) -> dict[str, Any]:
    """The data configuration of a folder, laid over timm's own for that architecture."""
    given = _section(config, "pretrained_cfg", spec)
    data: dict[str, Any] = {key: given[key] for key in DATA_KEYS if given.get(key) is not None}
    for key, value in data.items():
        if key in ("interpolation", "crop_mode"):
            good = isinstance(value, str)
        elif key == "crop_pct":
            good = _number(value) and 0 < value <= 4
        else:
            good = isinstance(value, list) and 1 <= len(value) <= 4 and all(map(_number, value))
        if key == "input_size":
            good = good and len(value) == 3 and all(isinstance(n, int) and 0 < n <= LARGEST for n in value)
        if key == "std":
            good = good and all(x > 0 for x in value)
        if not good:
            raise UserError(f"{spec}: config.json sets {key}={str(value)[:60]}, which cannot be used")
        data[key] = tuple(value) if isinstance(value, list) else value
    return {"pretrained_cfg_overlay": data} if data else {}


def _section(config: Mapping[str, Any], name: str, spec: str) -> dict[str, Any]:
    given = config.get(name) or {}
    if not isinstance(given, dict):
        raise UserError(f"{spec}: {name} in config.json is not a JSON object")
    return given


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e6
