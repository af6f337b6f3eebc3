"""Text encoders of transformers as open_clip wraps them (BiomedCLIP ...) behind the contract: contexts at the input only."""

from __future__ import annotations

from typing import Any

import numpy as np
from pt_core.errors import UserError
from torch import Tensor, nn

from pt_vision.adapters.clip.rows import Rows
from pt_vision.adapters.clip.words import Sets, WordsTower
from pt_vision.adapters.edits import Edits
from pt_vision.networks.clip.tokens import Framing, IntArray


class EncoderText(WordsTower):
    """open_clip's `HFTextEncoder`. Sites `input`, `features`; padding is masked, so rows are cut behind their longest text."""

    sites = frozenset({"input", "features"})
    inserts = frozenset({"input"})

    def __init__(self, module: Any, source: str, framing: Framing) -> None:
        config = module.config
        self.dim = int(module.transformer.get_input_embeddings().weight.shape[1])
        self.depth = int(getattr(config, "num_hidden_layers", getattr(config, "num_layers", 1)))
        self.pad = int(config.pad_token_id)
        if self.pad != framing.pad:
            raise UserError(f"{source!r} masks token {self.pad}, but its tokenizer pads with {framing.pad}")
        super().__init__(module, source, framing, {"pooling": type(module.pooler).__name__, "causal": False})

    def embedding(self) -> nn.Embedding:
        found: nn.Embedding = self.module.transformer.get_input_embeddings()
        return found

    def needed(self, ids: IntArray) -> int:
        return int(np.flatnonzero((ids != self.pad).any(0))[-1]) + 1

    def plain(self, rows: Rows, sets: Sets, edits: Edits) -> tuple[Tensor, Tensor]:
        module, count = self.module, max((some.shape[0] for some in sets.values()), default=1)
        mask = self.tensor(rows.ids != self.pad).repeat(count, 1)
        hidden = self.valued("input", self.embed(rows, sets), edits)
        out = module.transformer(inputs_embeds=hidden, attention_mask=mask)
        out.last_hidden_state = self.valued("features", out.last_hidden_state, edits)
        return out.last_hidden_state, module.proj(module.pooler(out, mask))
