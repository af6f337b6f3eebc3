"""The frozen causal language model behind the Backbone contract.

Everything about it goes through `pt_core.bridges.transformers`; no model family is named here. A vision-language model of transformers is
driven in the same way: its text part is the language model, and what it makes of pictures are further vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pt_core import Backbone, Features, Layout
from pt_core.backbone import Edit
from pt_core.bridges import transformers as bridge
from pt_core.errors import UserError
from torch import Tensor


class LanguageModel(Backbone):
    """A frozen causal language model. Inputs are mappings: `embeds` (batch, tokens, dim) or `ids` (batch, tokens), and `mask`.

    Attributes:
        tokenizer: the model's own.
        sizes: its dimensions (`bridge.Sizes`).
        begin, end: ids of the tokens that begin and end a text; `begin` is None where the tokenizer has none.
        notes: what was noticed while adapting it.
        shares: whether rows may have a common beginning that runs once.
    """

    kind = "language"
    sites: frozenset[str] = frozenset()
    inserts: frozenset[str] = frozenset()

    def __init__(self, module: Any, tokenizer: Any, source: str) -> None:
        super().__init__(module, source, {"tokenizer": bridge.vocabulary_digest(tokenizer)})
        self.tokenizer = tokenizer
        self.sizes = bridge.sizes(module)
        self.dim, self.depth = self.sizes.dim, self.sizes.depth
        self.begin: int | None = tokenizer.bos_token_id
        if tokenizer.eos_token_id is None:
            raise UserError(f"the tokenizer of {source!r} has no end token: an answer could not end; set eos_token")
        self.end = int(tokenizer.eos_token_id)
        self.notes: list[str] = []
        if tokenizer.pad_token_id is None:
            self.notes.append(
                f"the tokenizer of {source!r} has no padding token: padded positions are masked and hold its end token"
            )
        self.recompute = False
        self._check()
        # Padding stands behind what rows share: it may not take places of a sliding window, nor shift the rest.
        self.shares = self.sizes.window is None and self._ignores_padding(behind=True)

    def _check(self) -> None:
        """Raises:
        UserError: a model that is not causal or takes no vectors, keeps more than keys and values of tokens (which what rows share in
            front, and searches, cannot be cut from), or gives rows of a batch other results than alone; names it.
        """
        if bridge.examine(self.module, repr(self.source)) is None:
            raise UserError(
                f"{self.source!r} keeps states besides keys and values, behind which answers cannot be searched for here; use a model of "
                "attention alone, such as Qwen 2.5 or Llama"
            )
        if not self._ignores_padding():
            raise UserError(
                f"{self.source!r} lets padding reach its results, so that answers would depend on what else is in a batch; use a model "
                "whose positions follow the mask, such as Qwen 2.5 or Llama"
            )

    @torch.no_grad()
    def _ignores_padding(self, behind: bool = False) -> bool:
        """Whether a short row becomes the same beside a longer one and alone; `behind` a common beginning, too."""
        given = {name: tensor.to(self.device) for name, tensor in self.probe().items()}
        real = given["mask"][1].bool()  # padded on the left, as inputs are
        if bridge.valueless(real):
            return True
        prefix = bridge.run_prefix(self.module, self.embed(given["ids"][:1, :2]).to(self.dtype)) if behind else None
        short = {name: tensor[1:, real] for name, tensor in given.items()}
        both, alone = (self({**texts, "prefix": prefix}, read=("logits",)).extra["logits"] for texts in (given, short))
        return bridge.alike(both[1, real], alone[0])

    def encode(self, inputs: Any, edits: Mapping[str, tuple[Edit, ...]], read: frozenset[str] | None) -> Features:
        """Further inputs: `prefix` (a cache), `keep` (positions from the end whose logits are needed). Extra: logits, cache, mask."""
        embeds = inputs["embeds"] if "embeds" in inputs else self.embed(inputs["ids"])
        prefix = inputs.get("prefix")
        front = 0 if prefix is None else prefix.get_seq_length()
        bridge.check_length(front, embeds.shape[1], self.sizes.context)
        result = bridge.run(
            self.module,
            embeds.to(self.dtype),
            inputs["mask"],
            prefix=prefix,
            keep=int(inputs.get("keep", 0)),
            use_cache=bool(read and "cache" in read),
            recompute=self.recompute,
            record=bool(read and "cache" in read),  # searches begin by taking its last token again
        )
        layout = Layout((("token", embeds.shape[1]),))
        extra = {"logits": result.logits, "cache": result.cache, "mask": result.mask}
        return Features(embeds.new_zeros(len(embeds), 0, self.dim), layout, extra)

    def probe(self) -> dict[str, Tensor]:
        """Two texts of unequal length; what a vision-language model makes of pictures is not told apart."""
        limits = [limit for limit in (self.sizes.context, self.sizes.window) if limit is not None]
        return bridge.probe_texts(len(self.module.get_input_embeddings().weight), min(limits, default=None))  # type: ignore[operator]

    def probe_features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Scores of the real tokens."""
        return bridge.scores(self(inputs, read=("logits",)).extra["logits"], inputs["mask"])

    def embed(self, ids: Tensor) -> Tensor:
        """(batch, tokens) -> (batch, tokens, dim)."""
        return bridge.embed(self.module, ids)

    def tokens(self, text: str) -> list[int]:
        """Ids of a text without special tokens."""
        found: list[int] = self.tokenizer(text.strip(), add_special_tokens=False)["input_ids"]
        return found

    def text(self, ids: list[int]) -> str:
        """Ids as text; negative ones and the end token are left out."""
        kept = [i for i in ids if i >= 0 and i not in (self.end, self.begin, self.tokenizer.pad_token_id)]
        return str(self.tokenizer.decode(kept)).strip()

    def see(self, pixels: Tensor) -> Tensor:
        """(pictures, vectors, dim): what a vision-language model puts in place of pictures (its visual prompts).

        Raises:
            UserError: the model reads no pictures.
        """
        reader: Any = self.module
        if not hasattr(reader, "get_image_features"):
            raise UserError(f"{self.source!r} reads no pictures; use a vision-language model of transformers")
        found = reader.get_image_features(pixel_values=pixels)
        found = getattr(found, "pooler_output", found)
        return torch.stack(list(found)) if isinstance(found, (list, tuple)) else found
