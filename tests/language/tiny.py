"""Tiny random transformers models with a byte tokenizer, and tuned-looking methods on them, for tests of interop and serving."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import transformers
from pt_core import Task
from pt_language.adapters.base import LanguageBackbone
from pt_language.adapters.decoder import DecoderBackbone
from pt_language.adapters.encoder_decoder import EncoderDecoderBackbone
from pt_language.method import LanguageMethod
from pt_language.tasks.generation import Generation
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

VOCABULARY = 260


@cache
def tokenizer() -> Any:
    """One token per byte, and an end token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: number for number, symbol in enumerate([*alphabet, "<end>"])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")


def network(kind: str, seed: int = 0, context: int = 256) -> Any:
    """A random model: llama (2 of 4 heads share keys), gpt2, mpt (its positions ignore the mask) or t5."""
    torch.manual_seed(seed)
    if kind == "llama":
        config: Any = transformers.LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=context, eos_token_id=256, bos_token_id=None, pad_token_id=None,
        )  # fmt: skip
        model: Any = transformers.LlamaForCausalLM(config)
    elif kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=3,
            n_head=4,
            n_positions=context,
            eos_token_id=256,
            bos_token_id=None,
        )
        model = transformers.GPT2LMHeadModel(config)
    elif kind == "mpt":
        config = transformers.MptConfig(
            vocab_size=VOCABULARY,
            d_model=32,
            n_layers=3,
            n_heads=4,
            max_seq_len=context,
            eos_token_id=256,
            bos_token_id=None,
        )
        model = transformers.MptForCausalLM(config)
    else:
        config = transformers.T5Config(
            vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0,
            eos_token_id=256, pad_token_id=0,
        )  # fmt: skip
        model = transformers.T5ForConditionalGeneration(config)
    with torch.no_grad():  # random logits far enough apart that greedy choices do not hang on rounding
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model.eval()


def backbone(kind: str = "llama", seed: int = 0, context: int = 256) -> LanguageBackbone:
    cls = EncoderDecoderBackbone if kind == "t5" else DecoderBackbone
    return cls(network(kind, seed, context), tokenizer(), f"test:{kind}-{seed}")


def task(template: str = "{text}{answer}", longest: int = 8) -> Task:
    return Generation(template, max_new_tokens=longest)


def tuned(name: str, on: LanguageBackbone, seed: int = 1, length: int = 5, **options: Any) -> LanguageMethod:
    """A method with random values, as if it had been tuned."""
    from pt_language.modality import Language

    cls = Language().registry.load(name)
    torch.manual_seed(seed)
    sizes = {} if name in ("cpt", "icl", "lora", "full") else {"prompt_length": length}
    method = cls(cls.Config(**sizes, **options), {"backbone": on}, task())
    assert isinstance(method, LanguageMethod)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return method.eval()


def context(on: LanguageBackbone) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and type codes of two examples `a: x` and `b: y`."""
    found = [on.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("in: good>A;", "in: poor>B;")]
    roles = [1, 1, 1, 2, 2, 2, 2, 2, 3, 4, 0]
    codes = [role + 4 * number if role else 0 for number in range(2) for role in roles]
    return torch.tensor(found[0] + found[1]), torch.tensor(codes)
