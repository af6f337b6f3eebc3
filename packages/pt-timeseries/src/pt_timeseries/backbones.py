"""Backbones by name: `builtin:NAME` and `file:FILE` (written by `pt-timeseries pretrain`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pt_core.errors import UserError, unless_known

if TYPE_CHECKING:
    import torch

    from pt_timeseries.adapters.base import SeriesBackbone

DEFAULT = "builtin:patch_motion"
ASSETS = Path(__file__).parent / "assets"


def builtin_names() -> list[str]:
    return sorted(path.stem for path in ASSETS.glob("*.safetensors"))


def list_backbones() -> list[tuple[str, str]]:
    """(spec, what it is) of what `load_backbone` accepts."""
    return [
        *(
            (
                f"builtin:{name}",
                "small patch Transformer shipped with the package, pre-trained on generated sensor data",
            )
            for name in builtin_names()
        ),
        (
            "file:FILE",
            "a file written by `pt-timeseries pretrain` (patch Transformer, or tsai's TST, PatchTST, InceptionTime)",
        ),
    ]


def problem(spec: str) -> str | None:
    """What is wrong with a backbone spec, as far as its name and the file system tell; no weights are read."""
    kind, _, name = spec.partition(":")
    if kind == "builtin" and name:
        return unless_known("built-in backbone", name, builtin_names())
    if kind != "file" or not name:
        return f"backbone {spec!r} is of no known kind; use builtin:NAME or file:FILE (see `pt-timeseries pretrain`)"
    make = f"pt-timeseries pretrain --data DATA --target NAME --out {name}"
    return None if Path(name).is_file() else f"{name} does not exist; make it with: {make}"


def load_backbone(spec: str, weights: str | None = None, device: torch.device | str = "cpu") -> SeriesBackbone:
    """Load a frozen backbone in float32.

    Raises:
        UserError: unknown spec, a file that is missing, damaged or not written by `pretrain`, or weights that are not finite.
        MissingExtra: the file holds an architecture of tsai, which is not installed.
    """
    from pt_timeseries.adapters.files import read_backbone

    if weights is not None:
        raise UserError(f"backbone {spec!r} brings its own weights; leave out --weights")
    wrong = problem(spec)
    if wrong is not None:
        raise UserError(wrong)
    kind, _, name = spec.partition(":")
    return read_backbone(spec, ASSETS / f"{name}.safetensors" if kind == "builtin" else Path(name), device)
