"""Encoder-decoder language models (T5 ...)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pt_core import Edits, Features, Layout
from pt_core.backbone import Edit
from pt_core.bounded import uncounted
from pt_core.bridges import transformers as bridge
from torch import Tensor

from pt_language.adapters.base import LanguageBackbone, Prefix
from pt_language.adapters.front import prepend
from pt_language.adapters.logits import gather_mean


class EncoderDecoderBackbone(LanguageBackbone):
    """T5-style: a prompt goes in front of the encoder's text only, and the decoder's cross attention sees it. Keys and values go to the
    decoder's self-attention, in front of its start token; the encoder knows nothing of them."""

    kind = "encoder-decoder"
    sites = frozenset({"input", "kv[l]"})
    _pairs: bridge.Kept | None = None

    def encode(self, inputs: Any, edits: Mapping[str, tuple[Edit, ...]], read: frozenset[str] | None) -> Features:
        """Runs the encoder; extra: mask over prompt and text, pooled (mean over the text), keys and values for the decoder."""
        embeds, mask = prepend(self, inputs, edits)
        hidden = self.module.get_encoder()(inputs_embeds=embeds, attention_mask=mask).last_hidden_state  # type: ignore[operator]
        own = hidden[:, -inputs["ids"].shape[1] :]
        weight = mask[:, -own.shape[1] :, None].to(own.dtype)
        pooled = (own * weight).sum(1) / weight.sum(1).clamp(min=1)
        layout = Layout((("prompt", hidden.shape[1] - own.shape[1]), ("token", own.shape[1])))
        return Features(hidden, layout, {"mask": mask, "pooled": pooled, "pairs": self.given_pairs(edits)})

    def probe_features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Scores of an answer, to which encoder and decoder contribute."""
        answer = inputs["ids"].flip(1)
        return bridge.scores(self.target_logits(inputs, answer), torch.ones_like(answer))

    def seen_of_last(self, inputs: Mapping[str, Tensor], edits: Edits) -> Tensor:
        answer = inputs["ids"][:, -2:]  # behind padding on the left
        return self.target_logits(inputs, answer, edits)[-1]

    @property
    def pairs(self) -> bridge.Kept | None:
        """As the decoder's self-attention keeps them, seen by running its start token."""
        if self._pairs is None:
            self._pairs = self._kept() or super().pairs
        return self._pairs

    @torch.no_grad()
    def _kept(self) -> bridge.Kept | None:
        one = torch.ones(1, 1, dtype=torch.long, device=self.device)
        try:
            with uncounted():
                result = self.module(input_ids=one, attention_mask=one, decoder_input_ids=one, use_cache=True)
        except Exception:  # a network without values may not run
            if self.device.type == "meta":
                return None
            raise
        return bridge.kept_by(result.past_key_values.self_attention_cache)

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
        past = 0 if encoded.extra["pairs"] is None else encoded.extra["pairs"][0][0].shape[2]
        bridge.check_length(past, target.shape[1], self.sizes.answer, "prefix")
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

    def _target_logits(
        self, inputs: Mapping[str, Tensor], target: Tensor, edits: Edits | None, prefix: Prefix | None
    ) -> Tensor:
        return self._decode(self(inputs, edits), target)

    def _choice_scores(
        self, inputs: Mapping[str, Tensor], choices: Tensor, edits: Edits | None, prefix: Prefix | None
    ) -> Tensor:
        """The encoder runs once per text."""
        rows, count = len(inputs["ids"]), len(choices)
        logits = self._decode(self(inputs, edits), choices.repeat(rows, 1), count)
        return gather_mean(logits.reshape(rows, count, choices.shape[1], -1), choices)

    def _generate(
        self, inputs: Mapping[str, Tensor], count: int, edits: Edits | None, prefix: Prefix | None, options: Mapping[str, Any]
    ) -> Tensor:  # fmt: skip
        """New tokens without the start token."""
        checked = self.check_edits(edits or {})
        (embeds, mask), pairs = prepend(self, inputs, checked), self.given_pairs(checked)
        # The library counts what is cached by input ids: fillers stand for the prefix, the start token is read.
        given = 1 if pairs is None else 1 + pairs[0][0].shape[2]
        bridge.check_length(given, count, self.sizes.answer, "prefix and start")
        first = self.module.config.decoder_start_token_id  # type: ignore[union-attr]
        begin = torch.full((len(embeds), given), first, dtype=torch.long, device=embeds.device)  # type: ignore[arg-type]
        read = (inputs["ids"], inputs["mask"])
        with bridge.searching(self.module, count, options, [given - 1] * len(begin), begin, read) as copies:
            more: dict[str, Any] = {}
            if pairs is not None:
                more = {"decoder_input_ids": begin, "decoder_attention_mask": torch.ones_like(begin)}
                more |= self._cache(pairs, len(embeds), copies)
            found: Tensor = self.module.generate(inputs_embeds=embeds, attention_mask=mask, **more)  # type: ignore[operator]
        return found[:, given:]
