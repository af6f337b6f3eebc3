"""What the adapters of all kinds of language models share.

Inputs are mappings of tensors: `ids` and `mask` (batch, tokens), padded on either side. Sites of a decoder-only model: `input` takes
virtual tokens in front (`Insert`), `tokens[l]` slots that every block replaces (`Insert`, outputs dropped), `kv[l]` keys and values. The
others take `input`, and `kv[l]` in the self-attention of the encoder (BERT-style) or of the decoder (T5-style, as PEFT does).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from pt_core import Backbone, Edits, Insert, KeyValue, Layout
from pt_core.backbone import Edit, Weights
from pt_core.bounded import uncounted
from pt_core.bridges import transformers as bridge
from pt_core.errors import UserError
from pt_core.fingerprint import whole_float32
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
    """A computed prefix: the model's own cache of 1 or batch rows, and which of its positions are real; or, where the model cannot share
    a cache, vectors (1 or batch, L, dim) in front of the text."""

    cache: Any
    mask: Tensor | None = None
    vectors: Tensor | None = None


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
        self.seen: dict[str, bool] = {}
        """What probes have told of the network, each at its first use."""
        self.origin: LanguageBackbone | None = None
        """The network as it was loaded, where this one has layers of a method's in it."""

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
        return self._hidden_size

    def width(self, layer: int) -> int:
        """Of the states inside a block, which in some models differ from the width of the embeddings."""
        return self._hidden_size

    @property
    def _hidden_size(self) -> int:
        return int(self.module.config.get_text_config(decoder=True).hidden_size)  # type: ignore[union-attr, operator]

    def embed(self, ids: Tensor) -> Tensor:
        """(batch, tokens) -> (batch, tokens, dim)."""
        return bridge.embed(self.module, ids)

    # ---- what the network can do, looked at where it matters -----------------------------------------------------------------

    @property
    def pairs(self) -> bridge.Kept | None:
        """Heads and widths of the keys and values that `kv[l]` takes, for every layer that keeps its own; None where it takes none."""
        return ((self.sizes.kv_heads, self.sizes.head_dim, self.sizes.head_dim),) * self.depth

    @property
    def takes_padding(self) -> bool:
        """Whether rows of different lengths can run together, padded: whether they then get what they get alone (two short rows tell)."""
        return self.looked("padding", self._ignores_padding)

    def runs_apart(self, mask: Tensor, places: int) -> bool:
        """Whether rows with this mask (row, tokens), and `places` more positions, have to run in batches of one length."""
        beyond = self.sizes.window is not None and places + mask.shape[1] > self.sizes.window
        if bridge.valueless(mask) or (not beyond and self.seen.get("padding")) or bool(mask.all()):
            return False
        # Padding would take places of the window that belong to real tokens.
        return beyond or not self.takes_padding

    def looked(self, what: str, fn: Callable[[LanguageBackbone], bool]) -> bool:
        """fn(this network in float32, where that fits), without gradients and with the frozen weights; asked once."""
        if what not in self.seen and bridge.valueless(self.embeddings):
            return True  # costs are counted on shapes alone
        if what not in self.seen:
            network = self.origin or self
            if network._stored_narrow():
                with suppress(RuntimeError, MemoryError, TypeError, ValueError, AttributeError):
                    network = cast("LanguageBackbone", network._in_float32())
            training = network.module.training
            network.module.eval()
            with uncounted(), torch.no_grad(), torch.autocast(self.device.type, enabled=False), whole_float32():
                self.seen[what] = Context().run(fn, network)  # no draws of a step that may be running
            network.module.train(training)
        return self.seen[what]

    @staticmethod
    def _ignores_padding(network: LanguageBackbone) -> bool:
        """Whether a short row behind a prompt becomes the same beside a longer one and alone."""
        limits = [limit - 3 for limit in (network.sizes.context, network.sizes.window) if limit is not None]
        given = bridge.probe_texts(len(network.embeddings), min(limits, default=None))
        given = {name: tensor.to(network.device) for name, tensor in given.items()}
        real = given["mask"][1].bool()
        if bool(real.all()):
            return False  # no room for two lengths
        short = {name: tensor[1:, real] for name, tensor in given.items()}
        prompt: Edits = {"input": Insert(network.embeddings[:2].detach(), at="front", keep_output=True)}
        return bridge.alike(network.seen_of_last(given, prompt), network.seen_of_last(short, prompt))

    def seen_of_last(self, inputs: Mapping[str, Tensor], edits: Edits) -> Tensor:
        """What the last row's real tokens become: what padding may not change."""
        found = self(inputs, edits)
        own = found.tokens[-1, -inputs["ids"].shape[1] :]
        return own[: int(inputs["mask"][-1].sum())]  # padding is put behind the text

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
        if not any(site.startswith("kv[") for site in edits):
            return None
        if self.pairs is None:
            raise UserError(
                f"{self.source!r} does not keep keys and values alone: use prompt_tuning instead of a prefix"
            )
        given = [edits.get(f"kv[{layer}]", ()) for layer in range(len(self.pairs))]
        filled = []
        for layer, found in enumerate(given):
            if len(found) != 1 or not isinstance(found[0], KeyValue):
                raise UserError(f"keys and values are needed for every block, once; 'kv[{layer}]' has {len(found)}")
            k, v, index = found[0].k.to(self.dtype), found[0].v.to(self.dtype), found[0].index
            heads, key, value = self.pairs[layer]
            if (k.shape[1], k.shape[3], v.shape[3]) != (heads, key, value):
                width = f"{key}" if key == value else f"{key} (values: {value})"
                raise UserError(
                    f"prefix keys have {k.shape[1]} heads of width {k.shape[3]}, backbone {self.source!r} has "
                    f"{heads} of width {width} in block {layer} of {len(self.pairs)}"
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
