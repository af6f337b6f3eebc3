"""Files of `pt-graph pretrain`: weights with the network's description inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pt_core.errors import UserError
from pt_core.sealed import write_text
from safetensors.torch import save
from torch import nn

from pt_graph.networks import molecular, plain
from pt_graph.networks.molecular import MolecularGNN
from pt_graph.networks.plain import ACTIVATIONS, PlainGNN
from pt_graph.networks.state import assign, read_state

LARGEST = 4096
"""Largest width or depth accepted from a file's description."""


def describe(net: nn.Module) -> dict[str, Any]:
    """What `build` needs to make the same network again."""
    if isinstance(net, MolecularGNN):
        return {"family": "molecular", "kind": net.kind, "dim": net.dim, "layers": net.depth, "dropout": net.dropout}
    assert isinstance(net, PlainGNN)
    names = ("kind", "widths", "activation", "dropout", "heads", "eps", "inner")
    return {"family": "plain", **{name: getattr(net, name) for name in names}}


def build(description: Mapping[str, Any], path: Path) -> nn.Module:
    """The network that `describe` described; the description comes from a file, so every entry is checked.

    Raises:
        UserError: unknown or implausible.
    """
    d = dict(description)
    family = d.pop("family", None)
    try:
        sizes = [d["dim"], d["layers"]] if family == "molecular" else [*d["widths"], *d["heads"]]
        if not all(isinstance(n, int) and 0 < n <= LARGEST for n in sizes) or not 0 <= float(d["dropout"]) < 1:
            raise ValueError("sizes out of range")
        if family == "molecular" and d["kind"] in molecular.KINDS and set(d) == {"kind", "dim", "layers", "dropout"}:
            return MolecularGNN(d["kind"], d["dim"], d["layers"], float(d["dropout"]))
        inner = d.get("inner", "relu")  # files of 0.1 do not say it
        if family == "plain" and d["kind"] in plain.KINDS and {d["activation"], inner} <= set(ACTIVATIONS):
            eps = [float(one) for one in d["eps"]] if isinstance(d["eps"], list) else float(d["eps"])
            if isinstance(eps, list) and len(eps) != len(d["widths"]) - 1:
                raise ValueError("one eps per layer")
            rest = (float(d["dropout"]), d["heads"], eps, inner)
            return PlainGNN(d["kind"], d["widths"], d["activation"], *rest)
    except (KeyError, TypeError, ValueError):
        pass
    raise UserError(f"{path}: its description names no network of pt-graph ({json.dumps(description)[:120]})")


def save_network(net: nn.Module, path: Path, card: Mapping[str, Any]) -> None:
    """Write weights in half precision with the network's description, and the recipe as JSON beside them."""
    tensors = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in net.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(save(tensors, {"pt_graph": json.dumps(describe(net))}))
    part.replace(path)
    write_text(path.with_suffix(".json"), json.dumps({"network": describe(net), **card}, indent=1))


def load_network(path: Path) -> nn.Module:
    """A file of `save_network`, in float32.

    Raises:
        UserError: not one of ours, or damaged.
    """
    state, metadata = read_state(path)
    if "pt_graph" not in metadata:
        raise UserError(
            f"{path} was not written by `pt-graph pretrain`; use chem:KIND or pyg:KIND with --weights {path}"
        )
    try:
        description = json.loads(metadata["pt_graph"])
    except ValueError:
        description = {}
    net = build(description if isinstance(description, dict) else {}, path)
    assign(net, state, path)
    return net
