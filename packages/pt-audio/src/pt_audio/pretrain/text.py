"""Training of the small language model and the small BERT, and the folders they are written to."""

from __future__ import annotations

import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from pt_core.run.declare.fields import Depth, Heads, PeakRate, Seed, Steps, Width
from pt_core.run.pretrain.loop import descend
from pt_core.run.pretrain.recipe import write_recipe
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from pt_audio.data import wording as say
from pt_audio.pretrain.vocabularies import bert_tokenizer, lm_tokenizer
from pt_audio.pretrain.writer import Writer

LENGTH = 112
"""Tokens of a training sequence."""


@dataclass(frozen=True)
class TextConfig:
    """Networks and training of the built-in text models."""

    vocabulary: Annotated[int, Ge(300)] = 640
    """Tokens of the language model's byte-level BPE, and about those of the BERT's WordPiece."""
    width: Annotated[int, Ge(16)] = 128
    """d of the language model."""
    depth: Depth = 3
    """Blocks of the language model."""
    heads: Heads = 4
    inner: Width = 256
    """Width of the language model's gated MLP."""
    text_width: Annotated[int, Ge(16)] = 64
    """d of the BERT (4 blocks, 4 heads, MLP 4 d)."""
    text_steps: Annotated[int, Ge(1)] = 250
    """Steps of the BERT's masked-word training."""
    steps: Steps = 900
    """Optimiser steps of the language model."""
    batch_size: Annotated[int, Ge(1)] = 24
    """Sequences per step."""
    lr: PeakRate = 3e-3
    seed: Seed = 0


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

    def loss_of(step: int) -> Tensor:
        ids, weights = _batch(writer, encoded, config.batch_size)
        losses = F.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return (losses * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()

    def after(done: int, losses: list[float]) -> None:
        schedule.step()
        if done % 50 == 1:
            tqdm.write(f"{done - 1}: {losses[-1]:.4f}")

    descend(loss_of, optimiser, config.steps, clip=(model.parameters(), 1.0), after=after, title="language model")
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

    def loss_of(step: int) -> Tensor:
        nonlocal share
        texts = ["".join(text for text, _ in writer.text()) for _ in range(16)]
        batch = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
        hidden = torch.from_numpy(rng.random(batch["input_ids"].shape)) < 0.15
        hidden &= batch["input_ids"] > tokenizer.mask_token_id  # behind the special tokens
        hidden[:, 1] = True
        ids = batch["input_ids"].masked_fill(hidden, tokenizer.mask_token_id)
        logits = model(ids, attention_mask=batch["attention_mask"]).logits[hidden]
        share = float((logits.argmax(-1) == batch["input_ids"][hidden]).float().mean())
        return F.cross_entropy(logits, batch["input_ids"][hidden])

    descend(loss_of, optimiser, config.text_steps, after=lambda *_: schedule.step(), title="text encoder")
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
    write_recipe(out / "recipe.json", recipe)
    return recipe
