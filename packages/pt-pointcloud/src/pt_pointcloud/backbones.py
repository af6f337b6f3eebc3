"""Backbones by name: `builtin:NAME`, `file:FILE`, and published checkpoints as `pointmae:NAME` or `pointbert:NAME` with --weights FILE.

A spec may end in changes of the grouping, such as `pointmae:shapenet,points=2048,groups=128`; they are part of the recorded source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pt_core.errors import ConfigError, UserError, nearest, unless_known

from pt_pointcloud.data.normalise import RULES

if TYPE_CHECKING:
    import torch

    from pt_pointcloud.networks.backbone import PointBackbone
    from pt_pointcloud.networks.transformer import PointConfig

ASSETS = Path(__file__).parent / "assets"
DEFAULT = "builtin:point_mae_shapes"
LAYOUTS: dict[str, dict[str, Any]] = {
    "shapenet": {"points": 1024, "groups": 64},
    "modelnet": {"points": 1024, "groups": 64},
    "scanobjectnn": {"points": 2048, "groups": 128},
    "shapenetpart": {"points": 2048, "groups": 128},
}
"""Grouping of the published configurations; M = 32 in all."""
CHANGES = ("points", "groups", "group_size", "normalise")


def builtin_names() -> list[str]:
    return sorted(path.stem for path in ASSETS.glob("*.safetensors"))


def list_backbones() -> list[tuple[str, str]]:
    """(spec, what it is) of what `load_backbone` accepts."""
    names = ", ".join(LAYOUTS)
    return [
        *(
            (f"builtin:{name}", "small Point-MAE shipped with the package, pretrained on generated shapes")
            for name in builtin_names()
        ),
        ("file:FILE", "a file written by `pt-pointcloud pretrain`"),
        ("pointmae:NAME --weights FILE", f"a published Point-MAE checkpoint with the grouping of {names}"),
        (
            "pointbert:NAME --weights FILE",
            "a published Point-BERT checkpoint likewise (class token and reduce layer included)",
        ),
        ("SPEC,points=N,groups=G", "any of them with another grouping (points, groups, group_size, normalise)"),
    ]


def problem(spec: str) -> str | None:
    """What is wrong with a backbone spec, as far as its name and the file system tell; no weights are read."""
    try:
        plain, _ = _changes(spec)
    except UserError as error:
        return str(error)
    kind, _, name = plain.partition(":")
    if kind in ("pointmae", "pointbert"):
        return (
            None
            if name in LAYOUTS
            else f"{kind} has no layout {name!r}{nearest(name, LAYOUTS)}; known: {', '.join(LAYOUTS)}"
        )
    if kind not in ("builtin", "file") or not name:
        return f"backbone {spec!r} is of no known kind; use builtin:NAME, file:FILE, pointmae:NAME or pointbert:NAME with --weights FILE"
    if kind == "builtin":
        return unless_known("built-in backbone", name, builtin_names())
    if kind == "file" and not Path(name).is_file():
        return f"{name} does not exist; make it with: pt-pointcloud pretrain --data DIR --out {name}"
    return None


def load_backbone(
    spec: str, weights: str | Path | None = None, normalise: str | None = None, device: torch.device | str = "cpu"
) -> PointBackbone:
    """Load a frozen backbone in float32.

    Args:
        spec: see `list_backbones`.
        weights: the checkpoint file of `pointmae:` and `pointbert:` (.safetensors, or .pth read without running code).
        normalise: rule for its inputs, `unit_sphere` or `as_stored`; recorded in the source where it is not the default.
        device: `meta` builds the network without weights, to count its cost.

    Raises:
        UserError: unknown spec or name, weights that are missing, do not fit, or are not finite.
    """
    import torch
    from pt_core.weights import check_finite

    from pt_pointcloud.networks import saved
    from pt_pointcloud.networks.backbone import PointBackbone
    from pt_pointcloud.networks.published import load_published, published_config
    from pt_pointcloud.networks.transformer import PointTransformer

    if normalise is not None and "normalise=" not in spec and normalise != "unit_sphere":
        spec = f"{spec},normalise={normalise}"
    wrong = problem(spec)
    if wrong is not None:
        raise UserError(wrong)
    plain, changes = _changes(spec)
    kind, _, name = plain.partition(":")
    notes: tuple[str, ...] = ()
    if kind in ("builtin", "file"):
        if weights is not None:
            raise UserError(
                f"backbone {spec!r} brings its own weights; leave out weights, or use pointmae:NAME with them"
            )
        net, _ = saved.load_backbone(ASSETS / f"{name}.safetensors" if kind == "builtin" else Path(name))
        net.config = _changed(net.config, changes, spec)
    else:
        config = _changed(published_config(kind, LAYOUTS[name]), changes, spec)
        if str(device) == "meta":
            with torch.device("meta"):
                net = PointTransformer(config)
        elif weights is None:
            raise UserError(f"backbone {spec!r} needs --weights FILE: the checkpoint that its authors publish")
        else:
            net, notes = load_published(kind, config, Path(weights))
    if str(device) != "meta":
        check_finite(net, spec)
    backbone = PointBackbone(net, spec, {"normalise": changes.get("normalise", "unit_sphere")})
    backbone.notes = notes
    backbone.to(device)
    return backbone


def _changes(spec: str) -> tuple[str, dict[str, Any]]:
    """(spec without changes, changes)."""
    plain, *parts = spec.split(",")
    changes: dict[str, Any] = {}
    for part in parts:
        key, equal, value = part.partition("=")
        if key not in CHANGES or not equal:
            raise UserError(
                f"backbone {spec!r}: {part!r} is no change of the grouping{nearest(key, CHANGES)}; known: {', '.join(CHANGES)}"
            )
        if key == "normalise":
            if value not in RULES:
                raise UserError(
                    f"backbone {spec!r}: normalise={value!r} is unknown{nearest(value, RULES)}; known: {', '.join(RULES)}"
                )
            changes[key] = value
        elif value.isdecimal() and 0 < int(value) <= 10**6:
            changes[key] = int(value)
        else:
            raise UserError(f"backbone {spec!r}: {key}={value!r} is no number from 1 up")
    return plain, changes


def _changed(config: PointConfig, changes: Mapping[str, Any], spec: str) -> PointConfig:
    changed = replace(config, **{key: value for key, value in changes.items() if key != "normalise"})
    sizes = asdict(changed)
    if sizes["points"] < max(sizes["groups"], sizes["group_size"]):
        raise ConfigError(
            f"backbone {spec!r}: points={sizes['points']} is below groups={sizes['groups']} or group_size={sizes['group_size']}; "
            "a cloud needs at least G points and M points"
        )
    return changed
