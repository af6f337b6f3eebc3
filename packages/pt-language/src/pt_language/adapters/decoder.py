"""Decoder-only language models (GPT-2, Llama, Qwen, Mistral ...)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, cast

import torch
from pt_core import Edits, Features, Insert, KeyValue, Layout
from pt_core.backbone import Edit, Weights
from pt_core.bridges import transformers as bridge
from pt_core.bridges.answers import IGNORED
from pt_core.errors import UserError
from pt_core.kernels._mode import fast_paths_enabled
from torch import Tensor

from pt_language.adapters.base import LanguageBackbone, Prefix
from pt_language.adapters.logits import gather_mean


class DecoderBackbone(LanguageBackbone):
    """A causal language model. Prompts that do not depend on the row run once, with batch 1, and share their keys and values."""

    kind = "decoder"
    sites = frozenset({"input", "tokens[l]", "kv[l]"})

    def __init__(self, module: Any, tokenizer: Any, source: str) -> None:
        self._kept = bridge.examine(module.eval(), f"{source!r} ({type(module).__name__})")
        super().__init__(module, tokenizer, source)

    @cached_property
    def feature_dim(self) -> int:
        """As one token shows it: some models project their last states to another width."""
        one = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        try:
            with torch.no_grad():
                hidden = bridge.run(self.module, self.embed(one), torch.ones_like(one), hidden=True).hidden
        except Exception:  # a network without values may not run
            if self.device.type == "meta":
                return self._hidden_size
            raise
        return self._hidden_size if hidden is None else int(hidden.shape[-1])

    @property
    def pairs(self) -> bridge.Kept | None:
        """As the model's own cache keeps them."""
        if self._kept is None and self.device.type == "meta":
            return super().pairs
        return self._kept if self.shares else None

    @property
    def shares(self) -> bool:
        """Whether what stands in front of all texts can run once, for its keys and values to serve every row; else it runs with each."""
        if self._kept is None:
            return False
        return self.looked("shared", lambda network: cast("DecoderBackbone", network)._shares_exactly())

    @property
    def takes_padding(self) -> bool:
        """As everywhere; what cannot share a prompt's cache runs apart."""
        return self.shares and super().takes_padding

    def together(self, rows: int) -> int:
        """How many rows of any lengths, behind any prompts, may decode in one batch, of `rows` that are wanted: all, or one.

        Raises:
            UserError: not even one, for the network keeps no keys and values that prompts could be put into.
        """
        if not self.shares:
            raise UserError(
                f"{self.source!r} ({type(self.module).__name__}) keeps no keys and values that prompts could share: it cannot serve them"
            )
        return rows if self.takes_padding else 1

    def sites_of(self, family: str) -> int:
        return len(self.pairs or ()) if family == "kv[l]" else self.depth

    def _shares_exactly(self) -> bool:
        """Whether a text behind the cache of a prompt becomes what it becomes behind the prompt."""
        limit = min((x for x in (self.sizes.context, self.sizes.window) if x is not None), default=5)
        ids = bridge.probe_texts(len(self.embeddings))["ids"][:1, : min(5, limit)].to(self.device)
        front, ones = ids.shape[1] // 2, torch.ones_like(ids)
        vectors = self.embed(ids)
        want = bridge.run(self.module, vectors, ones).logits[:, front:]
        cache = bridge.run(self.module, vectors[:, :front], ones[:, :front], keep=1, use_cache=True).cache
        return bridge.alike(bridge.run(self.module, vectors[:, front:], ones[:, front:], prefix=cache).logits, want)

    def seen_of_last(self, inputs: Mapping[str, Tensor], edits: Edits) -> Tensor:
        """Scores of the text, and of one more token where it can go on."""
        found = self(inputs, edits, read=("logits", "cache") if self.shares else ("logits",)).extra
        logits: Tensor = found["logits"][-1][inputs["mask"][-1].bool()]
        if not self.shares:
            return logits
        more = bridge.step(self.module, inputs["ids"][:, -1:], found["cache"], found["mask"])[0]
        return torch.cat([logits, more[-1]])

    def encode(self, inputs: Any, edits: Mapping[str, tuple[Edit, ...]], read: frozenset[str] | None) -> Features:
        """Inputs may hold `keep` (positions from the end whose logits are needed) and `prefix`; extra: logits, cache, mask, pooled."""
        read = read or frozenset({"token", "logits"})
        ids, mask = inputs["ids"], inputs["mask"]
        wants_hidden = bool(read & {"token", "pooled"})
        embeds = self.embed(ids)
        given: Prefix | None = inputs.get("prefix")
        if given is None:
            given = self._prefix(edits, len(ids))
        own = embeds.shape[1]
        prefix, vectors = (None, None) if given is None else (given.cache, given.vectors)
        slots = self._slots(edits)
        whole = mask
        if vectors is not None:
            if slots is not None:
                raise UserError(f"{self.source!r} takes a prompt in front of the text or slots in its blocks, not both")
            embeds = torch.cat([vectors.to(embeds.dtype).expand(len(ids), -1, -1), embeds], 1)
            whole = torch.cat([mask.new_ones(len(mask), vectors.shape[1]), mask], 1)
        front = (prefix.get_seq_length() if prefix is not None else 0) + (slots[0] if slots else 0)
        front += embeds.shape[1] - own
        bridge.check_length(front, own, self.sizes.context)
        window = self.sizes.window
        if window is not None and front + own > window and not bridge.valueless(mask) and not bool(mask.all()):
            raise UserError(
                f"{self.source!r} attends to the last {window} positions only, fewer than prompt and padded text ({front} + {own}): run "
                "rows of one length at a time (methods do; see adapters.lengths)"
            )
        result = bridge.run(
            self.module,
            embeds,
            whole,
            prefix=prefix,
            prefix_mask=None if given is None else given.mask,
            slots=slots,
            keep=1 if "logits" not in read else int(inputs.get("keep", 0)),
            hidden=wants_hidden,
            use_cache="cache" in read,
            attentions="attentions" in read,
            recompute=self.recompute,
            record="record" in read,
        )
        hidden = result.hidden[:, -own:] if result.hidden is not None else embeds.new_zeros(len(ids), 0, self.dim)
        extra: dict[str, Any] = {"logits": result.logits[:, -own:], "cache": result.cache, "mask": result.mask}
        extra["attentions"] = result.attentions
        if result.hidden is not None:
            last = mask.long().mul(torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)
            extra["pooled"] = hidden[torch.arange(len(ids), device=ids.device), last]
        return Features(hidden, Layout((("token", hidden.shape[1]),)), extra)

    def probe_features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Scores of the real tokens."""
        return bridge.scores(self(inputs, read=("logits",)).extra["logits"], inputs["mask"])

    def run_prefix(self, embeds: Tensor, keep: int = 1) -> tuple[Prefix, Tensor]:
        """(prefix, logits (rows, keep, vocabulary)) of virtual tokens (rows, prefix, dim)."""
        bridge.check_length(embeds.shape[1], 0, self.sizes.context)
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        embeds, shared = embeds.to(self.dtype), self.shares
        result = bridge.run(self.module, embeds, mask, keep=keep, use_cache=shared)
        return Prefix(result.cache) if shared else Prefix(None, vectors=embeds), result.logits

    def _prefix(self, edits: Mapping[str, tuple[Edit, ...]], batch: int) -> Prefix | None:
        inserted = edits.get("input", ())
        if inserted and any(site.startswith("kv[") for site in edits):
            raise UserError("a prompt at 'input' and keys and values at 'kv[l]' cannot be combined in one call")
        if inserted:
            if len(inserted) > 1 or not isinstance(inserted[0], Insert) or not isinstance(inserted[0].tokens, Tensor):
                raise UserError("site 'input' takes one Insert of a tensor")
            tokens, index = inserted[0].tokens, inserted[0].index
            if tokens.shape[-1] != self.dim:
                raise UserError(f"the prompt has width {tokens.shape[-1]}, backbone {self.source!r} has {self.dim}")
            rows = tokens[None] if tokens.ndim == 2 else tokens
            if not self.shares:
                return Prefix(None, vectors=rows if index is None else rows[index])
            if not fast_paths_enabled():  # the plain path: every row carries its own copy
                return self.run_prefix(rows.expand(batch, -1, -1) if index is None else rows[index])[0]
            cache = self.run_prefix(rows)[0].cache
            if index is not None:
                cache = bridge.repeat(cache, 1)
                for layer in cache.layers:
                    layer.batch_select_indices(index)
            return Prefix(cache)
        filled = self.given_pairs(edits)
        return None if filled is None else Prefix(bridge.cache_of(self.module, filled))

    def _slots(self, edits: Mapping[str, tuple[Edit, ...]]) -> tuple[int, bridge.SlotFn] | None:
        per_layer = [edits.get(f"tokens[{layer}]", ()) for layer in range(self.depth)]
        if not any(per_layer):
            return None
        chosen: list[Insert] = []
        for layer, found in enumerate(per_layer):
            if len(found) != 1 or not isinstance(found[0], Insert) or found[0].keep_output:
                raise UserError(
                    f"slots need one Insert(keep_output=False) in every block; block {layer} has another edit"
                )
            chosen.append(found[0])
        counts = {
            e.tokens.shape[-2] if isinstance(e.tokens, Tensor) else int(getattr(e.tokens, "count", -1)) for e in chosen
        }
        if len(counts) != 1 or -1 in counts:
            raise UserError("slots need the same known number of vectors in every block")
        count = counts.pop()
        if count == 0:
            return None

        def fn(layer: int, hidden: Tensor) -> Tensor:
            tokens, index = chosen[layer].tokens, chosen[layer].index
            if not isinstance(tokens, Tensor):
                return tokens(hidden, Layout((("prompt", count), ("token", hidden.shape[1]))))
            rows = tokens if index is None else tokens[index]
            return rows if rows.ndim == 3 else rows[None]

        return count, fn

    def around(self, special: tuple[tuple[int, ...], tuple[int, ...]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Those in front; behind the text its answer goes on."""
        return special[0], ()

    def lower(self, edits: Edits) -> Edits:
        """A prompt at `input` as the keys and values it becomes: they are computed once, not per call."""
        checked = self.check_edits(edits)
        inserted = checked.get("input", ())
        if len(checked) != 1 or not inserted or not fast_paths_enabled() or not self.shares:
            return edits
        computed = self._prefix({"input": (Insert(inserted[0].tokens),)}, 1)  # type: ignore[union-attr]
        pairs = None if computed is None else bridge.pairs_of(computed.cache)
        if pairs is None:
            return edits
        index = inserted[0].index  # type: ignore[union-attr]
        return {f"kv[{layer}]": KeyValue(k, v, index) for layer, (k, v) in enumerate(pairs)}

    def prefill(
        self, inputs: Mapping[str, Tensor], edits: Edits | None = None, weights: Weights | None = None, prefix: Prefix | None = None,
        record: bool = False, keep: int = 1,
    ) -> Features:  # fmt: skip
        """Run the text once; extra has the logits of its last `keep` positions, the mask over all, and a cache, which only a network that
        `shares` prompts can go on from. `record`: its last token can be taken away again."""
        given = {**inputs, "keep": keep, "prefix": prefix}
        read = ("logits", *(("cache",) if self.shares else ()), *(("record",) if record else ()))
        return self(given, edits, weights=weights, read=read)

    def _target_logits(
        self, inputs: Mapping[str, Tensor], target: Tensor, edits: Edits | None, prefix: Prefix | None
    ) -> Tensor:
        ids = torch.cat([inputs["ids"], target[:, :-1].clamp(min=0)], 1)
        mask = torch.cat([inputs["mask"], (target[:, :-1] != IGNORED).to(inputs["mask"].dtype)], 1)
        # What stands behind a text changes nothing before it; without a gap in the mask a full window is no matter.
        mask = torch.where(inputs["mask"].all(), torch.ones_like(mask), mask)
        whole = {"ids": ids, "mask": mask, "keep": target.shape[1], "prefix": prefix}
        logits: Tensor = self(whole, edits, read=("logits",)).extra["logits"]
        return logits

    def _choice_scores(
        self, inputs: Mapping[str, Tensor], choices: Tensor, edits: Edits | None, prefix: Prefix | None
    ) -> Tensor:
        """The text runs once; only the tokens of the choices after their first one run per choice. (Where no cache can be shared, all runs
        per choice.)"""
        rows, (count, tokens) = len(inputs["ids"]), choices.shape
        if tokens > 1 and not self.shares:
            each = [self._target_logits(inputs, choice.expand(rows, -1), edits, prefix) for choice in choices]
            return gather_mean(torch.stack(each, 1), choices)
        text = self.prefill(inputs, edits, None, prefix)
        logits = text.extra["logits"][:, -1][:, None, None].expand(rows, count, 1, -1)
        if tokens > 1:
            mask = text.extra["mask"]
            bridge.check_length(mask.shape[1], tokens - 1, self.sizes.context, "prompt and text")
            cache, mask = bridge.repeat(text.extra["cache"], count), mask.repeat_interleave(count, 0)
            given = choices[:, :-1].clamp(min=0).repeat(rows, 1)
            more = bridge.step(self.module, given, cache, mask, tokens - 1)[0]
            logits = torch.cat([logits, more.reshape(rows, count, tokens - 1, -1)], 2)
        return gather_mean(logits, choices)

    def _generate(
        self, inputs: Mapping[str, Tensor], count: int, edits: Edits | None, prefix: Prefix | None, options: Mapping[str, Any]
    ) -> Tensor:  # fmt: skip
        if not self.shares:
            return self._generate_from_vectors(inputs, count, self.check_edits(edits or {}), prefix, options)
        extra = self.prefill(inputs, edits, None, prefix, record=True).extra
        bridge.check_length(extra["mask"].shape[1], count, self.sizes.context, "prompt and text")
        return bridge.generate(self.module, inputs["ids"], extra["cache"], extra["mask"], count, options)

    def _generate_from_vectors(
        self, inputs: Mapping[str, Tensor], count: int, edits: Mapping[str, tuple[Edit, ...]], prefix: Prefix | None,
        options: Mapping[str, Any],
    ) -> Tensor:  # fmt: skip
        """From the vectors of prompt and text, which are of one length."""
        ids = inputs["ids"]
        given, slots = prefix or self._prefix(edits, len(ids)), self._slots(edits)
        if slots is not None:
            slots = self._held(inputs, slots)
        vectors = self.embed(ids[:, :0]) if given is None or given.vectors is None else given.vectors
        front = vectors.to(self.dtype).expand(len(ids), -1, -1)
        places = front.shape[1] + (slots[0] if slots else 0) + ids.shape[1]
        bridge.check_length(places, count, self.sizes.context, "prompt and text")
        return bridge.generate_from(self.module, ids, front, count, options, slots)

    def _held(self, inputs: Mapping[str, Tensor], slots: tuple[int, bridge.SlotFn]) -> tuple[int, bridge.SlotFn]:
        """Slots that stay as the text makes them, whatever is written behind it; a row's copies share them."""
        made: dict[int, Tensor] = {}

        def noting(layer: int, hidden: Tensor) -> Tensor:
            made[layer] = slots[1](layer, hidden).expand(len(hidden), -1, -1)
            return made[layer]

        bridge.run(self.module, self.embed(inputs["ids"]), inputs["mask"], slots=(slots[0], noting), keep=1)
        return slots[0], lambda layer, hidden: made[layer].repeat_interleave(len(hidden) // len(made[layer]), 0)
