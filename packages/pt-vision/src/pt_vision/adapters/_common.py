"""What the vision adapters share: inserted prompts, value sites, extra keys and values, pooling."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pt_core.backbone import Add, Backbone, Claim, Edit, Features, Insert, KeyValue, Layout, Replace
from pt_core.errors import ConfigError, UserError, nearest
from torch import Tensor, nn
from torch.nn import functional as F

Edits = Mapping[str, tuple[Edit, ...]]


@dataclass(frozen=True)
class Prompt:
    """Prompt tokens at one block: (1 | batch, prompt, dim), or (tenants, prompt, dim) with `index` (batch,)."""

    tokens: Tensor
    at: Literal["after_prefix", "front"] = "after_prefix"
    index: Tensor | None = None

    def per_row(self, batch: int) -> Tensor:
        """(batch, prompt, dim)."""
        return gather_rows(self.tokens, self.index, batch)


def gather_rows(x: Tensor, index: Tensor | None, batch: int) -> Tensor:
    """(1 | batch | tenants, ...) -> (batch, ...)."""
    if index is not None:
        return x.index_select(0, index)
    return x.expand(batch, *x.shape[1:])


class VisionBackbone(Backbone):
    """A backbone that reads images (batch, channel, row, column), normalised floats.

    Attributes:
        dims: token width per block.
        feature_dim: width of what `pool` returns.
        patch_size, image_size: (rows, columns) in pixels.
        grid: (rows, columns) of the own tokens that leave the last block, at `image_size`.
        num_prefix: class and register tokens in front of the own tokens.
        has_class: whether there is a class token.
        notes: remarks of the loader that a user should see.
    """

    dims: tuple[int, ...]
    feature_dim: int
    patch_size: tuple[int, int]
    image_size: tuple[int, int]
    grid: tuple[int, int]
    num_prefix: int = 0
    has_class: bool = False
    notes: tuple[str, ...] = ()
    pools: tuple[str, ...] = ("default", "class", "token", "prompt", "all_but_class", "all")

    def width(self, layer: int) -> int:
        return self.dims[layer]

    def require_tokens(self) -> None:
        """Refuse a network that has no tokens to put prompts beside.

        Raises:
            ConfigError: names the network, and the method that works on it.
        """
        if not self.depth:
            raise ConfigError(
                f"backbone {self.source!r} is a {type(self.module).__name__}, which has no token sequence to put prompts into; "
                "choose a ViT, Eva or Swin, or tune pixels around its pictures: vpt_pixel --location pad"
            )

    def token_count(self, layer: int) -> int:
        """Tokens that enter block `layer` at `image_size`, prompts not counted."""
        return self.num_prefix + self.grid[0] * self.grid[1]

    def enter(self, tokens: Tensor) -> Tensor:
        """What embedded tokens go through before block 0 (a norm in CLIP-style models); for prompts that go there."""
        return tokens

    def pool(self, features: Features, how: str = "default", *, weights: Claim | None = None) -> Tensor:
        """One vector per image.

        Args:
            features: what the backbone returned, with at least the segments of `pool_segments(how)`.
            how: `default` (what the backbone's own head reads), `class`, `token` (mean of the input's own tokens),
                `prompt` (mean of the kept prompts), `all_but_class` (mean of own tokens, registers and kept prompts),
                `all` (mean of everything).
            weights: the claimed weights that produced `features`, where pooling itself has weights.

        Returns:
            (batch, feature_dim)

        Raises:
            UserError: an unknown pooling, or one that reads tokens which are not there.
        """
        self.pool_segments(how)
        if weights is None:
            return self._pool(features, how)
        swapped = {f"module.{name}": tensor for name, tensor in weights.tensors().items()}
        run: Any = lambda: self._pool(features, how)  # noqa: E731
        result: Any = torch.func.functional_call(self._call, swapped, (run,), tie_weights=True, strict=False)
        pooled: Tensor = result
        return pooled

    def pool_segments(self, how: str = "default") -> tuple[str, ...] | None:
        """The segments that `pool(..., how)` reads: pass them as `read`. None: all of them.

        Raises:
            UserError: an unknown pooling, or one that this backbone cannot do.
        """
        if how not in self.pools:
            raise UserError(f"unknown pooling {how!r}{nearest(how, self.pools)}; known: {', '.join(self.pools)}")
        if how == "class" and not self.has_class:
            raise UserError(f"backbone {self.source!r} has no class token; pool 'token' or 'default'")
        if how == "all":
            return None
        if how == "all_but_class":
            return ("prompt", "register", "token")
        return self._default_segments() if how == "default" else (how,)

    @abstractmethod
    def _default_segments(self) -> tuple[str, ...]:
        """The segments that the default pooling reads."""

    @abstractmethod
    def _pool(self, features: Features, how: str) -> Tensor:
        """(batch, dim) of the features by a pooling of `pools`."""

    def _read_pixels(self, inputs: Tensor, edits: Edits, patch_embed: Any) -> Tensor:
        """Check the images, apply the edits of `pixels`, and cast to the backbone's dtype."""
        channels = patch_embed.proj.in_channels if hasattr(patch_embed.proj, "in_channels") else 3
        if inputs.ndim != 4 or inputs.shape[1] != channels:
            raise UserError(f"images must be (batch, {channels}, rows, columns), got {tuple(inputs.shape)}")
        if not inputs.is_floating_point():
            raise UserError(f"images must be normalised floats, got {str(inputs.dtype).removeprefix('torch.')}")
        rows, columns = inputs.shape[2:]
        inputs = apply_values("pixels", inputs, Layout((), (rows, columns)), edits)
        rows, columns = inputs.shape[2:]
        if patch_embed.img_size is not None and getattr(patch_embed, "strict_img_size", True):
            want = tuple(patch_embed.img_size)
            if (rows, columns) != want:
                raise UserError(
                    f"images are {rows}x{columns}, backbone {self.source!r} takes {want[0]}x{want[1]}; "
                    "resize them, or load the backbone with another image_size"
                )
        high, wide = self.patch_size
        dynamic = not getattr(patch_embed, "strict_img_size", True) and not getattr(
            patch_embed, "dynamic_img_pad", False
        )
        if dynamic and (rows % high or columns % wide):
            raise UserError(
                f"images are {rows}x{columns}, no multiple of the patch size {high}x{wide} of {self.source!r}"
            )
        return inputs.to(self.dtype)


def apply_values(site: str, hidden: Tensor, layout: Layout, edits: Edits) -> Tensor:
    """Run the `Add` and `Replace` edits of a value site in order; what they return is cast to the dtype of `hidden`."""
    for edit in edits.get(site, ()):
        hidden = apply_value(site, hidden, layout, edit)
    return hidden


def apply_value(site: str, hidden: Tensor, layout: Layout, edit: Edit) -> Tensor:
    if not isinstance(edit, (Add, Replace)):
        raise UserError(f"site {site!r} takes Add or Replace, not {type(edit).__name__}")
    value = edit.fn(hidden, layout).to(hidden.dtype)
    result = hidden + value if isinstance(edit, Add) else value
    if result.shape != hidden.shape and site != "pixels":
        raise UserError(f"the edit of {site!r} returned {tuple(value.shape)} for tokens {tuple(hidden.shape)}")
    return result


def add_branches(site: str, hidden: Tensor, layout: Layout, edits: Edits, out: Tensor) -> Tensor:
    """out + sum of fn(hidden) over the `Add` edits of a branch site."""
    for edit in edits.get(site, ()):
        assert isinstance(edit, Add)
        branch = edit.fn(hidden, layout)
        if branch.shape != out.shape:
            raise UserError(f"the edit of {site!r} returned {tuple(branch.shape)} for tokens {tuple(hidden.shape)}")
        out = out + branch.to(out.dtype)
    return out


def enter_block(
    site: str, hidden: Tensor, layout: Layout, edits: Edits, prefix: bool = True
) -> tuple[Tensor, Layout, list[Prompt]]:
    """Apply the edits of `tokens[l]` in order.

    Kept prompts join the sequence, and later edits see them. Prompts whose output is dropped after the block never are
    part of the sequence that edits see; they come back in a list.
    """
    dropped: list[Prompt] = []
    for edit in edits.get(site, ()):
        if not isinstance(edit, Insert):
            hidden = apply_value(site, hidden, layout, edit)
            continue
        prompt = resolve_insert(site, hidden, layout, edit)
        if prompt.tokens.shape[1] == 0:
            continue
        if edit.keep_output:
            hidden, layout = insert_kept(site, hidden, layout, prompt, prefix)
        else:
            dropped.append(prompt)
    return hidden, layout, dropped


def resolve_insert(site: str, hidden: Tensor, layout: Layout, edit: Insert) -> Prompt:
    """The prompt of an `Insert` in normal form, cast to the dtype of `hidden`.

    Raises:
        UserError: shapes that do not fit the batch or the token width.
    """
    batch, _, dim = hidden.shape
    tokens = edit.tokens(hidden, layout) if callable(edit.tokens) else edit.tokens
    tokens = tokens[None] if tokens.ndim == 2 else tokens
    if tokens.ndim != 3 or tokens.shape[2] != dim:
        raise UserError(f"prompt tokens {tuple(tokens.shape)} do not fit {site!r}, which has (batch, tokens, {dim})")
    index = edit.index
    if index is None:
        if tokens.shape[0] not in (1, batch):
            raise UserError(
                f"{site!r}: {tokens.shape[0]} sets of prompts for a batch of {batch}; give 1, {batch}, or an index"
            )
    else:
        if index.shape != (batch,):
            raise UserError(f"{site!r}: the prompt index has shape {tuple(index.shape)}, the batch needs ({batch},)")
        index = index.to(device=hidden.device, dtype=torch.long)
    return Prompt(tokens.to(device=hidden.device, dtype=hidden.dtype), edit.at, index)


def insert_kept(site: str, hidden: Tensor, layout: Layout, prompt: Prompt, prefix: bool) -> tuple[Tensor, Layout]:
    if layout.count("prompt"):
        raise UserError(
            f"{site!r}: {layout.count('prompt')} kept prompts are in the sequence already; "
            "insert kept prompts once per call (a Replace edit can overwrite them)"
        )
    kinds = [kind for kind, _ in layout.segments]
    place = 0 if prompt.at == "front" or not prefix else kinds.index("token")
    start = sum(length for _, length in layout.segments[:place])
    rows = prompt.per_row(hidden.shape[0])
    segments = (*layout.segments[:place], ("prompt", rows.shape[1]), *layout.segments[place:])
    return torch.cat([hidden[:, :start], rows, hidden[:, start:]], dim=1), Layout(segments, layout.grid)


def concatenate(hidden: Tensor, layout: Layout, prompts: Sequence[Prompt]) -> tuple[Tensor, list[slice]]:
    """Put prompts into the sequence; returns it and where the former tokens lie."""
    batch = hidden.shape[0]
    front = [p.per_row(batch) for p in prompts if p.at == "front"]
    inner = [p.per_row(batch) for p in prompts if p.at != "front"]
    kinds = [kind for kind, _ in layout.segments]
    start = sum(length for _, length in layout.segments[: kinds.index("token")])
    joined = torch.cat([*front, hidden[:, :start], *inner, hidden[:, start:]], dim=1)
    first = sum(x.shape[1] for x in front)
    second = first + start + sum(x.shape[1] for x in inner)
    own = [slice(first, first + start), slice(second, joined.shape[1])]
    return joined, [s for s in own if s.stop > s.start]


def narrow(x: Tensor, parts: Sequence[slice] | None) -> Tensor:
    """x[:, parts], a view where it is one slice."""
    if parts is None:
        return x
    return x[:, parts[0]] if len(parts) == 1 else torch.cat([x[:, part] for part in parts], dim=1)


def select(layout: Layout, read: Iterable[str], source: str) -> tuple[list[slice], Layout]:
    """The slices of the segments in `read`, neighbours joined, and the layout of what is left.

    Raises:
        UserError: none of them is in the sequence.
    """
    wanted = frozenset(read)
    segments = tuple((kind, length) for kind, length in layout.segments if kind in wanted and length)
    if not segments:
        have = ", ".join(kind for kind, _ in layout.segments)
        names = " or ".join(sorted(wanted))
        raise UserError(f"backbone {source!r} has no {names} tokens to read; the sequence holds: {have}")
    parts: list[slice] = []
    for kind, _ in segments:
        part = layout.slice(kind)
        if parts and parts[-1].stop == part.start:
            part = slice(parts.pop().start, part.stop)
        parts.append(part)
    return parts, Layout(segments, layout.grid if "token" in wanted else None)


def merge_key_values(parts: Sequence[KeyValue], batch: int) -> KeyValue | None:
    """One `KeyValue` from several; stays batch-1 or a bank where all of them agree on it."""
    parts = [part for part in parts if part.k.shape[2]]
    if len(parts) < 2:
        return parts[0] if parts else None
    first = parts[0]
    if all(part.index is first.index and part.k.shape[0] == first.k.shape[0] for part in parts):
        return KeyValue(torch.cat([p.k for p in parts], 2), torch.cat([p.v for p in parts], 2), first.index)
    keys = torch.cat([gather_rows(p.k, p.index, batch) for p in parts], 2)
    return KeyValue(keys, torch.cat([gather_rows(p.v, p.index, batch) for p in parts], 2))


def check_key_value(site: str, edit: Edit, batch: int, heads: int, head_dim: int, device: torch.device) -> KeyValue:
    """A `KeyValue` edit with its shapes checked and its index on the device."""
    assert isinstance(edit, KeyValue)
    shape = tuple(edit.k.shape)
    if edit.k.shape != edit.v.shape or len(shape) != 4 or shape[1] != heads or shape[3] != head_dim:
        raise UserError(
            f"{site!r} takes keys and values (1 | batch, {heads}, prompt, {head_dim}), "
            f"got {shape} and {tuple(edit.v.shape)}"
        )
    if edit.index is None:
        if shape[0] not in (1, batch):
            raise UserError(f"{site!r}: {shape[0]} sets of keys for a batch of {batch}; give 1, {batch}, or an index")
        return edit
    if edit.index.shape != (batch,):
        raise UserError(f"{site!r}: the prompt index has shape {tuple(edit.index.shape)}, the batch needs ({batch},)")
    return KeyValue(edit.k, edit.v, edit.index.to(device=device, dtype=torch.long))


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """(batch, tokens, parts * heads * head_dim) -> `parts` tensors (batch, heads, tokens, head_dim)."""
    batch, tokens, _ = x.shape
    return x.reshape(batch, tokens, parts, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def project_key_value(
    qkv: nn.Linear, heads: int, tokens: Tensor, k_norm: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Keys and values (rows, heads, tokens, head_dim) of normalised tokens (rows, tokens, dim), without queries."""
    inner = qkv.out_features // 3
    bias = None if qkv.bias is None else qkv.bias[inner:]
    kv = F.linear(tokens, qkv.weight[inner:], bias)
    k, v = split_heads(kv, 2, heads)
    return (k if k_norm is None else k_norm(k)), v


def lower_inserts(edits: Mapping[str, Any], to_key_value: Callable[[int, Insert], KeyValue | None]) -> dict[str, Any]:
    """Move every `Insert` that `to_key_value(layer, insert)` turns into keys and values from `tokens[l]` to `kv[l]`."""
    lowered: dict[str, list[Edit]] = {
        site: list(items) if isinstance(items, (list, tuple)) else [items] for site, items in edits.items()
    }
    for site in [s for s in lowered if s.startswith("tokens[")]:
        layer = int(site[len("tokens[") : -1])
        kept: list[Edit] = []
        for edit in lowered.pop(site):
            fixed = isinstance(edit, Insert) and not edit.keep_output and isinstance(edit.tokens, Tensor)
            made = to_key_value(layer, edit) if fixed and isinstance(edit, Insert) else None
            if made is None:
                kept.append(edit)
            else:
                lowered.setdefault(f"kv[{layer}]", []).append(made)
        if kept:
            lowered[site] = kept
    return {site: tuple(items) for site, items in lowered.items()}
