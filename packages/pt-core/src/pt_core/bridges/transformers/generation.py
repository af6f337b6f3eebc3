"""Generation behind a cache, by the model's own search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pt_core.bridges.transformers.cache import cropped, repeat


def generate(
    model: Any, ids: Tensor, cache: Any, mask: Tensor, max_new_tokens: int, options: Mapping[str, Any] | None = None
) -> Tensor:
    """Continue rows whose tokens are all in the cache, by the model's own `generate`.

    Args:
        ids: (batch, tokens): the own tokens at the end of the cache; the last column is computed once more, the rest is not.
        cache: of batch rows, holding prefix, slots and `ids`. It stays as it is.
        mask: (batch, everything in the cache).
        options: of `GenerationConfig`, such as num_beams, do_sample, num_return_sequences, eos_token_id.

    Returns:
        (batch * num_return_sequences, at most max_new_tokens) new tokens; shorter rows end in `pad_token_id`.
    """
    options = dict(options or {})
    copies = int(options.get("num_beams", 1)) if int(options.get("num_beams", 1)) > 1 else 1
    copies = max(copies, int(options.get("num_return_sequences", 1)))
    filler = ids.new_zeros(ids.shape[0], mask.shape[1] - ids.shape[1])
    options.setdefault("pad_token_id", 0)
    result: Tensor = model.generate(
        torch.cat([filler, ids], 1),
        attention_mask=mask,
        past_key_values=repeat(cropped(cache, 1), copies),
        max_new_tokens=max_new_tokens,
        **options,
    )
    return result[:, mask.shape[1] :]
