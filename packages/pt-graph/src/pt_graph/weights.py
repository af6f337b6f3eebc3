"""Weight files: read without running code, matched to a network, written with the network's description inside."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from pt_core.errors import UserError, nearest
from pt_core.sealed import write_text
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pt_graph.networks.molecular import KINDS, Kind, MolecularGNN
from pt_graph.networks.plain import ACTIVATIONS, PlainGNN

LARGEST = 4096
"""Largest width or depth accepted from a file's description."""
PYG = {"GCN": "gcn", "GIN": "gin", "GraphSAGE": "sage", "GAT": "gat"}


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a .safetensors file, or of a .pt/.pth file read with `weights_only`.

    Raises:
        UserError: missing, unreadable, or not a flat mapping of names to tensors.
    """
    if not path.is_file():
        raise UserError(f"weight file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise UserError(f"{path} is no readable weight file ({' '.join(str(error).split())[:120]})") from None
    except Exception as error:  # the restricted unpickler raises its own kinds
        raise UserError(f"{path} cannot be read as plain tensors ({type(error).__name__})") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} does not hold a state dict (names and tensors)")
    return {str(name).removeprefix("module.").removeprefix("gnn."): value for name, value in state.items()}, {}


def assign(net: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load every tensor of the network; more or fewer are errors."""
    own = net.state_dict()
    given = {name: value for name, value in state.items() if name in own or not name.endswith("num_batches_tracked")}
    missing = sorted(name for name in set(own) - set(given) if not name.endswith("num_batches_tracked"))
    unknown = sorted(set(given) - set(own))
    if missing or unknown:
        raise UserError(f"{path} does not fit: missing {missing[:3] or 'none'}, unknown {unknown[:3] or 'none'}")
    for name, value in given.items():
        if value.shape != own[name].shape:
            raise UserError(f"{path}: {name} has shape {tuple(value.shape)}, the network has {tuple(own[name].shape)}")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise UserError(f"{path}: {name} is not finite")
    net.load_state_dict({name: value.to(own[name].dtype) for name, value in given.items()}, strict=False)


def molecular(kind: str, path: Path) -> MolecularGNN:
    """A checkpoint of the molecular family; width and depth are those of its tensors.

    Raises:
        UserError: not of this family or kind.
    """
    state, _ = read_state(path)
    if "x_embedding1.weight" not in state or "gnns.0.edge_embedding1.weight" not in state:
        raise UserError(
            f"{path} is no checkpoint of the molecular family (no x_embedding1, gnns.0.edge_embedding1); for plain "
            "GNNs use pyg:GCN and the like"
        )
    marks: dict[str, str] = {
        "gin": "mlp.0.weight",
        "gcn": "linear.weight",
        "graphsage": "linear.weight",
        "gat": "weight_linear.weight",
    }
    if f"gnns.0.{marks[kind]}" not in state:
        fits: list[str] = [k for k in KINDS if f"gnns.0.{marks[k]}" in state] or ["no kind of the family"]
        raise UserError(f"{path} does not hold chem:{kind} weights; its tensors are those of {' or '.join(fits)}")
    depth = 1 + max(int(m[1]) for name in state if (m := re.match(r"gnns\.(\d+)\.", name)))
    net = MolecularGNN(cast(Kind, kind), state["x_embedding1.weight"].shape[1], depth)
    assign(net, state, path)
    return net


def pyg(kind: str, activation: str, path: Path) -> PlainGNN:
    """A state dict of a PyG `nn.models` network without norms and jumping knowledge (or of ProG's `conv_layers`).

    Raises:
        UserError: other layers than `convs.*`, or shapes that do not chain.
    """
    if kind not in PYG:
        raise UserError(f"pyg:{kind} is not supported{nearest(kind, PYG)}; use {', '.join(PYG)}")
    if activation not in ACTIVATIONS:
        raise UserError(
            f"activation {activation!r} is unknown{nearest(activation, ACTIVATIONS)}; {', '.join(ACTIVATIONS)}"
        )
    state, _ = read_state(path)
    state = {re.sub(r"^conv_layers\.", "convs.", name): value for name, value in state.items()}
    foreign = sorted(name for name in state if not name.startswith("convs."))
    if foreign or not state:
        raise UserError(
            f"{path} has {foreign[0] if foreign else 'no layers'}; only convs.* layers can be read by themselves; "
            f"for norms and jumping knowledge give the model's arguments, as in pyg:{kind},in_channels=N,hidden_channels=N,norm=batch_norm"
        )
    depth = 1 + max(int(name.split(".")[1]) for name in state)
    rename = {
        "gcn": {"lin.weight": "lin.weight", "bias": "bias.value"},
        "gin": {f"nn.lins.{i}.{part}": f"mlp.{2 * i}.{part}" for i in (0, 1) for part in ("weight", "bias")},
        "sage": {name: name for name in ("lin_l.weight", "lin_l.bias", "lin_r.weight")},
        "gat": {"lin.weight": "lin.weight", "bias": "bias.value", "att_src": "source.value", "att_dst": "target.value"},
    }[PYG[kind]]
    first = next(iter(rename))
    renamed: dict[str, Tensor] = {}
    widths: list[int] = []
    heads: list[int] = []
    eps = 0.0
    for layer in range(depth):
        own = {name.split(".", 2)[2]: value for name, value in state.items() if name.startswith(f"convs.{layer}.")}
        eps = float(own.pop("eps", torch.tensor(eps)).reshape(-1)[0])
        if set(own) != set(rename):
            wrong = sorted(set(own) ^ set(rename))
            raise UserError(f"{path}: layer {layer} is no plain pyg:{kind} layer (differs in {', '.join(wrong[:4])})")
        renamed |= {f"layers.{layer}.{rename[name]}": value for name, value in own.items()}
        widths += [own[first].shape[1], own[first].shape[0]] if layer == 0 else [own[first].shape[0]]
        heads.append(own["att_src"].shape[1] if "att_src" in own else 1)
    net = PlainGNN(cast(Any, PYG[kind]), widths, cast(Any, activation), heads=heads, eps=eps)
    assign(net, renamed, path)
    return net


def pyg_model(text: str, path: Path) -> nn.Module:
    """A state dict of any PyG `nn.models` network, with its arguments as `NAME,key=value,...`.

    Raises:
        UserError: unknown model or argument, or tensors that are not those of the model.
    """
    from pt_graph.networks.pyg import model_of

    state, _ = read_state(path)
    net = model_of(text, state)
    assign(net.net, state, path)
    return net


def describe(net: nn.Module) -> dict[str, Any]:
    """What `build` needs to make the same network again."""
    if isinstance(net, MolecularGNN):
        return {"family": "molecular", "kind": net.kind, "dim": net.dim, "layers": net.depth, "dropout": net.dropout}
    assert isinstance(net, PlainGNN)
    names = ("kind", "widths", "activation", "dropout", "heads", "eps")
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
        if family == "molecular" and d["kind"] in KINDS and set(d) == {"kind", "dim", "layers", "dropout"}:
            return MolecularGNN(d["kind"], d["dim"], d["layers"], float(d["dropout"]))
        if family == "plain" and d["kind"] in PYG.values() and d["activation"] in ACTIVATIONS:
            return PlainGNN(d["kind"], d["widths"], d["activation"], float(d["dropout"]), d["heads"], float(d["eps"]))
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
