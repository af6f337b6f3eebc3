"""Backbones by name: `builtin:NAME`, `file:FILE`, `chem:KIND` and `pyg:MODEL` with local weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pt_core.errors import UserError, nearest, unless_known

if TYPE_CHECKING:
    import torch

    from pt_graph.networks.backbone import GraphBackbone

DEFAULT = "builtin:gin_molecules"
ASSETS = Path(__file__).parent / "assets"
KIND_NAMES = ("gin", "gcn", "graphsage", "gat")


def builtin_names() -> list[str]:
    return sorted(path.stem for path in ASSETS.glob("*.safetensors"))


def list_backbones() -> list[tuple[str, str]]:
    """(spec, what it is)."""
    return [
        *(
            (f"builtin:{name}", "small GIN shipped with the package, pretrained on generated molecules")
            for name in builtin_names()
        ),
        *(
            (
                f"chem:{kind} --weights FILE",
                f"molecular {kind}, published layout (Hu et al. 2020): .safetensors, .pth (tensors only)",
            )
            for kind in KIND_NAMES
        ),
        (
            "pyg:MODEL --weights FILE",
            "state dict of PyG's GCN, GIN, GraphSAGE or GAT; pyg:MODEL:ACTIVATION where it is not relu",
        ),
        (
            "pyg:MODEL,in_channels=N,... --weights FILE",
            "state dict of any model of PyG's nn.models family (PNA, EdgeCNN too) with its arguments: norm=, jk=, act=, heads= ...",
        ),
        ("file:FILE", "a file written by `pt-graph pretrain`"),
    ]


def problem(spec: str) -> str | None:
    """What is wrong with a backbone spec, as far as its name and the file system tell; no weights are read."""
    kind, _, name = spec.partition(":")
    if kind not in ("builtin", "file", "chem", "pyg") or not name:
        return f"backbone {spec!r} is of no known kind; use builtin:NAME, file:FILE, chem:KIND or pyg:MODEL"
    if kind == "builtin":
        return unless_known("built-in backbone", name, builtin_names())
    if kind == "file" and not Path(name).is_file():
        return f"weight file {name} does not exist"
    if kind == "chem" and name not in KIND_NAMES:
        return f"no molecular network {name!r}{nearest(name, KIND_NAMES)}; known: {', '.join(KIND_NAMES)}"
    if kind == "pyg":
        from pt_graph.networks.published import pyg_problem

        return pyg_problem(name)
    return None


def load_backbone(spec: str, weights: str | Path | None = None, device: torch.device | str = "cpu") -> GraphBackbone:
    """Load a frozen backbone in float32.

    Args:
        spec: see `list_backbones`.
        weights: weight file of `chem:` and `pyg:`.
        device: where to put it; `meta` builds `chem:KIND` in its published size without weights.

    Raises:
        UserError: unknown spec or kind (the nearest is named), or weights that are missing or do not fit.
    """
    import torch

    from pt_graph.networks.backbone import GraphBackbone
    from pt_graph.networks.molecular import MolecularGNN
    from pt_graph.networks.published import molecular, pyg, pyg_model
    from pt_graph.networks.saved import load_network

    wrong = problem(spec)
    if wrong is not None:
        raise UserError(wrong)
    kind, _, name = spec.partition(":")
    brings_weights = kind in ("builtin", "file")
    if brings_weights and weights is not None:
        raise UserError(
            f"backbone {spec!r} brings its own weights; leave out --weights, or use chem: or pyg: with them"
        )
    net: torch.nn.Module
    if brings_weights:
        net = load_network(ASSETS / f"{name}.safetensors" if kind == "builtin" else Path(name))
    elif weights is not None and kind == "chem":
        net = molecular(name, Path(weights))
    elif weights is not None:
        model, _, activation = name.partition(":")
        path = Path(weights)
        net = pyg_model(name, path) if "," in name else pyg(model, activation or "relu", path)
    elif kind == "chem" and str(device) == "meta":
        with torch.device("meta"):
            net = MolecularGNN(name)  # type: ignore[arg-type]
    else:
        raise UserError(f"backbone {spec!r} needs its pretrained weights: give --weights FILE")
    inputs = "atoms and bonds" if kind == "chem" or getattr(net, "needs_bonds", False) else "float features"
    backbone = GraphBackbone(net, spec, {"inputs": inputs})
    backbone.to(device)
    return backbone
