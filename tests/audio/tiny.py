"""Tiny random models of all three roles, a few clips in memory, and methods on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
import transformers
from pt_audio.adapters.encoders import AudioEncoder, AudioMAEEncoder
from pt_audio.adapters.language_model import LanguageModel
from pt_audio.adapters.logmel import LogMel
from pt_audio.adapters.text_model import TextModel
from pt_audio.adapters.vit import AudioViT, ViTSizes
from pt_audio.data.bound import BoundRecords
from pt_audio.data.dataset import AudioRecords
from pt_audio.data.records import Record
from pt_audio.data.sound import from_array
from pt_audio.methods.acoustic_apt import AcousticAPT
from pt_audio.tasks.answers import Answers
from pt_core import Batch
from pt_core.randomness import seeded
from pt_core.run.declare.options import TrainOptions, build_all
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

RATE = 4000
FRONT = LogMel(rate=RATE, frames=32, bins=16)
"""A segment is 0.32 s."""
VIT = ViTSizes(frames=32, bins=16, patch=8, dim=16, depth=1, heads=2, classes=3)
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789?., "
LM_VOCABULARY = len(ALPHABET) + 2
TEXT_VOCABULARY = len(ALPHABET) + 5
H, DEPTH, INNER, POSITIONS = 16, 4, 32, 160
D = 24
OPTIONS = TrainOptions(steps=4, batch_size=4, lr=0.02, optimizer="sgd", eval_every=2, device="cpu")


@cache
def lm_tokenizer() -> Any:
    """One token per letter, a begin and an end token, no padding token."""
    vocabulary = {"<s>": 0, "</s>": 1, **{char: number + 2 for number, char in enumerate(ALPHABET)}}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.decoder = decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


@cache
def text_tokenizer() -> Any:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: number for number, token in enumerate([*special, *ALPHABET])}
    inner = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **named)


def louder(module: Any) -> Any:
    """Random networks with small weights cannot tell a wrong mask."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(5.0)
    return module


def encoder(seed: int = 0) -> AudioEncoder:
    with seeded(seed, "encoder"):
        return AudioMAEEncoder(AudioViT(VIT), FRONT, f"tiny:vit-{seed}")


def text(seed: int = 0) -> TextModel:
    config = transformers.BertConfig(
        vocab_size=TEXT_VOCABULARY, hidden_size=H, num_hidden_layers=DEPTH, num_attention_heads=2,
        intermediate_size=INNER, max_position_embeddings=POSITIONS,
    )  # fmt: skip
    with seeded(seed, "text"):
        return TextModel(transformers.BertModel(config, add_pooling_layer=False), text_tokenizer(), f"tiny:bert-{seed}")


def lm(seed: int = 0, context: int = 512) -> LanguageModel:
    config = transformers.LlamaConfig(
        vocab_size=LM_VOCABULARY, hidden_size=D, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=context, bos_token_id=0, eos_token_id=1, pad_token_id=None,
    )  # fmt: skip
    with seeded(seed, "lm"):
        return LanguageModel(louder(transformers.LlamaForCausalLM(config)), lm_tokenizer(), f"tiny:llama-{seed}")


@cache
def clips() -> tuple[Any, ...]:
    """Seven clips of 1, 1, 1, 2, 3, 1 and 1 segments: tones and noise."""
    rng = np.random.default_rng(0)
    found = []
    for number, seconds in enumerate((0.25, 0.3, 0.2, 0.5, 0.9, 0.28, 0.31)):
        t = np.arange(int(seconds * RATE)) / RATE
        wave = np.sin(2 * np.pi * (200 + 220 * number) * t) + 0.2 * rng.standard_normal(len(t))
        found.append(from_array((0.3 * wave).astype(np.float32), RATE, f"clip-{number}"))
    return tuple(found)


RECORDS = (
    Record("a", (0,), ("what is it?",), "low", "tagging", "low"),
    Record("b", (1,), ("say what you hear.",), "mid", "tagging", "mid"),
    Record("c", (2,), ("what is it?",), "high tone", "tagging", "high tone"),
    Record("d", (3,), ("what is it?",), "low", "tagging", "low"),
    Record("e", (4,), ("is it long?",), "mid", "tagging", "mid"),
    Record("f", (5,), ("what?",), "high tone", "tagging", "high tone"),
)
EPISODES = (
    Record("x", (0, 1, 2), ("this is low", "this is mid", "this is"), "low", "few_shot", "low"),
    Record("y", (0, 1, 5), ("this is low", "this is mid", "this is"), "mid", "few_shot", "mid"),
    Record("z", (4, 3), ("first", "which?"), "the second", "reasoning"),
    Record("w", (0, 1, 6), ("this is low", "this is mid", "this is"), "low", "few_shot", "low"),
)
TAGS = ("high tone", "low", "mid")


def bound(records: Sequence[Record] = RECORDS, **roles: Any) -> BoundRecords:
    base = AudioRecords(clips(), list(records), tags=TAGS)
    return base.bind(roles.get("encoder", encoder()), roles.get("text", text()), roles.get("lm", lm()), TAGS, None)


def batch(records: Sequence[Record] = RECORDS, rows: Sequence[int] | None = None, cached: bool = False) -> Batch:
    part = bound(records)
    if cached:
        part = part.with_frozen(all_vectors(part))
    rows = list(range(len(records))) if rows is None else list(rows)
    return part.collate(rows, [part.sample(i, epoch=None, seed=0) for i in rows])


def all_vectors(part: BoundRecords) -> torch.Tensor:
    segments = part.frozen_parts()
    inputs = torch.stack([segments.sample(i, epoch=None, seed=0) for i in range(len(segments))])
    with torch.no_grad():
        return encoder().vectors(inputs)


def task(beams: int = 1) -> Answers:
    return Answers(TAGS, max_new_tokens=5, beams=beams, repetition_penalty=1.0)


def backbones(seed: int = 0) -> Mapping[str, Any]:
    return {"encoder": encoder(seed), "text": text(seed), "lm": lm(seed)}


def make(cls: type[Any] = AcousticAPT, **options: Any) -> Any:
    """A method on the tiny models; options are validated as the command line does."""
    sizes = {"queries": 3, "dropout": 0.0} if cls is AcousticAPT else {}
    config = build_all({"config": cls.Config}, {**sizes, **options})["config"]
    return cls(config, backbones(), task())


def tuned(cls: type[Any] = AcousticAPT, seed: int = 1, **options: Any) -> Any:
    """A method with random values, as if it had been tuned."""
    with seeded(seed, "method"):
        method = make(cls, **options)
        with torch.no_grad():
            for parameter in method.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return method.eval()


def case(cls: type[Any], parameters: int, records: Sequence[Record] = RECORDS, **options: Any) -> Any:
    from pt_core.testing import MethodCase

    return MethodCase(
        make=partial(make, cls, **options),
        data={"train": bound(records), "val": bound(records[:4])},
        options=OPTIONS,
        parameters=parameters,
        method_id=f"pt-audio/{cls.__module__.rpartition('.')[2]}",
        other_backbone=partial(encoder, 5),
        accumulates=not options.get("align_steps"),
        tolerance=3e-5,
    )


def close(have: torch.Tensor, want: torch.Tensor, tolerance: float = 1e-5) -> None:
    have, want = have.detach(), want.detach()
    torch.testing.assert_close(have, want, rtol=0, atol=tolerance * max(float(want.abs().max()), 1e-12))
