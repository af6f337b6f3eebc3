"""What the adapters of all kinds of language models share.

Inputs are mappings of tensors: `ids` and `mask` (batch, tokens), padded on either side. Sites of a decoder-only model: `input` takes
virtual tokens in front (`Insert`), `tokens[l]` slots that every block replaces (`Insert`, outputs dropped), `kv[l]` keys and values. The
others take `input`, and `kv[l]` in the self-attention of the encoder (BERT-style) or of the decoder (T5-style, as PEFT does).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pt_core import Backbone, Edits, Insert, KeyValue, Layout
from pt_core.backbone import Edit, Weights
from pt_core.bridges import transformers as bridge
from pt_core.errors import UserError
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
        tokenizer: the model's own; None where a network of one's own came without: it then takes token ids only.
        sizes: dimensions of the decoder (or of the only stack).
        recompute: checkpoint every block while training (less memory, one more forward pass).
    """

    kind: ClassVar[str]
    inserts = frozenset({"input", "tokens[l]"})

    def __init__(self, module: Any, tokenizer: Any, source: str) -> None:
        super().__init__(
            module, source, {"tokenizer": None if tokenizer is None else bridge.vocabulary_digest(tokenizer)}
        )
        self.tokenizer = tokenizer
        self.sizes = bridge.sizes(module)
        self.dim, self.depth = self.sizes.dim, self.sizes.depth
        self.recompute = False

    @property
    def embeddings(self) -> Tensor:
        """(vocabulary, dim): the rows of the embedding table, whatever the tokenizer knows."""
        weight: Tensor = self.module.get_input_embeddings().weight  # type: ignore[operator]
        return weight

    def around(self, special: tuple[tuple[int, ...], tuple[int, ...]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Which of the special tokens in front of and behind a text this kind of model reads: both."""
        return special

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

    def probe(self) -> dict[str, Tensor]:
        """Two texts of unequal length; what begins behind them (a window, a position scaling for long texts) is not told apart."""
        limits = [limit for limit in (self.sizes.context, self.sizes.window) if limit is not None]
        return bridge.probe_texts(len(self.embeddings), min(limits, default=None))

    def pooled(
        self, inputs: Mapping[str, Tensor], edits: Edits | None = None, weights: Weights | None = None
    ) -> Tensor:
        """(batch, feature_dim): the state a classification head reads."""
        features = self(inputs, edits, weights=weights, read=("pooled",))
        pooled: Tensor = features.extra["pooled"]
        return pooled

    # ---- what tasks ask; a kind says how in `_target_logits`, `_choice_scores` and `_generate`, which run with the weights in place ----

    def target_logits(
        self, inputs: Mapping[str, Tensor], target: Tensor, edits: Edits | None = None, weights: Weights | None = None,
        prefix: Prefix | None = None,
    ) -> Tensor:  # fmt: skip
        """(batch, target, vocabulary): logits that predict the target tokens, given the text and the target tokens before."""
        return self._weighted(weights, lambda: self._target_logits(inputs, target, edits, prefix))

    def choice_scores(
        self, inputs: Mapping[str, Tensor], choices: Tensor, edits: Edits | None = None, weights: Weights | None = None,
        prefix: Prefix | None = None,
    ) -> Tensor:  # fmt: skip
        """(batch, choice): mean log-probability of the tokens of each choice (choices, tokens; padded by IGNORED) after the text."""
        return self._weighted(weights, lambda: self._choice_scores(inputs, choices, edits, prefix))

    def generate(
        self, inputs: Mapping[str, Tensor], max_new_tokens: int, edits: Edits | None = None, weights: Weights | None = None,
        prefix: Prefix | None = None, options: Mapping[str, Any] | None = None,
    ) -> Tensor:  # fmt: skip
        """(batch * num_return_sequences, at most max_new_tokens) new tokens; `options` are those of the model's own search."""
        return self._weighted(weights, lambda: self._generate(inputs, max_new_tokens, edits, prefix, options or {}))

    def _weighted(self, weights: Weights | None, fn: Callable[[], Tensor]) -> Tensor:
        found: Tensor = self.with_weights(weights, fn)
        return found

    def _target_logits(
        self, inputs: Mapping[str, Tensor], target: Tensor, edits: Edits | None, prefix: Prefix | None
    ) -> Tensor:
        raise self._wordless()

    def _choice_scores(
        self, inputs: Mapping[str, Tensor], choices: Tensor, edits: Edits | None, prefix: Prefix | None
    ) -> Tensor:
        raise self._wordless()

    def _generate(
        self, inputs: Mapping[str, Tensor], count: int, edits: Edits | None, prefix: Prefix | None, options: Mapping[str, Any]
    ) -> Tensor:  # fmt: skip
        raise self._wordless()

    def _wordless(self) -> TypeError:
        return TypeError(f"{self.source!r} is an encoder: it predicts no text; use --scoring head")
