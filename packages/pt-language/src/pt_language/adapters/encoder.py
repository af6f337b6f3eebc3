"""Encoder-only language models (BERT ...)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pt_core import Features, Layout
from pt_core.backbone import Edit
from pt_core.bridges import transformers as bridge
from pt_core.errors import UserError
from torch import Tensor

from pt_language.adapters.base import LanguageBackbone
from pt_language.adapters.front import prepend


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

    def probe_features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """States of the real tokens."""
        found = self(inputs)
        return found.tokens[found.extra["mask"].bool()]
