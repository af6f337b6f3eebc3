"""Causal language models of transformers, driven through what all of them share; no model family is named here.

- *Embedding access*: a model's own lookup (`embed`), so that scaling inside it stays inside it.
- *Shared prefix*: virtual tokens in front of all rows do not depend on what follows. `run_prefix` runs them once with batch 1 through the
  model's own cache object; `expand` hands that cache to a batch without copying. Gradients of all rows add up in the prefix.
- *Packed positions*: own tokens continue after the prefix and skip padding wherever it lies, so a ragged batch equals its rows one by one.
- *Slots*: `slots` gives every block its own few prompt vectors in front of the sequence and drops what the block made of them.
- *Checkpointing* per block, with the prefix keys and values as explicit arguments, in train and eval mode.
- *Draws by token*: `TokenDropout` inside a model draws by a token's place in its own text, however a batch is cut and padded.
- *A probe*: two short texts, by which networks of equal weights are told apart.
- *Batched generation* behind a cache, or from vectors, with everything the model's own `generate` offers.
- *What a model can do* (`examine`): whether it takes vectors and is causal, and what its cache keeps, by running three tokens.
"""

from __future__ import annotations

from pt_core.bridges.transformers.cache import Pairs, cache_of, cropped, expand, pairs_of, repeat, run_prefix
from pt_core.bridges.transformers.draws import TokenDropout, placed
from pt_core.bridges.transformers.forward import Outputs, eager, run, step
from pt_core.bridges.transformers.generation import generate, generate_from, searching
from pt_core.bridges.transformers.hooks import SlotFn, blocks
from pt_core.bridges.transformers.model import (
    Sizes,
    accepts,
    check_length,
    embed,
    first_position,
    packed_positions,
    position_limit,
    sizes,
    valueless,
    vocabulary_digest,
)
from pt_core.bridges.transformers.nature import Kept, alike, difference, examine, kept_by
from pt_core.bridges.transformers.probe import probe_texts, scores

__all__ = [
    "Kept", "Outputs", "Pairs", "Sizes", "SlotFn", "TokenDropout", "accepts", "alike", "blocks", "cache_of",
    "check_length", "cropped", "difference", "eager", "embed", "examine", "expand", "first_position", "generate",
    "generate_from", "kept_by", "packed_positions", "pairs_of", "placed", "position_limit", "probe_texts", "repeat",
    "run", "run_prefix", "scores", "searching", "sizes", "step", "valueless", "vocabulary_digest",
]  # fmt: skip
