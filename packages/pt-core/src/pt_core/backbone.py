"""The Backbone contract: a frozen network behind named sites, edited per call.

A backbone is called with the inputs and a mapping from *site* to *edits*; the edits hold for that call only, so students, teachers
and tenants share one object. It is a plain object, never a child module of a method, so `method.train()`, `method.to()` and
`method.state_dict()` do not reach it.

Sites, with `l` counting blocks from 0:

===============  ================================================================================================
`pixels`         the input array of an image backbone, before the patch embedding (value site)
`input`          the embedded tokens, before position embeddings are added (value site)
`tokens[l]`      the sequence that enters block l; `tokens[0]` already has its position embeddings (value site, `Insert`)
`kv[l]`          extra keys and values of block l's attention (`KeyValue` only)
`attn_out[l]`    what the attention sub-layer returns, before it is added to the residual stream (value site)
`mlp_in[l]`      the residual stream that the MLP sub-layer of block l reads (branch site)
`features`       the tokens after the final norm (value site)
===============  ================================================================================================

At a value site `Add(fn)` means `h + fn(h)` and `Replace(fn)` means `fn(h)`. At a branch site `Add(fn)` is a branch parallel to the
sub-layer: the block returns `x + mlp(norm(x)) + fn(x)`. Each adapter lists the sites it has.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pt_core.data import map_tensors
from pt_core.errors import UserError, nearest
from pt_core.fingerprint import Fingerprint, fingerprint_tensors, sampled, whole_float32

NARROW = (torch.bfloat16, torch.float16)
WHOLE = 2**28
"""Values of a narrow network that are copied to float32 for its probe: 1 GB for a moment."""


@dataclass(frozen=True)
class Layout:
    """Which part of a token sequence is what.

    `segments` lists (kind, length) in sequence order. Kinds: `prompt` (inserted and kept), `class`, `register`, `token` (the input's
    own tokens). A kind may occur once only, so that it is one slice. `grid` is (rows, columns) where the own tokens form one.

    >>> layout = Layout((("class", 1), ("prompt", 5), ("token", 196)), grid=(14, 14))
    >>> len(layout), layout.slice("token"), layout.count("register")
    (202, slice(6, 202, None), 0)
    """

    segments: tuple[tuple[str, int], ...]
    grid: tuple[int, int] | None = None

    def __len__(self) -> int:
        return sum(length for _, length in self.segments)

    def count(self, kind: str) -> int:
        return sum(length for name, length in self.segments if name == kind)

    def slice(self, kind: str) -> slice:
        """Where `kind` lies; an empty slice where it does not occur."""
        start = 0
        for name, length in self.segments:
            if name == kind:
                return slice(start, start + length)
            start += length
        return slice(0, 0)


HiddenFn = Callable[[Tensor, Layout], Tensor]
"""fn(hidden (batch, tokens, dim), layout) -> tensor."""


@dataclass(frozen=True)
class Insert:
    """Insert prompt tokens into the sequence that enters a block.

    Attributes:
        tokens: (prompt, dim) shared by the batch, (batch, prompt, dim) one set per row, (tenants, prompt, dim) with `index`, or
            fn(hidden, layout) -> (batch, prompt, dim).
        at: `after_prefix` (behind class and register tokens, VPT's order) or `front` (before everything).
        keep_output: True keeps the prompts' outputs in the sequence for later blocks ("shallow"); False drops them after this block
            ("deep"), which adapters run as extra keys and values where they know the block.
        index: (batch,) row of the bank for every sample, with tokens (tenants, prompt, dim).

    >>> from pt_core.testing.tiny import TinyBackbone
    >>> backbone, vectors = TinyBackbone(), torch.zeros(3, 4)
    >>> deep = {"tokens[0]": Insert(torch.zeros(2, 8)), "tokens[1]": Insert(torch.zeros(2, 8))}
    >>> backbone(vectors, deep).layout.count("prompt")
    0
    >>> backbone(vectors, {"tokens[0]": Insert(torch.zeros(2, 8), keep_output=True)}).part("prompt").shape
    torch.Size([3, 2, 8])
    """

    tokens: Tensor | HiddenFn
    at: Literal["after_prefix", "front"] = "after_prefix"
    keep_output: bool = False
    index: Tensor | None = None


@dataclass(frozen=True)
class KeyValue:
    """Extra keys and values (1 | batch | tenants, kv_heads, prompt, head_dim) for one block's attention; `index` as in `Insert`."""

    k: Tensor
    v: Tensor
    index: Tensor | None = None


@dataclass(frozen=True)
class Add:
    """Add fn(hidden, layout) to a value site, or run it as a branch parallel to a sub-layer at a branch site."""

    fn: HiddenFn


@dataclass(frozen=True)
class Replace:
    """Replace a value site by fn(hidden, layout)."""

    fn: HiddenFn


Edit = Insert | KeyValue | Add | Replace
Edits = Mapping[str, Edit | Sequence[Edit]]


@dataclass(frozen=True)
class Features:
    """What a backbone returns.

    Attributes:
        tokens: (batch, tokens, dim) after the final norm, in the order of `layout`.
        layout: the segments present; kept prompts included, and only what `read` asked for.
        extra: further outputs an adapter documents (feature pyramids, logits ...).
    """

    tokens: Tensor
    layout: Layout
    extra: Mapping[str, Any] = field(default_factory=dict)

    def part(self, kind: str) -> Tensor:
        """(batch, count(kind), dim)."""
        return self.tokens[:, self.layout.slice(kind)]


class Claim(nn.Module):
    """Copies of backbone weights that a method trains; pass it back as `backbone(..., weights=claim)`.

    The backbone's own tensors stay untouched, so the same object still serves as teacher or for other tenants, and the claimed
    tensors are ordinary parameters of the method: they are saved, resumed and swapped by `functional_call` like all others.
    """

    def __init__(self, tensors: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.owner: int | None = None
        """Identity of the network the weights are of; two networks may have weights of the same names."""
        self.stochastic = False
        """True runs the backbone in train mode (dropout, drop-path, BatchNorm updates) while the method trains."""
        for name, tensor in tensors.items():
            self.register_parameter(name.replace(".", "/"), nn.Parameter(tensor.detach().clone().float()))
        for name, tensor in buffers.items():
            self.register_buffer(name.replace(".", "/"), tensor.detach().clone())

    def tensors(self) -> dict[str, Tensor]:
        """Backbone name -> the tensor that replaces it."""
        named = [*self.named_parameters(recurse=False), *self.named_buffers(recurse=False)]
        return {name.replace("/", "."): tensor for name, tensor in named}


Weights = Claim | Mapping[str, Tensor]
"""Claimed weights, or name -> tensor."""


def _named(weights: Weights) -> Mapping[str, Tensor]:
    return weights.tensors() if isinstance(weights, Claim) else weights


class _Call(nn.Module):
    """Lets `functional_call` swap the weights of a module while a function other than its forward runs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, fn: Callable[[], Any]) -> Any:
        return fn()


class Backbone(ABC):
    """A frozen pretrained network.

    Subclasses (adapters) implement `encode` and list `sites`; everything else is here. Parameters get `requires_grad=False` and the
    module is put in eval mode, which nothing undoes: no dropout, no drop-path, no BatchNorm drift.

    Attributes:
        module: the upstream network, unmodified.
        source: what the user asked for, such as `timm:vit_small_patch16_224` (recorded, not compared).
        preprocessing: JSON-able description of how inputs are prepared (mean, std, size ...; compared when an artifact is loaded).
        sites: the names of the sites this adapter serves; `[l]` stands for every block index below `depth`.
        inserts: the sites that take `Insert`.
        dim: width of the tokens; `dims` gives it per block where it varies.
        depth: number of blocks.
    """

    module: nn.Module
    source: str
    preprocessing: Mapping[str, Any]
    sites: frozenset[str]
    inserts: frozenset[str] = frozenset({"tokens[l]"})
    dim: int
    depth: int

    def __init__(self, module: nn.Module, source: str, preprocessing: Mapping[str, Any] | None = None) -> None:
        self.module = module.requires_grad_(False).eval()
        self.source = source
        self.preprocessing = dict(preprocessing or {})
        self._call = _Call(module)
        self._fingerprint: Fingerprint | None = None
        self._bound: Weights | None = None
        self._names: frozenset[str] | None = None
        self.weights: str | None = None
        """The weight file that the source was loaded with, where it needed one (recorded, so that it is found again)."""

    @abstractmethod
    def encode(self, inputs: Any, edits: Mapping[str, tuple[Edit, ...]], read: frozenset[str] | None) -> Features:
        """Run the network with checked edits. `read` names the segments the caller needs (None: all)."""

    def __call__(
        self,
        inputs: Any,
        edits: Edits | None = None,
        *,
        weights: Weights | None = None,
        read: Sequence[str] | None = None,
    ) -> Features:
        """Run the network.

        Args:
            inputs: what the adapter reads.
            edits: site -> edit or edits (applied in order), for this call only.
            weights: claimed weights, or name -> tensor, that replace the frozen ones in this call.
            read: segments of the result that will be used; lets the adapter skip dead work in the last block. None reads all.

        Raises:
            UserError: an unknown site, or an edit the site does not take.
        """
        checked = self.check_edits(edits or {})
        wanted = None if read is None else frozenset(read)
        if self._bound is not None:
            weights = self._bound if weights is None else {**_named(self._bound), **_named(weights)}
        result: Features = self.with_weights(weights, lambda: self.encode(inputs, checked, wanted))
        return result

    def with_weights(self, weights: Weights | None, fn: Callable[[], Any]) -> Any:
        """Run fn() while other weights stand in for the frozen ones: claimed ones, or any function of tensors under the weights' names."""
        if weights is None:
            return fn()
        named = weights.tensors() if isinstance(weights, Claim) else weights
        self._check_names(named)
        swapped = {f"module.{name}": tensor for name, tensor in named.items()}
        self.module.train(isinstance(weights, Claim) and weights.stochastic and weights.training)
        try:
            return torch.func.functional_call(self._call, swapped, (fn,), tie_weights=True, strict=False)
        finally:
            self.module.eval()

    def _check_names(self, named: Mapping[str, Tensor]) -> None:
        """Refuse weights that the network does not have: `functional_call` would leave them out without a word."""
        if self._names is None:
            self._names = frozenset({*dict(self.module.named_parameters()), *dict(self.module.named_buffers())})
        unknown = next((name for name in named if name not in self._names), None)
        if unknown is not None:
            raise UserError(f"backbone {self.source!r} has no weight {unknown!r}{nearest(unknown, self._names)}")

    def bound(self, weights: Weights) -> Backbone:
        """A view of this network with other weights (masked ones, say), which a strategy puts under its host."""
        self._check_names(_named(weights))
        view = copy.copy(self)
        view._bound = weights if self._bound is None else {**_named(self._bound), **_named(weights)}
        view._fingerprint = None
        return view

    def replaced(self, tensors: Mapping[str, Tensor], source: str) -> Backbone:
        """This network for good with other values of some weights, as an earlier run tuned them; named `source`.

        Raises:
            UserError: a name or a shape that the network does not have.
        """
        own = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        for name, tensor in tensors.items():
            if name not in own or own[name].shape != tensor.shape:
                raise UserError(
                    f"{source}: weight {name!r} of shape {tuple(tensor.shape)} does not fit {self.source!r}"
                )
        with torch.no_grad():
            for name, tensor in tensors.items():
                own[name].copy_(tensor)
        self.source, self._fingerprint = source, None
        return self

    def width(self, layer: int) -> int:
        """Token width inside block `layer`; adapters with stages of different width override it."""
        return self.dim

    def sites_of(self, family: str) -> int:
        """How many sites of a family such as `kv[l]` there are; one per block, but where an adapter's network has it otherwise."""
        return self.depth

    def check_edits(self, edits: Edits) -> dict[str, tuple[Edit, ...]]:
        """Bring edits to tuples and refuse unknown sites and edits of the wrong kind."""
        checked: dict[str, tuple[Edit, ...]] = {}
        for site, value in edits.items():
            items = tuple(value) if isinstance(value, (list, tuple)) else (value,)
            match = re.fullmatch(r"(\w+)\[(\d+)\]", site)
            family = f"{match[1]}[l]" if match else site
            if family not in self.sites or (match and int(match[2]) >= self.sites_of(family)):
                known = ", ".join(sorted(self.sites))
                hint = "" if family in self.sites else nearest(family, self.sites)
                raise UserError(
                    f"backbone {self.source!r} has no site {site!r}{hint}; it has {known} with l below {self.sites_of(family)}"
                )
            for edit in items:
                expected: tuple[type, ...] = {"kv[l]": (KeyValue,), "mlp_in[l]": (Add,)}.get(family, (Add, Replace))
                if family in self.inserts:
                    expected = (Insert, *expected)
                if not isinstance(edit, expected):
                    names = " or ".join(kind.__name__ for kind in expected)
                    raise UserError(f"site {site!r} takes {names}, not {type(edit).__name__}")
            checked[site] = items
        return checked

    def lower(self, edits: Edits) -> Edits:
        """Precompute what does not depend on the input (prompt keys and values); adapters that cannot return the edits as they are."""
        return edits

    def claim(self, *patterns: str, buffers: bool = False) -> Claim:
        """Copy the weights whose names match a pattern (`*` and `?` as in file names) for a method to train.

        Raises:
            UserError: a pattern matches nothing.
        """
        named = dict(self.module.named_parameters())
        stats = dict(self.module.named_buffers()) if buffers else {}
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in named):
                raise UserError(f"no weight of backbone {self.source!r} matches {pattern!r}{nearest(pattern, named)}")
        chosen = {name: t for name, t in named.items() if any(fnmatchcase(name, p) for p in patterns)}
        kept = {name: t for name, t in stats.items() if any(fnmatchcase(name, p) for p in patterns)}
        claim = Claim(chosen, kept)
        claim.owner = id(self.module)
        return claim

    def fingerprint(self) -> Fingerprint:
        """Identity of the frozen weights and of what the network does with them (cached: they do not change)."""
        if self._fingerprint is None:
            weights = fingerprint_tensors(self.frozen_tensors())
            behaviour, dtype = self._probed()
            self._fingerprint = replace(weights, behaviour=behaviour, probed=dtype)
        return self._fingerprint

    def fingerprints(self) -> Mapping[str, Fingerprint]:
        """What an artifact's card is compared with: the whole (name ``), or every named part that is loaded."""
        return {"": self.fingerprint()}

    def probe(self) -> Any | None:
        """A small fixed input, built from constants and counters (no random numbers), on which two networks of equal weights that are not
        the same differ; None where the adapter has none."""
        return None

    def probe_features(self, inputs: Any) -> Tensor:
        """What is looked at of the probe's result: the tokens; adapters with a pooling of their own add it."""
        return self(inputs).tokens

    def behaviour(self) -> tuple[float, ...] | None:
        """A sample of the features of `probe()`, in eval mode and without autocast; None without a probe or without values. Of a bf16 or
        fp16 network of up to WHOLE values it is computed in float32, where small differences are not lost in rounding."""
        return self._probed()[0]

    def _probed(self) -> tuple[tuple[float, ...] | None, str]:
        """`behaviour`, and the dtype that it was computed in."""
        if self.device.type == "meta" or self.probe() is None:
            return None, ""
        if self._stored_narrow():
            # What this may end in, memory or a network that cannot be copied, is no reason to refuse the network.
            with suppress(RuntimeError, MemoryError, TypeError, ValueError, AttributeError):
                return self._in_float32()._look_at_probe(), "float32"
        return self._look_at_probe(), str(self.dtype).removeprefix("torch.")

    def _look_at_probe(self) -> tuple[float, ...] | None:
        moved = map_tensors(self.probe(), lambda tensor: tensor.to(self.device))
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False), whole_float32():
            seen = sampled(self.probe_features(moved).float())
        return seen if all(map(math.isfinite, seen)) else None  # what is not a number tells nothing apart

    def _stored_narrow(self) -> bool:
        own = [*self.module.parameters(), *self.module.buffers()]
        return any(tensor.dtype in NARROW for tensor in own) and sum(tensor.numel() for tensor in own) <= WHOLE

    def _in_float32(self) -> Backbone:
        """A copy in float32 that shares what is float32 already."""
        memo: dict[int, Any] = {}
        for tensor in (*self.module.parameters(), *self.module.buffers()):
            new = tensor.detach().float() if tensor.dtype in NARROW else tensor
            memo[id(tensor)] = (
                nn.Parameter(new, False) if isinstance(tensor, nn.Parameter) and new is not tensor else new
            )
        return copy.deepcopy(self, memo)

    def structure(self) -> str:
        """Digest of how the network is built, and of what it does: the same weights in another network give other features."""
        behaviour = self.fingerprint().behaviour
        text = json.dumps([repr(self.module), None if behaviour is None else list(behaviour)])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def frozen_tensors(self) -> Iterator[Tensor]:
        """Parameters and persistent buffers, tied ones once."""
        seen: set[int] = set()
        for tensor in self.module.state_dict(keep_vars=True).values():
            if isinstance(tensor, Tensor) and id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Backbone:
        """Move the network, and cast it where `dtype` is given; returns self."""
        self.module.to(device=device, dtype=dtype)
        return self

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype
