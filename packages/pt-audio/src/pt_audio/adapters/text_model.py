"""The BERT that a Q-former starts from, behind the Backbone contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pt_core import Backbone, Features, Layout
from pt_core.backbone import Edit
from pt_core.bridges import transformers as bridge
from torch import Tensor, nn


class TextModel(Backbone):
    """A BERT: the weights and the tokenizer that a Q-former starts from.

    Attributes:
        tokenizer: the model's own.
    """

    kind = "text"
    sites: frozenset[str] = frozenset()
    inserts: frozenset[str] = frozenset()

    def __init__(self, module: nn.Module, tokenizer: Any, source: str) -> None:
        super().__init__(module, source, {"tokenizer": bridge.vocabulary_digest(tokenizer)})
        config: Any = module.config
        self.tokenizer = tokenizer
        self.dim, self.depth = int(config.hidden_size), int(config.num_hidden_layers)
        self.heads, self.inner = int(config.num_attention_heads), int(config.intermediate_size)
        self.positions, self.vocabulary = int(config.max_position_embeddings), int(config.vocab_size)

    def encode(self, inputs: Any, edits: Mapping[str, tuple[Edit, ...]], read: frozenset[str] | None) -> Features:
        hidden = self.module(input_ids=inputs["ids"], attention_mask=inputs["mask"]).last_hidden_state
        return Features(hidden, Layout((("token", hidden.shape[1]),)))

    def probe(self) -> dict[str, Tensor]:
        return bridge.probe_texts(self.vocabulary, self.positions, left=False)

    def probe_features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """States of the real tokens."""
        return self(inputs).tokens[inputs["mask"].bool()]

    def tokens(self, text: str, longest: int) -> list[int]:
        """[CLS] text [SEP]; of a longer text the end is kept, as the published code does (left truncation)."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        room = max(0, min(longest, self.positions) - 2)
        kept = ids[len(ids) - room :] if len(ids) > room else ids
        return [self.tokenizer.cls_token_id, *kept, self.tokenizer.sep_token_id]
