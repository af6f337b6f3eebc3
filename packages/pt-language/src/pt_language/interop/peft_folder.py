"""What a PEFT folder of a prompt looks like."""

from __future__ import annotations

from typing import Literal

from pt_language.adapters.base import LanguageBackbone

CONFIG, WEIGHTS, KEY = "adapter_config.json", "adapter_model.safetensors", "prompt_embeddings"
MAX_LENGTH = 2**20
TASK_TYPES = {"decoder": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM", "encoder": "FEATURE_EXTRACTION"}
Kind = Literal["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT"]
CONTEXT: tuple[str, ...] = ("cpt_token_ids", "cpt_tokens_type_mask")
KINDS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT")


def even(backbone: LanguageBackbone) -> tuple[int, int, int] | None:
    """(layers, heads, width) of the keys and values that a model keeps, where PEFT's rows can hold them: one number of heads and one width
    for all keys and values of all layers."""
    kept = backbone.pairs or ()
    if not kept or any(own != (kept[0][0], kept[0][1], kept[0][1]) for own in kept):
        return None
    return len(kept), kept[0][0], kept[0][1]


def decoder_slots(layers: int, depth: int) -> list[int]:
    """Slots of PEFT's rows that the decoder's blocks read as key and value, in the order of our rows.

    PEFT views a row as 2 `layers` slots, repeats them, and gives decoder block i four of them: 4 i and 4 i + 1 are its key and value, the
    other two are meant for cross-attention and dropped.
    """
    return [(4 * block + part) % (2 * layers) for block in range(depth) for part in (0, 1)]
