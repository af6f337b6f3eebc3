"""Exchange of prompts: PEFT folders in both directions, published `.npy` prompts in, and prompts as embeddings out.

A PEFT folder is `adapter_config.json` and `adapter_model.safetensors` with the tensor `prompt_embeddings`:

=================  ===================  =====================================================================================
peft_type          shape                here
=================  ===================  =====================================================================================
PROMPT_TUNING      (s L, d)             `prompt_tuning`; s is num_transformer_submodules, and only the first L rows are used
P_TUNING           (s L, d)             what the encoder produced: written by `p_tuning`, read as `prompt_tuning` (the same
                                        function; the encoder is not in the folder)
PREFIX_TUNING      (L, 2 N d_kv)        `prefix`; row i is [key of layer 0, value of layer 0, key of layer 1, ...]; for
                                        encoder-decoders PEFT reads its rows in another order, see `decoder_slots`
CPT                (L, d)               `cpt`; the configuration has the context's ids and type codes
=================  ===================  =====================================================================================

Of a foreign configuration only numbers, lists of numbers and the type are read. Names in it (base model, tokenizer and its options,
trust_remote_code ...) reach no loader: the caller says which backbone it is. Pickled weights (`.bin`) are refused.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
