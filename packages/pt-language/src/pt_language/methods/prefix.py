"""Prefix tuning in every layer: L trainable keys and values per attention (P-tuning v2, Liu et al., ACL 2022, arXiv 2110.07602; Li and
Liang, ACL 2021, arXiv 2101.00190).

Row i of Theta is [key of layer 0, value of layer 0, key of layer 1, ...]: Theta (L, 2 N d_kv) is viewed as (L, 2N, heads_kv, d_head) and
given to every attention as keys and values that all rows of the batch share. Real tokens start at position L. In an encoder-decoder the
prefix stands in the decoder's self-attention (as in PEFT; Prefix-Tuning also prefixes the encoder).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Lt
from pt_core import Backbone, Batch, Edits, KeyValue, Task
from pt_core.bridges.transformers import Kept, pairs_of
from pt_core.errors import ConfigError
from pt_core.randomness import dropout
from torch import Tensor, nn

from pt_language.adapters.decoder import DecoderBackbone
from pt_language.generated import GeneratedPrompt
from pt_language.initial import sampled_rows
from pt_language.method import RECIPE, LanguageMethod

ID = "prefix"
TITLE = "P-Tuning v2: Prompt Tuning Can Be Comparable to Fine-tuning Universally Across Scales and Tasks"
TUNES = "L keys and values in every layer"
NEEDS = {"train": "texts with answers"}


@dataclass(frozen=True)
class PrefixConfig:
    prompt_length: Annotated[int, Ge(1)] = 20
    """L, keys and values per layer (the papers use 10 to 200, below 20 for easy classification)."""
    init: Literal["normal", "zero", "vocabulary"] = "normal"
    """N(0, init_std^2), zeros (keys of logit 0: nearly, not exactly, no effect), or the keys and values of sampled frequent tokens."""
    init_std: Annotated[float, Ge(0)] = 0.02
    """Standard deviation of init='normal'."""
    projection: Annotated[int, Ge(1)] | None = None
    """k, train Theta as W2 tanh(W1 e + b1) + b2 with hidden width k (prefix tuning always does); dropped after training."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Dropout of Theta while training, a mask of its own for every sample (P-tuning v2 uses the model's own rate)."""

    def __post_init__(self) -> None:
        if self.projection is not None and self.init != "normal":
            raise ValueError("projection starts from its own initial values: it needs init='normal'")


class Prefix(GeneratedPrompt):
    """logits(ids) = LM(ids; K_l = [Theta_k,l; K_l], V_l = [Theta_v,l; V_l] in every layer l).

    Shapes: Theta (L, 2 N d_kv), d_kv = heads_kv * d_head, N (decoder) layers. Heads and widths are those of the model's own cache;
    where layers, or keys and values, differ in them (DeepSeek), the width is their sum.

    Parameters: L * 2 N d_kv; with projection L * d + d k + k + k 2 N d_kv + 2 N d_kv. A head adds C * d + C.
    """

    Config = PrefixConfig
    recipe: ClassVar[Mapping[str, Any]] = {**RECIPE, "lr": 5e-3}
    config: PrefixConfig

    def __init__(self, config: PrefixConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        if self.backbone.pairs is None:
            raise ConfigError(
                f"backbone {self.backbone.source!r} does not keep keys and values alone, as a prefix is made of: use prompt_tuning"
            )
        self.kept = self.backbone.pairs
        self.width = sum(heads * (key + value) for heads, key, value in self.kept)
        if config.projection is not None:
            self.tokens = nn.Parameter(torch.randn(config.prompt_length, self.backbone.dim))
            self.mlp = nn.Sequential(
                nn.Linear(self.backbone.dim, config.projection), nn.Tanh(), nn.Linear(config.projection, self.width)
            )
        else:
            self.prompt = nn.Parameter(self._initial())

    def _initial(self) -> Tensor:
        shape = (self.config.prompt_length, self.width)
        if self.config.init != "vocabulary":
            return torch.randn(shape) * (self.config.init_std if self.config.init == "normal" else 0.0)
        if not isinstance(self.backbone, DecoderBackbone):
            raise ConfigError(
                f"init='vocabulary' reads the keys and values of tokens in a causal model; {self.backbone.source!r} is of kind "
                f"{self.backbone.kind}: use init='normal'"
            )
        rows = sampled_rows(self.backbone.embeddings.detach(), self.config.prompt_length, 5000)
        with torch.no_grad():
            pairs = pairs_of(self.backbone.run_prefix(rows[None].to(self.backbone.device))[0].cache)
        if pairs is None:
            raise ConfigError(f"backbone {self.backbone.source!r} keeps no keys and values: use init='normal'")
        return from_pairs(pairs).float().cpu()

    @property
    def reparameterised(self) -> bool:
        return self.config.projection is not None

    def produce(self) -> Tensor:
        """Theta (L, 2 N d_kv)."""
        theta: Tensor = self.mlp(self.tokens) if self.reparameterised else self.prompt
        return theta

    def edits(self, batch: Batch) -> Edits:
        theta = self.value()[None]
        if self.training and self.config.dropout:  # the released code drops from the batch's copies of Theta
            theta = dropout(theta.expand(len(batch), -1, -1), self.config.dropout, True, "theta")
        return key_values(theta, self.kept)

    @classmethod
    def bank(cls, methods: Sequence[LanguageMethod]) -> Edits | None:
        values = [method.value() for method in methods if isinstance(method, Prefix)]
        if len({value.shape for value in values}) != 1:
            return None
        return key_values(torch.stack(values), methods[0].backbone.pairs or ())


def key_values(theta: Tensor, kept: Kept) -> Edits:
    """(rows, L, width of all) -> keys and values (rows, kv_heads, L, d_head) for every layer that keeps some."""
    shapes = [(heads, width) for heads, *widths in kept for width in widths]
    parts = [
        part.unflatten(2, shape).transpose(1, 2)
        for part, shape in zip(theta.split([heads * width for heads, width in shapes], 2), shapes, strict=True)
    ]
    return {f"kv[{layer}]": KeyValue(parts[2 * layer], parts[2 * layer + 1]) for layer in range(len(kept))}


def from_pairs(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Inverse of `key_values` for one row: keys and values (1, kv_heads, L, d_head) per layer -> (L, width of all)."""
    return torch.cat([tensor[0].transpose(0, 1).flatten(1) for pair in pairs for tensor in pair], 1)
