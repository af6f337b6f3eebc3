"""`pt-audio pretrain`: the small language model and the small BERT, trained on generated text only.

A text is what a listener would have to say about a clip: `context question answer`. The context names what the clip would hold, as loose
words; later an aligner puts its vectors in that place. So the model learns to answer from what stands in front of the question:

    bell bell 2 5 , dog dog 6 9  what are the sound events?  bell and dog
    frog open open  this is a sound of red   sea sea cry  this is a sound of two   frog open  this is a sound of  red

The second form (keys and labels drawn at random) can only be answered by reading the earlier pieces.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt
from pt_core.errors import NonFiniteError
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from pt_audio import wording as say

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
LENGTH = 112
"""Tokens of a training sequence."""


@dataclass(frozen=True)
class TextConfig:
    """Networks and training of the built-in text models."""

    vocabulary: Annotated[int, Ge(300)] = 640
    """Tokens of the language model's byte-level BPE, and about those of the BERT's WordPiece."""
    width: Annotated[int, Ge(16)] = 128
    """d of the language model."""
    depth: Annotated[int, Ge(1)] = 3
    """Blocks of the language model."""
    heads: Annotated[int, Ge(1)] = 4
    """Attention heads."""
    inner: Annotated[int, Ge(8)] = 256
    """Width of the language model's gated MLP."""
    text_width: Annotated[int, Ge(16)] = 64
    """d of the BERT (4 blocks, 4 heads, MLP 4 d)."""
    text_steps: Annotated[int, Ge(1)] = 250
    """Steps of the BERT's masked-word training."""
    steps: Annotated[int, Ge(1)] = 900
    """Optimiser steps of the language model."""
    batch_size: Annotated[int, Ge(1)] = 24
    """Sequences per step."""
    lr: Annotated[float, Gt(0)] = 3e-3
    """Peak learning rate of AdamW."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed."""


Piece = tuple[str, float]
"""Text and the weight of its tokens in the loss."""


class Writer:
    """Draws texts as pieces with weights; everything is a function of the generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.words = [word for word in say.WORDS if len(word) > 2]

    def some(self, count: int) -> list[str]:
        return [self.words[i] for i in self.rng.choice(len(self.words), count, replace=False)]

    def loose(self, words: list[str]) -> str:
        """Words as a context gives them: repeated, with a filler here and there."""
        out: list[str] = []
        for word in words:
            out += [word] * int(self.rng.integers(1, 4))
            if self.rng.random() < 0.3:
                out.append(str(self.rng.choice([",", ".", "the", "a", "and"])))
        return " ".join(out)

    def scene(self) -> Iterator[Piece]:
        """A context with one to three things at times, and a question about them."""
        rng = self.rng
        labels = self.some(int(rng.integers(1, 4)))
        ends = sorted(rng.choice(11, 2 * len(labels), replace=False).tolist())
        times = [(ends[2 * i], ends[2 * i + 1]) for i in range(len(labels))]
        if rng.random() < 0.9:
            parts = [
                f"{self.loose([label])} {a} {b}" if rng.random() < 0.7 else self.loose([label])
                for label, (a, b) in zip(labels, times, strict=True)
            ]
            yield " ".join(parts) + " ", 0.0
        pick = int(rng.integers(len(labels)))
        other = labels[pick] if rng.random() < 0.5 else self.some(1)[0]
        yes = "yes" if other in labels else "no"
        a, b = times[pick]
        question, answer = [
            (say.TAGGING, say.and_list(labels)),
            (say.CAPTIONING, say.caption(labels)),
            (say.WHEN.format(labels[pick]), say.span(a, b)),
            (say.BETWEEN.format(a, b), labels[pick]),
            (say.PRESENT.format(other), yes),
            (say.COUNT, say.NUMBERS[len(labels)]),
            (say.FIRST, labels[0]),
            (say.SHOT, labels[0]),
            (f"what is {rng.choice(['said', 'heard', 'it', 'this'])}?", labels[0]),
        ][int(rng.choice(9, p=[0.24, 0.12, 0.12, 0.1, 0.1, 0.05, 0.07, 0.1, 0.1]))]
        yield question, 0.2
        yield f" {answer}", 2.0

    def pair(self) -> Iterator[Piece]:
        """Two contexts, each with its own text, and a question about both."""
        left, right = self.some(int(self.rng.integers(1, 3))), self.some(int(self.rng.integers(1, 3)))
        thing = left[0]
        if self.rng.random() < 0.5:
            right = [thing, *right[1:]]
        yield self.loose(left) + " ", 0.0
        yield "this is the first clip. ", 0.1
        yield self.loose(right) + " ", 0.0
        if self.rng.random() < 0.5:
            yield say.BOTH.format(thing), 0.2
            yield " yes" if thing in right else " no", 2.0
        else:
            target, place = (left[-1], 0) if self.rng.random() < 0.5 else (right[-1], 1)
            yield say.WHICH.format(target), 0.2
            yield f" {say.PLACES[place]}" if not (target in left and target in right) else " both", 2.0

    def shots(self) -> Iterator[Piece]:
        """Keys and labels drawn at random; a key that occurred before decides the label."""
        keys = [self.some(int(self.rng.integers(1, 3))) for _ in range(int(self.rng.integers(2, 5)))]
        labels = self.some(len(keys))
        seen: set[int] = set()
        for _ in range(int(self.rng.integers(5, 9))):
            number = int(self.rng.integers(len(keys)))
            yield self.loose(keys[number]) + " ", 0.0
            yield say.SHOT, 0.1
            yield f" {labels[number]} ", 3.0 if number in seen else 0.0
            seen.add(number)

    def text(self) -> list[Piece]:
        kind = self.rng.random()
        return list(self.shots() if kind < 0.45 else self.pair() if kind < 0.55 else self.scene())


def lm_tokenizer(texts: list[str], size: int) -> Any:
    """Byte-level BPE, lower-cased, with <s>, </s> and <pad>."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[PAD, BOS, EOS], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=BOS, eos_token=EOS, pad_token=PAD)


def bert_tokenizer(texts: list[str], size: int) -> Any:
    """WordPiece, lower-cased, in BERT's form."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizer

    inner = BertWordPieceTokenizer(lowercase=True)
    letters = "".join(chr(code) for code in range(33, 127))
    inner.train_from_iterator(
        texts, vocab_size=size, min_frequency=1, initial_alphabet=list(letters), show_progress=False
    )
    return BertTokenizer(tokenizer_object=inner._tokenizer)


def _schedule(optimiser: torch.optim.Optimizer, lr: float, steps: int) -> Any:
    return torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, max(steps, 2), pct_start=0.08)


def _batch(writer: Writer, encoded: Any, size: int) -> tuple[Tensor, Tensor]:
    """ids and weights (size, LENGTH); several texts follow each other in a row."""
    ids, weights = torch.zeros(size, LENGTH, dtype=torch.long), torch.zeros(size, LENGTH)
    for row in range(size):
        line: list[int] = []
        weight: list[float] = []
        while len(line) < LENGTH:
            line.append(1)
            weight.append(0.0)
            for text, share in writer.text():
                tokens = encoded(text)
                line += tokens
                weight += [share] * len(tokens)
            line.append(2)
            weight.append(1.0)
        ids[row], weights[row] = torch.tensor(line[:LENGTH]), torch.tensor(weight[:LENGTH])
    return ids, weights


def train_lm(config: TextConfig, tokenizer: Any) -> tuple[Any, dict[str, float]]:
    """The language model, and its accuracy on answers and on repeated keys."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=config.width, intermediate_size=config.inner,
            num_hidden_layers=config.depth, num_attention_heads=config.heads, max_position_embeddings=2048,
            tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip
    writer = Writer(np.random.default_rng(config.seed))
    known: dict[str, list[int]] = {}

    def encoded(text: str) -> list[int]:
        if text not in known:
            known[text] = tokenizer(text.strip(), add_special_tokens=False)["input_ids"]
        return known[text]

    optimiser = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = _schedule(optimiser, config.lr, config.steps)
    for step in tqdm(range(config.steps), desc="language model", delay=2):
        ids, weights = _batch(writer, encoded, config.batch_size)
        losses = F.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss = (losses * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
        if not bool(torch.isfinite(loss)):
            raise NonFiniteError(f"language model loss is {loss.item()} at step {step}; lower --lr")
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            tqdm.write(f"{step}: {loss.item():.4f}")
    held = Writer(np.random.default_rng(config.seed + 1))
    ids, weights = _batch(held, encoded, 64)
    with torch.no_grad():
        right = (model.eval()(ids).logits[:, :-1].argmax(-1) == ids[:, 1:]).float()
    kinds = {"answers": weights[:, 1:] == 2.0, "repeated_keys": weights[:, 1:] == 3.0}
    return model, {name: round(float(right[mask].mean()), 4) for name, mask in kinds.items()}


def train_bert(config: TextConfig, tokenizer: Any) -> tuple[Any, float]:
    """The BERT, and its accuracy on masked tokens."""
    from transformers import BertConfig, BertForMaskedLM

    model: Any = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer), hidden_size=config.text_width, num_hidden_layers=4, num_attention_heads=4,
            intermediate_size=4 * config.text_width, max_position_embeddings=512, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    writer, rng = Writer(np.random.default_rng(config.seed + 2)), np.random.default_rng(config.seed + 3)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = _schedule(optimiser, 2e-3, config.text_steps)
    share = 0.0
    for _ in tqdm(range(config.text_steps), desc="text encoder", delay=2):
        texts = ["".join(text for text, _ in writer.text()) for _ in range(16)]
        batch = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
        hidden = torch.from_numpy(rng.random(batch["input_ids"].shape)) < 0.15
        hidden &= batch["input_ids"] > tokenizer.mask_token_id  # behind the special tokens
        hidden[:, 1] = True
        ids = batch["input_ids"].masked_fill(hidden, tokenizer.mask_token_id)
        logits = model(ids, attention_mask=batch["attention_mask"]).logits[hidden]
        loss = F.cross_entropy(logits, batch["input_ids"][hidden])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        share = float((logits.argmax(-1) == batch["input_ids"][hidden]).float().mean())
    return model.bert.eval(), round(share, 4)


def pretrain(config: TextConfig, out: Path) -> dict[str, Any]:
    """Train both models and write `lm/` and `text/` below `out` (fp16, with tokenizers) and recipe.json; returns the recipe."""
    started = time.perf_counter()
    writer = Writer(np.random.default_rng(config.seed + 4))
    texts = ["".join(text for text, _ in writer.text()) for _ in range(1500)] + [" ".join(say.WORDS)] * 20
    torch.manual_seed(config.seed)
    tokenizer = lm_tokenizer([text.strip() for text in texts], config.vocabulary)
    model, found = train_lm(config, tokenizer)
    lm_seconds = time.perf_counter() - started
    text_tokenizer = bert_tokenizer(texts, config.vocabulary)
    bert, masked = train_bert(config, text_tokenizer)
    for folder, network, own in (("lm", model, tokenizer), ("text", bert, text_tokenizer)):
        (out / folder).mkdir(parents=True, exist_ok=True)
        network.half().save_pretrained(out / folder)
        own.save_pretrained(out / folder)
    recipe = {
        "config": asdict(config),
        "accuracy": {**found, "masked_words": masked},
        "seconds": {"lm": round(lm_seconds), "all": round(time.perf_counter() - started)},
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    (out / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
    return recipe
