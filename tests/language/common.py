"""What the tests share: tiny random language models of several families, a small text task, and cases for the conformance suite."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import pytest
import torch
import transformers as t
from pt_core import Batch, Method
from pt_core.randomness import seeded
from pt_core.run.declare.options import TrainOptions, build_all
from pt_core.testing import CHECKS, SLOW_CHECKS, MethodCase
from pt_language.backbones import adapt
from pt_language.data.load import with_labels
from pt_language.data.templates import Template
from pt_language.data.texts import TextDataset
from pt_language.data.tokens import TokenDataset
from pt_language.tasks.classification import TextClassification
from pt_language.tasks.generation import Generation
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

TEMPLATE = "input: {text} output: {label}"
LABELS = ("cold", "hot", "wet")
SENTENCES = {
    "cold": ("snow falls", "ice on the lake", "a frosty night", "the snow and the ice", "frost"),
    "hot": ("the sun burns", "a fire", "desert sand and sun", "burning fire in the desert", "sun"),
    "wet": ("rain again", "the river rises", "a flood of rain", "rain on the lake and the river", "flood"),
}
OPTIONS = TrainOptions(steps=6, batch_size=6, lr=0.05, optimizer="sgd", eval_every=3, device="cpu")
SMALL: dict[str, Any] = {"vocab_size": 300, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
WIDE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}


@cache
def tokenizer() -> Any:
    """Bytes, and a token that ends a text; no padding token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<end>": 0, **{char: number + 1 for number, char in enumerate(alphabet)}}
    merges = [("Ġ", "c"), ("Ġ", "h"), ("Ġ", "w"), ("Ġ", "t"), ("i", "n")]
    for pair in merges:
        vocabulary["".join(pair)] = len(vocabulary)
    inner = Tokenizer(models.BPE(vocabulary, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return t.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")


def tiny(name: str, seed: int = 0) -> Any:
    """A tiny random model behind its adapter."""
    makers: dict[str, Any] = {
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**SMALL, **WIDE, num_key_value_heads=2, tie_word_embeddings=True)),
        "qwen": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**SMALL, **WIDE, num_key_value_heads=2)),
        "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**SMALL, **WIDE, num_key_value_heads=2, sliding_window=None)),
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=4, n_positions=256)),
        "t5": lambda: t.T5ForConditionalGeneration(
            t.T5Config(
                vocab_size=300, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=3, num_heads=4,
                eos_token_id=0, pad_token_id=0, decoder_start_token_id=0,
            )
        ),
        "bert": lambda: t.BertModel(t.BertConfig(**{**SMALL, **WIDE}), add_pooling_layer=False),
    }  # fmt: skip
    with seeded(seed, "model"):
        model = makers[name]()
    # Random networks with too small weights cannot tell a wrong mask; T5's attention has no scale and would magnify rounding.
    gain = 2.0 if name == "t5" else 5.0
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(gain)
    return adapt(model, tokenizer(), f"tiny:{name}-{seed}")


def rows(count: int = 15, start: int = 0) -> TextDataset:
    chosen = [
        {"text": SENTENCES[label][(i // 3 + start) % 5], "label": label}
        for i, label in zip(range(count), LABELS * count, strict=False)
    ]
    return TextDataset(chosen, [f"row-{start}-{i}" for i in range(count)], Template(TEMPLATE), None)


def task(scoring: str = "words", words: Sequence[str] | None = None) -> TextClassification:
    return TextClassification(LABELS, TEMPLATE, words, scoring)  # type: ignore[arg-type]


def data(name: str = "llama", what: Any = None, train: int = 15) -> dict[str, TokenDataset]:
    """Bound training and validation parts."""
    raw = with_labels({"train": rows(train), "val": rows(6, 2)})
    backbone, what = tiny(name), what or task()
    return {role: part.bind(backbone, what) for role, part in raw.items()}


def make(
    cls: type[Method],
    name: str = "llama",
    scoring: str = "words",
    generates: bool = False,
    adopt: int = 15,
    **options: Any,
) -> Any:
    """A method on a tiny model that has seen its data; options are validated as the command line does."""
    config = build_all({"config": cls.Config}, options)["config"]
    what = Generation(TEMPLATE, 4) if generates else task(scoring)
    method = cls(config, {"backbone": tiny(name)}, what)
    method.adopt(data(name, what, adopt))
    return method


def batch(name: str = "llama", what: Any = None, chosen: Sequence[int] = (0, 1, 2, 3, 4)) -> Batch:
    """A ragged labelled batch."""
    part = data(name, what)["train"]
    return part.collate(list(chosen), [part.sample(i, epoch=None, seed=0) for i in chosen])


def case(cls: type[Method], parameters: int, name: str = "llama", adopt: int = 15, **options: Any) -> MethodCase:
    module: Any = sys.modules[cls.__module__]
    scoring = options.get("scoring", "words")
    return MethodCase(
        make=partial(make, cls, name, adopt=adopt, **options),
        data=data(name, task(scoring), adopt),
        options=OPTIONS,
        parameters=parameters,
        method_id=f"pt-language/{module.ID}",
        other_backbone=partial(tiny, name, 5),
        tolerance=3e-5,
    )


def conformance(cases: Mapping[str, MethodCase], fresh: Sequence[str] = (), slow: Sequence[str] = ()) -> list[Any]:
    """All checks of all cases; those that start processes are slow."""
    found = []
    for name, one in cases.items():
        for check, run in {**CHECKS, **SLOW_CHECKS}.items():
            late = name in slow or check in SLOW_CHECKS or (check == "reload" and name not in fresh)
            found.append(pytest.param(one, run, id=f"{name}-{check}", marks=[pytest.mark.slow] if late else []))
    return found


def close(have: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    have, want = have.detach(), want.detach()
    torch.testing.assert_close(have, want, rtol=0, atol=tolerance * max(float(want.abs().max()), 1e-12))


def unpadded(batch: Batch, row: int) -> dict[str, Tensor]:
    """The inputs of one row without padding."""
    real = batch.inputs["mask"][row].bool()
    return {name: value[row][real][None] for name, value in batch.inputs.items()}
