"""Language models of several families: answers equal those computed token by token from whole sequences, or it is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from pt_audio.adapters.language_model import LanguageModel
from pt_core.errors import UserError
from pt_core.kernels import reference_kernels
from pt_core.randomness import seeded

from tests.audio import tiny

SMALL: dict[str, Any] = {
    "vocab_size": tiny.LM_VOCABULARY, "hidden_size": tiny.D, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None,
}  # fmt: skip
WINDOW = 7
"""Shorter than a block of prompts with its text."""


def network(family: str) -> Any:
    windowed = {**SMALL, "sliding_window": WINDOW}
    mixed = {**windowed, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]}
    makers: dict[str, Any] = {
        "mistral": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**windowed)),
        "gemma2": lambda: transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**mixed)),
        "gemma3": lambda: transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**mixed)),
        "gpt_neo": lambda: transformers.GPTNeoForCausalLM(
            transformers.GPTNeoConfig(
                vocab_size=tiny.LM_VOCABULARY, hidden_size=tiny.D, intermediate_size=32, num_layers=2, num_heads=4, window_size=WINDOW,
                attention_types=[[["global", "local"], 1]], max_position_embeddings=512, bos_token_id=0, eos_token_id=1,
            )
        ),
        "falcon": lambda: transformers.FalconForCausalLM(
            transformers.FalconConfig(
                vocab_size=tiny.LM_VOCABULARY, hidden_size=tiny.D, num_hidden_layers=2, num_attention_heads=4, multi_query=True,
                alibi=False, new_decoder_architecture=False, bos_token_id=0, eos_token_id=1,
            )
        ),
        "mpt": lambda: transformers.MptForCausalLM(
            transformers.MptConfig(
                vocab_size=tiny.LM_VOCABULARY, d_model=32, n_layers=2, n_heads=4, max_seq_len=512, bos_token_id=0, eos_token_id=1
            )
        ),
        "mamba": lambda: transformers.MambaForCausalLM(
            transformers.MambaConfig(
                vocab_size=tiny.LM_VOCABULARY, hidden_size=tiny.D, state_size=8, num_hidden_layers=2, bos_token_id=0, eos_token_id=1
            )
        ),
        "qwen3_next": lambda: transformers.Qwen3NextForCausalLM(
            transformers.Qwen3NextConfig(
                **SMALL, head_dim=8, layer_types=["linear_attention", "full_attention"], linear_key_head_dim=8, linear_value_head_dim=8,
                linear_num_key_heads=2, linear_num_value_heads=4, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
                shared_expert_intermediate_size=16,
            )
        ),
        "bart": lambda: transformers.BartForCausalLM(
            transformers.BartConfig(
                vocab_size=tiny.LM_VOCABULARY, d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=32,
                max_position_embeddings=512, pad_token_id=None,
            )
        ),
        "bert": lambda: transformers.BertLMHeadModel(
            transformers.BertConfig(vocab_size=tiny.LM_VOCABULARY, hidden_size=tiny.D, num_hidden_layers=2, num_attention_heads=4)
        ),
    }  # fmt: skip
    with seeded(0, "lm"):
        return tiny.louder(makers[family]()).eval()


def made(family: str) -> Any:
    """A tuned method over this language model."""
    lm = LanguageModel(network(family), tiny.lm_tokenizer(), f"tiny:{family}")
    method = tiny.AcousticAPT(
        tiny.AcousticAPT.Config(queries=3, dropout=0.0), {**tiny.backbones(), "lm": lm}, tiny.task()
    )
    with seeded(1, "method"), torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return method.eval()


def alone(method: Any, batch: Any, row: int, count: int) -> list[int]:
    """The row's greedy answer, every token from the whole sequence again, without cache, padding or a shared beginning."""
    from pt_core.data import take

    with torch.no_grad(), reference_kernels():
        vectors = method.assemble(take(batch, [row])).embeds
        found: list[int] = []
        for _ in range(count):
            logits = method.lm.module(inputs_embeds=vectors.clone(), use_cache=False).logits[0, -1]
            found.append(int(logits.argmax()))
            if found[-1] == method.lm.end:
                break
            vectors = torch.cat([vectors, method.lm.embed(torch.tensor([[found[-1]]]))], 1)
    return found


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3", "gpt_neo", "falcon", "mpt"])
@pytest.mark.parametrize(
    "records", [tiny.RECORDS, (tiny.EPISODES[0], tiny.EPISODES[1], tiny.EPISODES[3])], ids=["one", "episodes"]
)
def test_answers_are_those_of_whole_sequences(family: str, records: Any) -> None:
    """Longer than the window, ragged, and with a beginning that rows share."""
    method = made(family)
    batch = tiny.batch(records)
    with torch.no_grad():
        found = method.generate(batch, 6, {"num_beams": 1, "do_sample": False})
        scores = method(batch)
    for row in range(len(records)):
        wanted = alone(method, batch, row, 6)
        assert found[row, : len(wanted)].tolist() == wanted
        from pt_core.data import take

        with torch.no_grad(), reference_kernels():
            own = method(take(batch, [row]))
        real = batch.target["answer"][row] != -100
        tiny.close(scores[row][real], own[0][real], 1e-4)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("bart", "'tiny:bart' lets padding reach its results"),
        ("mamba", "'tiny:mamba' keeps states besides keys and values"),
        ("qwen3_next", "'tiny:qwen3_next' keeps states besides keys and values"),
        ("bert", "'tiny:bert' is no causal language model"),
    ],
)
def test_models_that_cannot_be_driven_are_refused_by_name(family: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LanguageModel(network(family), tiny.lm_tokenizer(), f"tiny:{family}")
