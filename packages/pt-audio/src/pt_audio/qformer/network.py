"""The Q-former of BLIP-2 and InstructBLIP as APT uses it: a BERT whose learned queries read text and audio.

    [queries, text] -> self-attention over both (padding masked) -> in every second layer the queries attend to the audio
                    -> separate feed-forward networks: the text keeps BERT's, the queries have their own (initialised as a copy)

Post-norm BERT blocks; no token types; queries have no position embedding. Parameters, with H = dim, I = inner, V = vocabulary:
embeddings V H + positions H + 2 H; per layer 4 (H^2 + H) + 2 H and two feed-forward networks of (2 H I + I + H) + 2 H; per
cross-attention 2 (H^2 + H) + 2 (A H + H) + 2 H with audio of width A. BERT-mini (V = 30523, A = 768): 14,260,480.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pt_core.randomness import Dropout
from torch import Tensor, nn

from pt_audio.qformer.layers import EPS, KeysValues, Layer, QFormerSizes


@dataclass(frozen=True)
class Read:
    """What a pass returns.

    Attributes:
        queries: (batch, queries, dim) outputs at the query positions.
        text: (batch, text, dim).
        past: keys and values per layer.
    """

    queries: Tensor
    text: Tensor
    past: Sequence[KeysValues]


class QFormer(nn.Module):
    """See the module's docstring. Initial values are N(0, 0.02) (`initializer_range` of BERT) where no BERT is loaded."""

    def __init__(self, sizes: QFormerSizes, dropout: float = 0.1) -> None:
        super().__init__()
        self.sizes, self.dropout = sizes, Dropout(dropout, "qformer")
        self.word = nn.Embedding(sizes.vocabulary, sizes.dim) if sizes.vocabulary else None
        self.position = nn.Embedding(sizes.positions, sizes.dim) if sizes.vocabulary else None
        self.norm = nn.LayerNorm(sizes.dim, eps=EPS)
        self.layers = nn.ModuleList(Layer(sizes, number, dropout) for number in range(sizes.depth))
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(
        self,
        queries: Tensor | None,
        ids: Tensor | None = None,
        text_mask: Tensor | None = None,
        audio: Tensor | None = None,
        past: Sequence[KeysValues] | None = None,
        causal: bool = False,
    ) -> Read:
        """queries (batch, queries, dim), ids and text_mask (batch, text), audio (batch, vectors, audio width).

        A query attends to all queries and to text that is no padding, so a fully padded text leaves the queries as they are. `past`
        (with `causal`) is what text continues: the keys and values that the queries left behind.
        """
        parts, count = [], 0
        if queries is not None:
            parts.append(queries)
            count = queries.shape[1]
        if ids is not None:
            assert self.word is not None, "text was disabled"
            assert self.position is not None
            parts.append(self.word(ids) + self.position.weight[: ids.shape[1]])
        x = self.dropout(self.norm(torch.cat(parts, 1)))
        mask = self._mask(x, count, text_mask, past, causal)
        kept = []
        for number, layer in enumerate(self.layers):
            x, own = layer(x, count, mask, audio, None if past is None else past[number])
            kept.append(own)
        return Read(x[:, :count], x[:, count:], kept)

    def _mask(
        self, x: Tensor, queries: int, text_mask: Tensor | None, past: Sequence[KeysValues] | None, causal: bool
    ) -> Tensor | None:
        """(batch, 1, tokens, past + tokens), True where a position may look."""
        if text_mask is None and not causal:
            return None
        batch, tokens, _ = x.shape
        text = tokens - queries
        real = x.new_ones(batch, text, dtype=torch.bool) if text_mask is None else text_mask.bool()
        before = 0 if past is None else past[0][0].shape[2]
        seen = torch.cat([real.new_ones(batch, before + queries), real], 1)[:, None].expand(-1, tokens, -1)
        if causal:
            later = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).triu(1)
            seen = seen & ~torch.cat([later.new_zeros(tokens, before), later], 1)
        # A padded text position with nothing to look at would give NaN: it looks at itself, and nobody reads it.
        own = torch.eye(tokens, dtype=torch.bool, device=x.device)
        return (seen | torch.cat([own.new_zeros(tokens, before), own], 1))[:, None]

    def attention_maps(self, queries: Tensor, audio: Tensor, ids: Tensor | None, mask: Tensor | None) -> list[Tensor]:
        """(batch, heads, queries, vectors) of every layer that reads the audio."""
        found: list[Tensor] = []
        readers = [module for name, module in self.named_modules() if name.endswith(".cross")]
        handles = [
            reader.register_forward_pre_hook(lambda module, args: found.append(module.weights(args[0], args[1])))
            for reader in readers
        ]
        try:
            self(queries, ids, mask, audio)
        finally:
            for handle in handles:
                handle.remove()
        return found

    @torch.no_grad()
    def load_bert(self, bert: nn.Module) -> None:
        """Take over the weights of a transformers `BertModel` of the same sizes; the queries' networks become copies of the text's."""
        have = {name: tensor.detach() for name, tensor in bert.state_dict().items()}
        if any(tensor.is_meta for tensor in have.values()):
            return  # costs are being counted: there are no values

        def copy(target: nn.Module, name: str) -> None:
            target.weight[: len(have[f"{name}.weight"])] = have[f"{name}.weight"].to(target.weight)  # type: ignore[index, operator, call-overload]
            if f"{name}.bias" in have:
                target.bias.copy_(have[f"{name}.bias"])  # type: ignore[operator, union-attr]

        if self.word is not None and self.position is not None:
            copy(self.word, "embeddings.word_embeddings")
            types = have.get("embeddings.token_type_embeddings.weight")
            if types is not None:  # all tokens are of type 0
                self.word.weight += types[0].to(self.word.weight)
            copy(self.position, "embeddings.position_embeddings")
        copy(self.norm, "embeddings.LayerNorm")
        layer: Any
        for number, layer in enumerate(self.layers):
            base = f"encoder.layer.{number}."
            for part, name in (("query", "self.query"), ("key", "self.key"), ("value", "self.value")):
                copy(getattr(layer.attention, part), f"{base}attention.{name}")
            copy(layer.attention.out, f"{base}attention.output.dense")
            copy(layer.attention.norm, f"{base}attention.output.LayerNorm")
            for network in (layer.text, layer.queries):
                if network is not None:
                    copy(network.fc1, f"{base}intermediate.dense")
                    copy(network.fc2, f"{base}output.dense")
                    copy(network.norm, f"{base}output.LayerNorm")
