"""Point-MAE and Point-BERT behind the Backbone contract.

Both add the positions of all tokens before EVERY block: x <- Block(x + p). So at `tokens[l]` edits see the sequence that enters block l
BEFORE that block's positions are added. Class and patch tokens get theirs then; inserted tokens get none: a prompt with a position is
inserted as their sum, and one that stays for later blocks gets its position there by an `Add` edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pt_core.backbone import Add, Backbone, Claim, Edit, Edits as AnyEdits, Features, Insert, KeyValue, Layout, Weights
from pt_core.errors import DataError, UserError
from pt_core.kernels import fast_paths_enabled, prompt_attention
from torch import Tensor
from torch.nn import functional as F

from pt_pointcloud.networks.edits import Edits, Prompt, apply, changed, keep, key_value, merge
from pt_pointcloud.networks.grouping import group_indices, patches, take
from pt_pointcloud.networks.transformer import CLASS_TENSORS, PointTransformer


@dataclass(frozen=True)
class Resume:
    """Tokens on their way: what entered block `layer` (0: the embedded patches, without class token), from `PointBackbone.pack`.

    packed: (batch, token, dim + 3), each token with its centre; the class token's centre is 0 and unused.
    """

    packed: Tensor
    layer: int = 0


@dataclass(frozen=True)
class _Request:
    inputs: Any
    class_token: bool


class PointBackbone(Backbone):
    """A frozen `PointTransformer`.

    Inputs: points (batch, N, 3); a mapping with `points` and, where they are known, `centres` (batch, G) and `neighbours` (batch, G, M) as
    indices into them; or `Resume`.

    Sites: `input` (embedded patches), `tokens[l]`, `kv[l]`, `attn_out[l]`, `mlp_in[l]`, `features`. Besides segments, `read` takes
    `block[l]` (the output of a block, dropped prompts included, behind the final norm) and `attention[l]` (its attention weights,
    (batch, head, query, key)); both are found in `Features.extra`, with `centres` (batch, G, 3).

    The class token takes part where it was pretrained (Point-BERT) or is given as a claimed weight.
    """

    sites = frozenset({"input", "tokens[l]", "kv[l]", "attn_out[l]", "mlp_in[l]", "features"})
    module: PointTransformer

    def __init__(self, module: PointTransformer, source: str, preprocessing: Mapping[str, Any] | None = None) -> None:
        config = module.config
        prepared = {
            "points": config.points,
            "groups": config.groups,
            "group_size": config.group_size,
            "normalise": "unit_sphere",
            **(preprocessing or {}),
        }
        super().__init__(module, source, prepared)
        self.config = config
        self.dim, self.depth = config.dim, config.depth
        self.notes: tuple[str, ...] = ()

    @property
    def groups(self) -> int:
        """G, patch tokens per cloud."""
        return self.config.groups

    def __call__(
        self,
        inputs: Any,
        edits: AnyEdits | None = None,
        *,
        weights: Weights | None = None,
        read: Sequence[str] | None = None,
        class_token: bool | None = None,
    ) -> Features:
        """See `Backbone.__call__`; `class_token` overrides whether it takes part."""
        return super().__call__(
            _Request(inputs, self._takes_class(weights, class_token)), edits, weights=weights, read=read
        )

    def _takes_class(self, weights: Weights | None, asked: bool | None) -> bool:
        if asked is not None:
            return asked
        return self.module.class_token_trained or CLASS_TENSORS[0] in _named(weights)

    # -- the forward pass ----------------------------------------------------------------------------------------------------

    def encode(self, inputs: Any, edits: Edits, read: frozenset[str] | None) -> Features:
        request = inputs if isinstance(inputs, _Request) else _Request(inputs, self._takes_class(None, None))
        hidden, centres, layout, first = self._start(request, edits)
        hidden, layout, extra = self._blocks(hidden, centres, layout, edits, read or frozenset(), first, self.depth)
        hidden = apply("features", self.module.norm(hidden), layout, edits)
        if read is not None:
            kinds = [kind for kind in read if "[" not in kind]
            unknown = [
                kind for kind in kinds if not any(kind == name for name, _ in layout.segments) and kind != "prompt"
            ]
            if unknown:
                raise UserError(
                    f"backbone {self.source!r} has no segment {unknown[0]!r}; it has {', '.join(k for k, _ in layout.segments)}"
                )
            kept = [(kind, length) for kind, length in layout.segments if kind in kinds]
            if len(kept) < len(layout.segments):
                parts = [hidden[:, layout.slice(kind)] for kind, _ in kept]
                hidden = torch.cat(parts, 1) if parts else hidden[:, :0]
            layout = Layout(tuple(kept))
        return Features(hidden, layout, {"centres": centres, **extra})

    def probe(self) -> dict[str, Tensor]:
        """Points on a spiral, in patches of consecutive ones, so that nothing hangs on which of two distances is larger."""
        groups, size = self.groups, self.config.group_size
        point = torch.arange(max(2 * groups, size + 1))
        along, turn = point / len(point), 2.4 * point
        points = torch.stack([along * turn.cos(), 1 - 2 * along, (0.3 + along) * turn.sin()], -1)
        centres = torch.arange(groups) * len(point) // groups
        return {
            "points": points[None],
            "centres": centres[None],
            "neighbours": ((centres[:, None] + torch.arange(size)) % len(point))[None],
        }

    def replaced(self, tensors: Mapping[str, Tensor], source: str) -> Backbone:
        """A class token that an earlier run tuned takes part from now on."""
        found = super().replaced(tensors, source)
        self.module.class_token_trained = self.module.class_token_trained or set(CLASS_TENSORS) <= set(tensors)
        return found

    def pack(self, inputs: Any, layer: int, weights: Weights | None = None) -> Tensor:
        """(batch, token, dim + 3): what enters block `layer`, without edits, for `Resume`. Layer 0 is without the class token."""

        def run() -> Features:
            request = _Request(inputs, layer > 0 and self._takes_class(weights, None))
            hidden, centres, layout, _ = self._start(request, {})
            hidden, layout, _ = self._blocks(hidden, centres, layout, {}, frozenset(), 0, layer)
            at = F.pad(centres, (0, 0, hidden.shape[1] - centres.shape[1], 0)).to(hidden.dtype)
            return Features(torch.cat([hidden, at], -1), layout)

        if self._bound is not None:
            weights = {**_named(self._bound), **_named(weights)}
        packed: Features = self.with_weights(weights, run)
        return packed.tokens

    def prepare(self, inputs: Any) -> Any:
        """The same inputs with the indices of their patches, where they lack them."""
        if isinstance(inputs, Resume) or (isinstance(inputs, Mapping) and "centres" in inputs):
            return inputs
        points = inputs["points"] if isinstance(inputs, Mapping) else inputs
        with torch.no_grad():
            centres, neighbours = group_indices(points.float(), self.groups, self.config.group_size)
        return {"points": points, "centres": centres, "neighbours": neighbours}

    def centres(self, inputs: Any) -> Tensor:
        """(batch, G, 3) centres of the patches, of prepared inputs."""
        if isinstance(inputs, Resume):
            return inputs.packed[:, -self.groups :, -3:]
        return take(inputs["points"].float(), inputs["centres"])

    def positions(self, inputs: Any) -> Tensor:
        """(batch, G, dim) positions of the patches, of prepared inputs."""
        out: Tensor = self.module.pos_embed(self.centres(inputs).to(self.dtype))
        return out

    def _start(self, request: _Request, edits: Edits) -> tuple[Tensor, Tensor, Layout, int]:
        """Tokens, centres, layout, and the block they enter."""
        given = request.inputs
        if isinstance(given, Resume):
            # Contiguous: strided rows may take another product kernel, which rounds differently from the whole pass.
            hidden = given.packed[..., :-3].to(self.dtype).contiguous()
            centres = given.packed[:, given.packed.shape[1] - self.groups :, -3:].contiguous()
            if given.layer:
                kept = hidden.shape[1] - self.groups
                return (
                    hidden,
                    centres,
                    Layout((("class", kept), ("token", self.groups)) if kept else (("token", self.groups),)),
                    given.layer,
                )
        else:
            centres, grouped = self._patches(given)
            hidden = self.module.embed(grouped.to(self.dtype))
        own = Layout((("token", hidden.shape[1]),))
        hidden = apply("input", hidden, own, edits)
        if not request.class_token:
            return hidden, centres, own, 0
        token = self.module.cls_token.to(hidden.dtype).expand(len(hidden), -1, -1)
        return torch.cat([token, hidden], 1), centres, Layout((("class", 1), *own.segments)), 0

    def _patches(self, given: Any) -> tuple[Tensor, Tensor]:
        points = given["points"] if isinstance(given, Mapping) else given
        if not isinstance(points, Tensor) or points.ndim != 3 or points.shape[-1] != 3:
            shape = tuple(points.shape) if isinstance(points, Tensor) else type(points).__name__
            raise DataError(f"backbone {self.source!r} reads points (batch, point, 3), not {shape}")
        points = points.float()
        with torch.no_grad():
            known = isinstance(given, Mapping) and "centres" in given
            index = (
                (given["centres"], given["neighbours"])
                if known
                else group_indices(points, self.groups, self.config.group_size)
            )
        return patches(points, *index)

    def _blocks(
        self, hidden: Tensor, centres: Tensor, layout: Layout, edits: Edits, read: frozenset[str], first: int, last: int
    ) -> tuple[Tensor, Layout, dict[str, Tensor]]:
        """Blocks first..last-1; returns the tokens, their layout, and what `read` names of the blocks."""
        extra: dict[str, Tensor] = {}
        for layer in range(first, last):
            dropped: list[Prompt] = []
            for edit in edits.get(f"tokens[{layer}]", ()):
                if isinstance(edit, Insert):
                    prompt = Prompt(
                        edit.tokens if isinstance(edit.tokens, Tensor) else edit.tokens(hidden, layout), edit.index
                    )
                    prompt = prompt.checked(self.width(layer), layer, len(hidden), hidden)
                    if edit.keep_output:
                        hidden, layout = keep(hidden, layout, prompt.rows(len(hidden)), edit.at)
                    else:
                        dropped.append(prompt)
                else:
                    hidden = changed(edit, hidden, layout)
            hidden = hidden + self._positions(centres, layout, hidden)
            hidden = self._block(layer, hidden, layout, dropped, edits, read, extra)
        return hidden, layout, extra

    def _positions(self, centres: Tensor, layout: Layout, hidden: Tensor) -> Tensor:
        """(batch, token, dim) in the order of the layout; zero for inserted tokens."""
        batch, dim = len(centres), self.dim
        parts = {"token": self.module.pos_embed(centres.to(self.dtype))}
        if layout.count("class"):
            parts["class"] = self.module.cls_pos.to(hidden.dtype).expand(batch, -1, -1)
        if layout.count("prompt"):
            parts["prompt"] = hidden.new_zeros(1, 1, dim).expand(batch, layout.count("prompt"), dim)
        return torch.cat([parts[kind] for kind, _ in layout.segments], 1)

    def _block(
        self,
        layer: int,
        hidden: Tensor,
        layout: Layout,
        dropped: list[Prompt],
        edits: Edits,
        read: frozenset[str],
        extra: dict[str, Tensor],
    ) -> Tensor:
        block: Any = self.module.blocks.blocks[layer]
        asked = f"block[{layer}]" in read or f"attention[{layer}]" in read
        added = 0
        if dropped and (asked or not fast_paths_enabled()):
            rows = [prompt.rows(len(hidden)) for prompt in dropped]
            added = sum(row.shape[1] for row in rows)
            hidden, dropped = torch.cat([*rows, hidden], 1), []
        normed = block.norm1(hidden)
        q, k, v = block.attn.split(normed)
        if f"attention[{layer}]" in read:
            extra[f"attention[{layer}]"] = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        outside = [key_value(block, prompt) for prompt in dropped]
        outside += [edit for edit in edits.get(f"kv[{layer}]", ()) if isinstance(edit, KeyValue)]
        if outside:
            merged = merge(outside, len(hidden))
            attended = prompt_attention(q, k, v, merged.k.to(k), merged.v.to(v), index=merged.index)
        else:
            attended = F.scaled_dot_product_attention(q, k, v)
        branch = apply(f"attn_out[{layer}]", block.attn.join(attended), layout, edits, added)
        hidden = hidden + block.drop_path(branch, "attn")
        out: Tensor = hidden + block.drop_path(block.mlp(block.norm2(hidden)), "mlp")
        for edit in edits.get(f"mlp_in[{layer}]", ()):
            assert isinstance(edit, Add)
            out = torch.cat([out[:, :added], out[:, added:] + edit.fn(hidden[:, added:], layout).to(out.dtype)], 1)
        if f"block[{layer}]" in read:
            extra[f"block[{layer}]"] = self.module.norm(out)
        return out[:, added:]

    def lower(self, edits: AnyEdits) -> AnyEdits:
        """Keys and values of prompts that are tensors and dropped behind their block, computed once; carries no gradient."""
        if not fast_paths_enabled():
            return edits
        lowered: dict[str, list[Edit]] = {}
        for site, items in self.check_edits(edits).items():
            for edit in items:
                if isinstance(edit, Insert) and isinstance(edit.tokens, Tensor) and not edit.keep_output:
                    layer = int(site[site.index("[") + 1 : -1])
                    prompt = Prompt(edit.tokens.to(self.device, self.dtype), edit.index).checked(
                        self.dim, layer, None, edit.tokens
                    )
                    block: Any = self.module.blocks.blocks[layer]
                    lowered.setdefault(f"kv[{layer}]", []).append(key_value(block, prompt))
                else:
                    lowered.setdefault(site, []).append(edit)
        return lowered


def _named(weights: Weights | None) -> Mapping[str, Tensor]:
    return weights.tensors() if isinstance(weights, Claim) else weights or {}
