"""Language models of transformers behind the Backbone contract: decoder-only, encoder-decoder, and encoder networks.

Inputs are mappings of tensors: `ids` and `mask` (batch, tokens), padded on either side. Sites of a decoder-only model: `input` takes
virtual tokens in front (`Insert`), `tokens[l]` slots that every block replaces (`Insert`, outputs dropped), `kv[l]` keys and values. The
others take `input`, and `kv[l]` in the self-attention of the encoder (BERT-style) or of the decoder (T5-style, as PEFT does).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pt_core import Backbone, Claim, Edits, Features, Insert, KeyValue, Layout
from pt_core.backbone import Edit
from pt_core.bridges import transformers as bridge
from pt_core.bridges.answers import IGNORED
from pt_core.errors import UserError
from pt_core.kernels._mode import fast_paths_enabled
from torch import Tensor


@dataclass(frozen=True)
class Slots:
    """`count` prompt vectors per row as a function of a block's input; for `Insert.tokens` at `tokens[l]`."""

    count: int
    fn: Callable[[Tensor], Tensor]

    def __call__(self, hidden: Tensor, layout: Layout) -> Tensor:
        return self.fn(hidden)


@dataclass(frozen=True)
class Prefix:
    """A computed prefix: the model's own cache of 1 or batch rows, and which of its positions are real."""

    cache: Any
    mask: Tensor | None = None


class LanguageBackbone(Backbone):
    """What all three kinds share.

    Attributes:
        kind: `decoder`, `encoder-decoder` or `encoder`.
        tokenizer: the model's own.
        sizes: dimensions of the decoder (or of the only stack).
        recompute: checkpoint every block while training (less memory, one more forward pass).
    """

    kind: ClassVar[str]
    inserts = frozenset({"input", "tokens[l]"})

    def __init__(self, module: Any, tokenizer: Any, source: str) -> None:
        super().__init__(module, source, {"tokenizer": bridge.vocabulary_digest(tokenizer)})
        self.tokenizer = tokenizer
        self.sizes = bridge.sizes(module)
        self.dim, self.depth = self.sizes.dim, self.sizes.depth
        self.recompute = False

    @property
    def embeddings(self) -> Tensor:
        """(vocabulary, dim): the rows of the embedding table, whatever the tokenizer knows."""
        weight: Tensor = self.module.get_input_embeddings().weight  # type: ignore[operator]
        return weight

    @property
    def feature_dim(self) -> int:
        """Width of what `pooled` returns."""
        return int(self.module.config.get_text_config(decoder=True).hidden_size)  # type: ignore[union-attr, operator]

    def embed(self, ids: Tensor) -> Tensor:
        """(batch, tokens) -> (batch, tokens, dim)."""
        return bridge.embed(self.module, ids)

    def prompt_length(self, edits: Edits) -> int:
        """Positions that the edits put in front of the text."""
        edit = next(
            (e for value in edits.values() for e in (value if isinstance(value, (list, tuple)) else (value,))), None
        )
        if isinstance(edit, KeyValue):
            return edit.k.shape[2]
        if isinstance(edit, Insert):
            return edit.tokens.shape[-2] if isinstance(edit.tokens, Tensor) else int(getattr(edit.tokens, "count", 0))
        return 0

    def target_logits(
        self, inputs: Mapping[str, Tensor], target: Tensor, edits: Edits | None = None, weights: Claim | None = None,
        prefix: Prefix | None = None,
    ) -> Tensor:  # fmt: skip
        """(batch, target, vocabulary): logits that predict the target tokens, given the text and the target tokens before."""
        raise TypeError(f"{self.source!r} is an encoder: it predicts no text; use --scoring head")

    def choice_scores(
        self, inputs: Mapping[str, Tensor], choices: Tensor, edits: Edits | None = None, weights: Claim | None = None,
        prefix: Prefix | None = None,
    ) -> Tensor:  # fmt: skip
        """(batch, choice): mean log-probability of the tokens of each choice (choices, tokens; padded by IGNORED) after the text."""
        raise TypeError(f"{self.source!r} is an encoder: it predicts no text; use --scoring head")

    def given_pairs(self, edits: Mapping[str, tuple[Edit, ...]]) -> list[tuple[Tensor, Tensor]] | None:
        """Keys and values (1 or batch, kv_heads, prefix, head_dim) of every block from checked edits at `kv[l]`, or None."""
        given = [edits.get(f"kv[{layer}]", ()) for layer in range(self.depth)]
        if not any(given):
            return None
        filled = []
        for layer, found in enumerate(given):
            if len(found) != 1 or not isinstance(found[0], KeyValue):
                raise UserError(f"keys and values are needed for every block, once; 'kv[{layer}]' has {len(found)}")
            k, v, index = found[0].k.to(self.dtype), found[0].v.to(self.dtype), found[0].index
            expected = (self.sizes.kv_heads, self.sizes.head_dim)
            if (k.shape[1], k.shape[3]) != expected:
                raise UserError(
                    f"prefix keys have {k.shape[1]} heads of width {k.shape[3]}, backbone {self.source!r} has "
                    f"{expected[0]} of width {expected[1]} in {self.depth} blocks"
                )
            filled.append((k, v) if index is None else (k[index], v[index]))
        return filled

    def pooled(self, inputs: Mapping[str, Tensor], edits: Edits | None = None, weights: Claim | None = None) -> Tensor:
        """(batch, feature_dim): the state a classification head reads."""
        features = self(inputs, edits, weights=weights, read=("pooled",))
        pooled: Tensor = features.extra["pooled"]
        return pooled


def wide(logits: Tensor) -> Tensor:
    """Half precision as float32; anything else as it is."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def gather_mean(logits: Tensor, choices: Tensor) -> Tensor:
    """(rows, choices, tokens, vocabulary) logits -> (rows, choices) mean log-probability of the tokens that are not IGNORED."""
    real = choices != IGNORED
    found = wide(logits).log_softmax(-1).gather(-1, choices.clamp(min=0).expand(logits.shape[:-1])[..., None])[..., 0]
    return (found * real).sum(-1) / real.sum(-1)


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
        self, inputs: Mapping[str, Tensor], edits: Edits | None = None, weights: Claim | None = None, prefix: Prefix | None = None
    ) -> Features:  # fmt: skip
        """Run the text once; extra has the logits of its last position, the cache and its mask."""
        given = {**inputs, "keep": 1, "prefix": prefix}
        return self(given, edits, weights=weights, read=("logits", "cache"))

    def target_logits(
        self, inputs: Mapping[str, Tensor], target: Tensor, edits: Edits | None = None, weights: Claim | None = None,
        prefix: Prefix | None = None,
    ) -> Tensor:  # fmt: skip
        ids = torch.cat([inputs["ids"], target[:, :-1].clamp(min=0)], 1)
        mask = torch.cat([inputs["mask"], (target[:, :-1] != IGNORED).to(inputs["mask"].dtype)], 1)
        whole = {"ids": ids, "mask": mask, "keep": target.shape[1], "prefix": prefix}
        logits: Tensor = self(whole, edits, weights=weights, read=("logits",)).extra["logits"]
        return logits

    def choice_scores(
        self, inputs: Mapping[str, Tensor], choices: Tensor, edits: Edits | None = None, weights: Claim | None = None,
        prefix: Prefix | None = None,
    ) -> Tensor:  # fmt: skip
        """The text runs once; only the tokens of the choices after their first one run per choice."""
        rows, (count, tokens) = len(inputs["ids"]), choices.shape

        def score() -> Tensor:
            text = self.prefill(inputs, edits, None, prefix)
            first = text.extra["logits"][:, -1]
            logits = first[:, None, None].expand(rows, count, 1, -1)
            if tokens > 1:
                bridge.check_length(text.extra["mask"].shape[1], tokens - 1, self.sizes.context, "prompt and text")
                cache, mask = bridge.repeat(text.extra["cache"], count), text.extra["mask"].repeat_interleave(count, 0)
                more = bridge.step(self.module, choices[:, :-1].clamp(min=0).repeat(rows, 1), cache, mask, tokens - 1)[
                    0
                ]
                logits = torch.cat([logits, more.reshape(rows, count, tokens - 1, -1)], 2)
            return gather_mean(logits, choices)

        scores: Tensor = self.with_weights(weights, score)
        return scores

    def generate(
        self, inputs: Mapping[str, Tensor], max_new_tokens: int, edits: Edits | None = None, weights: Claim | None = None,
        prefix: Prefix | None = None, options: Mapping[str, Any] | None = None,
    ) -> Tensor:  # fmt: skip
        """(batch * num_return_sequences, at most max_new_tokens) new tokens."""

        def run() -> Tensor:
            text = self.prefill(inputs, edits, None, prefix)
            extra = text.extra
            bridge.check_length(extra["mask"].shape[1], max_new_tokens, self.sizes.context, "prompt and text")
            return bridge.generate(self.module, inputs["ids"], extra["cache"], extra["mask"], max_new_tokens, options)

        tokens: Tensor = self.with_weights(weights, run)
        return tokens


class EncoderDecoderBackbone(LanguageBackbone):
    """T5-style: a prompt goes in front of the encoder's text only, and the decoder's cross attention sees it. Keys and values go to the
    decoder's self-attention, in front of its start token; the encoder knows nothing of them."""

    kind = "encoder-decoder"
    sites = frozenset({"input", "kv[l]"})

    def encode(self, inputs: Any, edits: Mapping[str, tuple[Edit, ...]], read: frozenset[str] | None) -> Features:
        """Runs the encoder; extra: mask over prompt and text, pooled (mean over the text), keys and values for the decoder."""
        embeds, mask = prepend(self, inputs, edits)
        hidden = self.module.get_encoder()(inputs_embeds=embeds, attention_mask=mask).last_hidden_state  # type: ignore[operator]
        own = hidden[:, -inputs["ids"].shape[1] :]
        weight = mask[:, -own.shape[1] :, None].to(own.dtype)
        pooled = (own * weight).sum(1) / weight.sum(1).clamp(min=1)
        layout = Layout((("prompt", hidden.shape[1] - own.shape[1]), ("token", own.shape[1])))
        return Features(hidden, layout, {"mask": mask, "pooled": pooled, "pairs": self.given_pairs(edits)})

    def _cache(self, pairs: Sequence[tuple[Tensor, Tensor]] | None, batch: int, rows: int) -> dict[str, Any]:
        """Arguments that put keys and values into the decoder's self-attention, every row of the batch `rows` times."""
        if pairs is None:
            return {}
        from transformers import DynamicCache, EncoderDecoderCache

        filled = DynamicCache()  # grows with use: the configuration's number of layers is the encoder's
        for layer, pair in enumerate(pairs):
            k, v = (t.expand(batch, -1, -1, -1).repeat_interleave(rows, 0) for t in pair)
            filled.update(k, v, layer)
        return {"past_key_values": EncoderDecoderCache(filled, DynamicCache())}

    def _decode(self, encoded: Features, target: Tensor, rows: int = 1) -> Tensor:
        from transformers.modeling_outputs import BaseModelOutput

        start = self.module.config.decoder_start_token_id  # type: ignore[union-attr]
        before = torch.cat([target.new_full((len(target), 1), start), target[:, :-1].clamp(min=0)], 1)  # type: ignore[arg-type]
        hidden, mask = encoded.tokens.repeat_interleave(rows, 0), encoded.extra["mask"].repeat_interleave(rows, 0)
        result = self.module(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            attention_mask=mask,
            decoder_input_ids=before,
            **self._cache(encoded.extra["pairs"], len(encoded.tokens), rows),
        )
        logits: Tensor = result.logits
        return logits

    def target_logits(
        self, inputs: Mapping[str, Tensor], target: Tensor, edits: Edits | None = None, weights: Claim | None = None,
        prefix: Prefix | None = None,
    ) -> Tensor:  # fmt: skip
        logits: Tensor = self.with_weights(weights, lambda: self._decode(self(inputs, edits), target))
        return logits

    def choice_scores(
        self, inputs: Mapping[str, Tensor], choices: Tensor, edits: Edits | None = None, weights: Claim | None = None,
        prefix: Prefix | None = None,
    ) -> Tensor:  # fmt: skip
        """The encoder runs once per text."""
        rows, count = len(inputs["ids"]), len(choices)

        def score() -> Tensor:
            logits = self._decode(self(inputs, edits), choices.repeat(rows, 1), count)
            return gather_mean(logits.reshape(rows, count, choices.shape[1], -1), choices)

        scores: Tensor = self.with_weights(weights, score)
        return scores

    def generate(
        self, inputs: Mapping[str, Tensor], max_new_tokens: int, edits: Edits | None = None, weights: Claim | None = None,
        prefix: Prefix | None = None, options: Mapping[str, Any] | None = None,
    ) -> Tensor:  # fmt: skip
        """(batch * num_return_sequences, at most max_new_tokens) new tokens, without the start token."""

        def run() -> Tensor:
            checked = self.check_edits(edits or {})
            (embeds, mask), pairs = prepend(self, inputs, checked), self.given_pairs(checked)
            given, settings = 1, dict(options or {})
            if pairs is not None:
                # The library counts what is cached by input ids: fillers stand for the prefix, the start token is read.
                given += pairs[0][0].shape[2]
                first = self.module.config.decoder_start_token_id  # type: ignore[union-attr]
                begin = torch.full((len(embeds), given), first, dtype=torch.long, device=embeds.device)  # type: ignore[arg-type]
                copies = max(int(settings.get("num_beams", 1)), int(settings.get("num_return_sequences", 1)))
                settings |= {"decoder_input_ids": begin, "decoder_attention_mask": torch.ones_like(begin)}
                settings |= self._cache(pairs, len(embeds), copies)
            found: Tensor = self.module.generate(  # type: ignore[operator]
                inputs_embeds=embeds, attention_mask=mask, max_new_tokens=max_new_tokens, **settings
            )
            return found[:, given:]

        tokens: Tensor = self.with_weights(weights, run)
        return tokens


class EncoderBackbone(LanguageBackbone):
    """BERT-style: features for a head. The prompt is in front; `cls-correct` pooling reads the real [CLS] behind it."""

    kind = "encoder"
    sites = frozenset({"input", "kv[l]"})

    def encode(self, inputs: Any, edits: Mapping[str, tuple[Edit, ...]], read: frozenset[str] | None) -> Features:
        """extra: pooled, the first own token ([CLS]) behind the prompt. Behind keys and values, positions start at their number."""
        embeds, mask = prepend(self, inputs, edits)
        options: dict[str, Any] = {}
        pairs = self.given_pairs(edits)
        if pairs is not None:
            length = pairs[0][0].shape[2]
            if not bridge.accepts(self.module, "past_key_values"):
                raise UserError(
                    f"the blocks of {self.source!r} take no keys and values: use prompt_tuning, or a BERT or RoBERTa style model"
                )
            bridge.check_length(length, embeds.shape[1], self.sizes.context, "prefix")
            options["past_key_values"] = bridge.expand(bridge.cache_of(self.module, pairs), len(embeds))
            mask = torch.cat([mask.new_ones(len(mask), length), mask], 1)
        hidden = self.module(inputs_embeds=embeds, attention_mask=mask, **options).last_hidden_state
        own = inputs["ids"].shape[1]
        layout = Layout((("prompt", hidden.shape[1] - own), ("token", own)))
        return Features(hidden, layout, {"pooled": hidden[:, -own], "mask": mask})


def prepend(
    backbone: LanguageBackbone, inputs: Mapping[str, Tensor], edits: Mapping[str, tuple[Edit, ...]]
) -> tuple[Tensor, Tensor]:
    """(embeddings, mask) with the prompt of site `input` in front of every row; bidirectional models cannot share it. Padding is moved to
    the right, so that neither positions nor distances depend on it."""
    order = (inputs["mask"] == 0).long().argsort(dim=1, stable=True)
    embeds, mask = backbone.embed(inputs["ids"].gather(1, order)), inputs["mask"].gather(1, order)
    inserted: Sequence[Edit] = edits.get("input", ())
    if inserted:
        edit = inserted[0]
        if len(inserted) > 1 or not isinstance(edit, Insert) or not isinstance(edit.tokens, Tensor):
            raise UserError("site 'input' takes one Insert of a tensor")
        rows = edit.tokens if edit.index is None else edit.tokens[edit.index]
        if rows.shape[-1] != backbone.dim:
            raise UserError(f"the prompt has width {rows.shape[-1]}, backbone {backbone.source!r} has {backbone.dim}")
        rows = (rows[None] if rows.ndim == 2 else rows).to(embeds.dtype).expand(len(embeds), -1, -1)
        limit = None if backbone.kind == "encoder-decoder" else backbone.sizes.context
        bridge.check_length(rows.shape[1], embeds.shape[1], limit)
        embeds = torch.cat([rows, embeds], 1)
        mask = torch.cat([mask.new_ones(rows.shape[:2]), mask], 1)
    return embeds, mask
