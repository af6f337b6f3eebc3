"""Decoder-only language models (GPT-2, Llama, Qwen, Mistral ...)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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

    def encode(self, inputs: Any, edits: Mapping[str, tuple[Edit, ...]], read: frozenset[str] | None) -> Features:
        """Inputs may hold `keep` (positions from the end whose logits are needed) and `prefix`; extra: logits, cache, mask, pooled."""
        read = read or frozenset({"token", "logits"})
        ids, mask = inputs["ids"], inputs["mask"]
        wants_hidden = bool(read & {"token", "pooled"})
        embeds = self.embed(ids)
        given: Prefix | None = inputs.get("prefix")
        prefix, mask_before = (given.cache, given.mask) if given is not None else self._prefix(edits, len(ids))
        slots = self._slots(edits)
        front = (prefix.get_seq_length() if prefix is not None else 0) + (slots[0] if slots else 0)
        bridge.check_length(front, ids.shape[1], self.sizes.context)
        window = self.sizes.window
        if window is not None and front + ids.shape[1] > window and not bool(mask.all()):
            # Padding would take places of the window that belong to real tokens.
            raise UserError(
                f"{self.source!r} attends to the last {window} positions only, fewer than prompt and padded text "
                f"({front} + {ids.shape[1]}): rows of different lengths need --batch-size 1"
            )
        result = bridge.run(
            self.module,
            embeds,
            mask,
            prefix=prefix,
            prefix_mask=mask_before,
            slots=slots,
            keep=1 if "logits" not in read else int(inputs.get("keep", 0)),
            hidden=wants_hidden,
            use_cache="cache" in read,
            attentions="attentions" in read,
            recompute=self.recompute,
        )
        hidden = result.hidden if result.hidden is not None else embeds.new_zeros(len(ids), 0, self.dim)
        extra: dict[str, Any] = {"logits": result.logits, "cache": result.cache, "mask": result.mask}
        extra["attentions"] = result.attentions
        if result.hidden is not None:
            last = mask.long().mul(torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)
            extra["pooled"] = result.hidden[torch.arange(len(ids), device=ids.device), last]
        return Features(hidden, Layout((("token", hidden.shape[1]),)), extra)

    def probe_features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Scores of the real tokens."""
        return bridge.scores(self(inputs, read=("logits",)).extra["logits"], inputs["mask"])

    def run_prefix(self, embeds: Tensor, keep: int = 1) -> tuple[Prefix, Tensor]:
        """(prefix, logits (rows, keep, vocabulary)) of virtual tokens (rows, prefix, dim)."""
        bridge.check_length(embeds.shape[1], 0, self.sizes.context)
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        result = bridge.run(self.module, embeds.to(self.dtype), mask, keep=keep, use_cache=True)
        return Prefix(result.cache), result.logits

    def _prefix(self, edits: Mapping[str, tuple[Edit, ...]], batch: int) -> tuple[Any, Tensor | None]:
        inserted = edits.get("input", ())
        pairs = [edits.get(f"kv[{layer}]", ()) for layer in range(self.depth)]
        if inserted and any(pairs):
            raise UserError("a prompt at 'input' and keys and values at 'kv[l]' cannot be combined in one call")
        if inserted:
            if len(inserted) > 1 or not isinstance(inserted[0], Insert) or not isinstance(inserted[0].tokens, Tensor):
                raise UserError("site 'input' takes one Insert of a tensor")
            tokens = inserted[0].tokens
            if tokens.shape[-1] != self.dim:
                raise UserError(f"the prompt has width {tokens.shape[-1]}, backbone {self.source!r} has {self.dim}")
            rows = tokens[None] if tokens.ndim == 2 else tokens
            if not fast_paths_enabled():  # the plain path: every row carries its own copy
                rows = rows.expand(batch, -1, -1) if inserted[0].index is None else rows[inserted[0].index]
                return self.run_prefix(rows)[0].cache, None
            cache = self.run_prefix(rows)[0].cache
            if inserted[0].index is not None:
                cache = bridge.repeat(cache, 1)
                for layer in cache.layers:
                    layer.batch_select_indices(inserted[0].index)
            return cache, None
        filled = self.given_pairs(edits)
        return (None if filled is None else bridge.cache_of(self.module, filled)), None

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
        if len(checked) != 1 or not inserted or not fast_paths_enabled():
            return edits
        pairs = bridge.pairs_of(self._prefix({"input": (Insert(inserted[0].tokens),)}, 1)[0])  # type: ignore[union-attr]
        if pairs is None:
            return edits
        index = inserted[0].index  # type: ignore[union-attr]
        return {f"kv[{layer}]": KeyValue(k, v, index) for layer, (k, v) in enumerate(pairs)}

    def prefill(
        self, inputs: Mapping[str, Tensor], edits: Edits | None = None, weights: Weights | None = None, prefix: Prefix | None = None,
        keep: int = 1,
    ) -> Features:  # fmt: skip
        """Run the text once; extra has the logits of its last `keep` positions, the cache and its mask."""
        given = {**inputs, "keep": keep, "prefix": prefix}
        return self(given, edits, weights=weights, read=("logits", "cache"))

    def _target_logits(
        self, inputs: Mapping[str, Tensor], target: Tensor, edits: Edits | None, prefix: Prefix | None
    ) -> Tensor:
        ids = torch.cat([inputs["ids"], target[:, :-1].clamp(min=0)], 1)
        mask = torch.cat([inputs["mask"], (target[:, :-1] != IGNORED).to(inputs["mask"].dtype)], 1)
        whole = {"ids": ids, "mask": mask, "keep": target.shape[1], "prefix": prefix}
        logits: Tensor = self(whole, edits, read=("logits",)).extra["logits"]
        return logits

    def _choice_scores(
        self, inputs: Mapping[str, Tensor], choices: Tensor, edits: Edits | None, prefix: Prefix | None
    ) -> Tensor:
        """The text runs once; only the tokens of the choices after their first one run per choice."""
        rows, (count, tokens) = len(inputs["ids"]), choices.shape
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
        extra = self.prefill(inputs, edits, None, prefix).extra
        bridge.check_length(extra["mask"].shape[1], count, self.sizes.context, "prompt and text")
        return bridge.generate(self.module, inputs["ids"], extra["cache"], extra["mask"], count, options)
