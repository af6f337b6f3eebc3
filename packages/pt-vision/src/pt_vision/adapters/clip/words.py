"""What all text towers do with class names: rows, contexts, chunks of classes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pt_core.backbone import Edits, Features, Insert, Layout, Weights
from pt_core.dual import TextTower
from pt_core.errors import UserError
from pt_core.kernels import fast_paths_enabled
from pt_core.recompute import recomputed
from torch import Tensor, nn

from pt_vision.adapters.clip.rows import Context, Place, Rows, placed, rows_of, sets_of
from pt_vision.adapters.edits import Edits as Checked, apply_values
from pt_vision.networks.clip.tokens import Framing, IntArray

BUDGET = 2**23
"""Tokens x width x blocks of one chunk of classes: some twenty times as many values are kept for its backward pass."""
Sets = dict[int, Tensor]
"""Block -> context (g, 1 | c, m, d); what enters at `input` stands at 0."""


class WordsTower(TextTower):
    """A text tower over padded rows of tokens.

    Sites: `input` takes `Insert` or `Context`, learned tokens beside the class name (before position embeddings); `tokens[l]`, l >= 1,
    takes `Insert`: other tokens in the context's places (deep prompts). Both also take values (`Add`, `Replace`), then without fast paths.

    Attributes:
        framing: how its tokenizer builds rows.
        length: tokens of a row.
    """

    module: Any
    inserts = frozenset({"input", "tokens[l]"})

    def __init__(self, module: nn.Module, source: str, framing: Framing, settings: Mapping[str, Any]) -> None:
        super().__init__(module, source, {"length": framing.length, "pad": framing.pad, **settings})
        self.framing, self.length = framing, framing.length
        self._rows: dict[Any, Rows] = {}

    # -- of an adapter ---------------------------------------------------------------------------------------

    @abstractmethod
    def embedding(self) -> nn.Embedding:
        """The table of token embeddings."""

    @abstractmethod
    def plain(self, rows: Rows, sets: Sets, edits: Checked) -> tuple[Tensor, Tensor]:
        """(tokens (row, l, d) after the final norm, pooled (row, joint)); one row per set and class, sets before classes."""

    @abstractmethod
    def needed(self, ids: IntArray) -> int:
        """Places of rows that can change the result; behind them a row may be cut."""

    def shared(self, rows: Rows, sets: Sets) -> list[Tensor] | None:
        """What the beginning that all rows share leaves for the rest: computed once for every chunk; None where that is not valid."""
        return None

    def rest(self, rows: Rows, sets: Sets, start: list[Tensor]) -> Tensor:
        """(row, joint) of the places behind the shared beginning."""
        raise TypeError(f"{type(self).__name__} shares no beginning")

    # -- of all ----------------------------------------------------------------------------------------------

    def encode(self, inputs: Tensor, edits: Checked, read: frozenset[str] | None) -> Features:
        """Rows of ids (row, l); a context moves what is behind the head back, and only padding may fall off the end."""
        sets, _ = self._sets(edits, len(inputs))
        given = inputs.cpu().numpy()
        count = sets[0].shape[2] if 0 in sets else 0
        head = len(self.framing.head)
        if count and bool((given[:, -count:] != self.framing.pad).any()):
            raise UserError(f"a context of {count} does not fit into rows that are full")
        filler = np.full((len(given), count), self.framing.filler)
        ids = np.concatenate([given[:, :head], filler, given[:, head : given.shape[1] - count]], 1)
        places = np.tile(np.arange(head, head + count), (len(ids), 1))
        tokens, pooled = self.plain(Rows(ids, places), sets, self._values(edits))
        kinds = (("class", head), ("prompt", count), ("token", tokens.shape[1] - head - count))
        return Features(tokens, Layout(tuple(part for part in kinds if part[1])), {"pooled": pooled})

    def encode_words(
        self,
        names: Sequence[str],
        templates: Sequence[str] = ("{}",),
        edits: Edits | None = None,
        weights: Weights | None = None,
    ) -> Tensor:
        checked = self.check_edits(edits or {})
        sets, place = self._sets(checked, len(names))
        named: dict[str, Tensor] = {}
        for some in (self._bound, weights):
            named |= {} if some is None else dict(some.tensors() if hasattr(some, "tensors") else some)  # type: ignore[arg-type, operator]
        count, values = sets[0].shape[2] if 0 in sets else 0, self._values(checked)
        parts = [self._words(self.rows_for(names, text, count, place), sets, values, named) for text in templates]
        mean = parts[0] if len(parts) == 1 else torch.stack(parts).mean(0)
        per_sample = any(
            isinstance(e, Insert) and isinstance(e.tokens, Tensor) and e.tokens.ndim == 4
            for some in checked.values()
            for e in some
        )
        return mean if per_sample else mean[0]

    def probe(self) -> Tensor:
        """Rows of a few words."""
        return torch.as_tensor(
            self.framing.rows([self.framing.tokens(text) for text in ("a probe", "two of three words")])
        )

    def probe_features(self, inputs: Any) -> Tensor:
        features = self(inputs)
        pooled: Tensor = features.extra["pooled"]
        return torch.cat(
            [features.tokens.flatten(), pooled.flatten().repeat(1 + features.tokens.numel() // max(pooled.numel(), 1))]
        )

    def word_vectors(self, text: str) -> Tensor:
        """(token, d): embeddings of a text's tokens, to start a context from."""
        ids = torch.tensor(self.framing.tokens(text), device=self.device)
        return self.embedding()(ids).detach()

    def tensor(self, array: IntArray) -> Tensor:
        return torch.tensor(array.tolist(), dtype=torch.long, device=self.device)

    def embed(self, rows: Rows, sets: Sets, columns: slice = slice(None)) -> Tensor:
        """(g * c, l, d): embedded tokens with the context of `input` in its places, set by set."""
        count = max((some.shape[0] for some in sets.values()), default=1)
        hidden = self.embedding()(self.tensor(rows.ids[:, columns])).repeat(count, 1, 1)
        return self.put(hidden, rows, sets, 0, columns)

    def put(self, hidden: Tensor, rows: Rows, sets: Sets, layer: int, columns: slice = slice(None)) -> Tensor:
        """`hidden` (g * c, l, d), columns of rows, with the context of a block in its places there."""
        if layer not in sets:
            return hidden
        start, stop, _ = columns.indices(rows.ids.shape[1])
        inside = (rows.places[0] >= start) & (rows.places[0] < stop)  # the same in all rows
        if not bool(inside.any()):
            return hidden
        classes, tokens = len(rows.ids), sets[layer][:, :, slice(*_span(inside))]
        count = len(hidden) // classes
        tokens = tokens.expand(count, classes, *tokens.shape[2:]).flatten(0, 1)
        return placed(hidden, tokens, self.tensor(rows.places[:, inside] - start).repeat(count, 1))

    def _words(self, rows: Rows, sets: Sets, values: Checked, named: dict[str, Tensor]) -> Tensor:
        """(g, c, joint)."""
        if values or not fast_paths_enabled():
            pooled: Tensor = self.with_weights(named or None, lambda: self.plain(rows, sets, values)[1])
            return pooled.unflatten(0, (-1, len(rows.ids)))
        rows = Rows(rows.ids[:, : self.needed(rows.ids)], rows.places)
        start = self.with_weights(named or None, lambda: self.shared(rows, sets))
        layers, count = list(sets), max((some.shape[0] for some in sets.values()), default=1)
        size = max(1, BUDGET // (count * rows.ids.shape[1] * self.dim * max(self.depth, 1)))
        parts = []
        for first in range(0, len(rows.ids), size):
            chosen = slice(first, first + size)
            own = Rows(rows.ids[chosen], rows.places[chosen])
            given = [some if some.shape[1] == 1 else some[:, chosen] for some in sets.values()]

            def run(*tensors: Tensor, own: Rows = own) -> Tensor:
                own_sets = dict(zip(layers, tensors, strict=False))
                begin = None if start is None else list(tensors[len(layers) : len(layers) + len(start)])
                swapped = dict(zip(named, tensors[len(tensors) - len(named) :], strict=True))
                result: Tensor = self.with_weights(
                    swapped or None,
                    lambda: self.plain(own, own_sets, {})[1] if begin is None else self.rest(own, own_sets, begin),
                )
                return result

            tensors = (*given, *(start or ()), *named.values())
            again = size < len(rows.ids) and torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
            parts.append((recomputed(run, *tensors) if again else run(*tensors)).unflatten(0, (count, -1)))
        return torch.cat(parts, 1)

    def rows_for(self, names: Sequence[str], template: str, count: int, place: Place) -> Rows:
        """Rows of names with `count` places for a context, kept for the next call; refuses what does not fit."""
        key = (tuple(names), template, count, place)
        if key not in self._rows:
            if len(self._rows) >= 16:
                self._rows.clear()
            self._rows[key] = rows_of(self.framing, names, template, count, place, self.source)
        return self._rows[key]

    def _sets(self, edits: Checked, classes: int) -> tuple[Sets, Place]:
        sets: Sets = {}
        place: Place = "end"
        for site, some in edits.items():
            layer = 0 if site == "input" else int(site[len("tokens[") : -1]) if site.startswith("tokens[") else -1
            for edit in some:
                if not isinstance(edit, Insert):
                    continue
                if layer in sets or (layer == 0 and site != "input") or callable(edit.tokens) or edit.index is not None:
                    raise UserError(f"{site!r} takes one set of context tokens; the first block's enter at 'input'")
                if edit.tokens.shape[-2]:
                    sets[layer] = sets_of(edit.tokens, classes, self.dim, site)
                place = edit.place if isinstance(edit, Context) else place
        counts = {layer: some.shape[2] for layer, some in sets.items()}
        if len(set(counts.values())) > 1 or (sets and 0 not in sets):
            raise UserError(f"deep context tokens take the places of those at 'input', as many of them; got {counts}")
        many = {some.shape[0] for some in sets.values()} - {1}
        if len(many) > 1:
            raise UserError(f"contexts for {sorted(many)} samples in one call")
        return sets, place

    @staticmethod
    def _values(edits: Checked) -> Checked:
        kept = {site: tuple(e for e in some if not isinstance(e, Insert)) for site, some in edits.items()}
        return {site: some for site, some in kept.items() if some}

    def valued(self, site: str, hidden: Tensor, edits: Checked) -> Tensor:
        return apply_values(site, hidden, Layout((("token", hidden.shape[1]),)), edits) if site in edits else hidden


def _span(inside: NDArray[np.bool_]) -> tuple[int, int]:
    """The first of the contexts' tokens that are inside, and the one behind the last: they lie side by side."""
    found = np.flatnonzero(inside)
    return int(found[0]), int(found[-1]) + 1
