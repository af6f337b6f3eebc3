"""`pt-language pretrain`: a tiny causal language model that can learn in context.

It reads the standard library's documentation as plain text, and *episodes*: labelled examples in one sequence, whose label words are
drawn anew for every episode. Since a word means nothing but what its examples show, only reading the context lowers the loss, and the
ability carries over to label sets and topics that were never seen (Min et al., MetaICL, arXiv 2110.15943). Three kinds of episodes, from
easy to hard: repeated texts, texts that share a word, texts that come from one module of the library. In an episode the loss is on every
label whose class has been shown before (the first label of a class cannot be known), and on the token behind it.

Modules of `corpus.HELD_OUT` and one label word in eight are held out; the accuracy on them is measured, with texts that are not among
the examples, and stored beside the weights. The folder is written every `keep_every` steps, so that a stopped run can be used.
"""

from __future__ import annotations

import json
import math
import platform
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pt_core.errors import NonFiniteError, UserError
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from pt_language.circuit import start
from pt_language.corpus import HELD_OUT, docstrings, module_files, module_sentences, topics, window

END = "<|end|>"
TEMPLATES = (
    ("input: {} output: {}", 4),
    ("text: {} label: {}", 1),
    ("{}\nanswer: {}", 1),
    ("question: {} answer: {}", 1),
    ("sentence: {} class: {}", 1),
)
"""(form of an example, how often it is drawn)."""


@dataclass(frozen=True)
class PretrainConfig:
    """Network and training of the built-in model."""

    vocabulary: int = 4096
    """V, tokens of the byte-level BPE."""
    width: int = 128
    """d."""
    depth: int = 3
    """Blocks."""
    heads: int = 4
    """Attention heads."""
    head_size: int = 64
    """Width of a head: comparing texts needs many dimensions that rotate slowly."""
    inner: int = 256
    """Width of the gated MLP."""
    context: int = 2048
    """Longest input, text and prompt together."""
    steps: int = 3000
    """Optimiser steps."""
    tokens_per_step: int = 2048
    """Tokens of a step; its sequences have the length of the current phase."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.05
    """Weight decay."""
    label_weight: float = 10.0
    """Weight of label tokens in the loss; tokens of running text, and the one behind a label, weigh 1."""
    warmup: int = 150
    """Steps in which the learning rate rises."""
    keep_every: int = 500
    """Steps between two measurements, each of which writes the folder."""
    seed: int = 0
    """Seed."""


MARKED = (" output", " label", " answer", "answer", " class")
"""Words whose second next token is an answer in most templates; the tokenizer has a token for each."""
KINDS = ("copy", "word", "module")
LABEL, NEXT = 2, 1
"""Marks of tokens in the loss."""
ROUNDS = (100, 400)
"""Episodes of a measurement on the way, and at the end."""


@dataclass(frozen=True)
class Phase:
    """A stretch of training: short and easy sequences first, the full length last."""

    start: float
    """Begins at this share of the steps."""
    length: int
    """Tokens per sequence."""
    words: tuple[int, int]
    """Words per text."""
    kinds: tuple[float, float, float]
    """Shares of the kinds of episodes."""
    plain: float
    """Share of running text."""


PHASES = (
    Phase(0.0, 192, (3, 8), (0.2, 0.6, 0.2), 0.2),
    Phase(0.3, 384, (4, 14), (0.1, 0.5, 0.4), 0.2),
    Phase(0.75, 768, (4, 20), (0.05, 0.5, 0.45), 0.25),
)
MOST = 24
"""Texts of one class in an episode, before they are repeated."""


class Episodes:
    """Draws token sequences; everything is a function of the given generator.

    Args:
        groups: class name -> token ids of its sentences, each a list of words' ids.
        labels: token ids of the label words.
        documents: one long list of token ids, for plain text.
    """

    def __init__(
        self, tokenizer: Tokenizer, groups: dict[str, list[str]], labels: list[str], documents: list[int]
    ) -> None:
        self.tokenizer = tokenizer
        self.groups = {name: texts for name, texts in groups.items() if len(texts) >= 8}
        self.names = sorted(self.groups)
        self.labels, self.documents = labels, np.asarray(documents)
        self.pool = [text for name in self.names for text in self.groups[name]]
        holding: dict[str, list[str]] = defaultdict(list)
        for text in self.pool:
            for word in set(re.findall(r"[a-z]{4,}", text.lower())):
                holding[word].append(text)
        self.by_word = {word: texts for word, texts in sorted(holding.items()) if 8 <= len(texts) <= 400}
        self.words = list(self.by_word)
        self.short_labels = [label for label in labels if len(self.encode(f" {label}")) == 1]

    def texts(self, kind: str, classes: int, words: tuple[int, int], rng: random.Random) -> list[list[str]]:
        """One list of up to `MOST` different texts per class (one text for the kind `copy`)."""
        if kind == "module":
            found = [self.groups[name] for name in rng.sample(self.names, classes)]
            found = [rng.sample(texts, min(MOST, len(texts))) for texts in found]
            return [[crop(text, rng.randint(*words) + 4, rng) for text in texts] for texts in found]
        if kind == "word":
            return [self._windows(word, words, rng) for word in rng.sample(self.words, classes)]
        return [[crop(text, rng.randint(*words), rng)] for text in rng.sample(self.pool, classes)]

    def _windows(self, word: str, words: tuple[int, int], rng: random.Random) -> list[str]:
        texts = rng.sample(self.by_word[word], min(MOST, len(self.by_word[word])))
        sizes = [rng.randint(*words) for _ in texts]
        return [window(text, word, size, rng.randrange(size)) for text, size in zip(texts, sizes, strict=True)]

    def episode(
        self, length: int, words: tuple[int, int], rng: random.Random, kind: str, classes: int | None = None
    ) -> tuple[list[int], list[int]]:
        """(tokens, marks), at least `length` long; marks are LABEL on labels of classes seen before, NEXT behind them, else 0."""
        classes = classes or rng.choice((2, 2, 2, 3, 4, 6))
        template = rng.choices([t for t, _ in TEMPLATES], [w for _, w in TEMPLATES])[0]
        ends = rng.random() < 0.7
        groups = self.texts(kind, classes, words, rng)
        names = rng.sample(self.short_labels if rng.random() < 0.8 else self.labels, classes)
        tokens: list[int] = []
        marks: list[int] = []
        order: list[int] = []
        shown = [0] * classes
        before, between = template.split("{}")[:2]
        while len(tokens) < length:
            if not order:
                order = list(range(classes))
                rng.shuffle(order)
            group = order.pop()
            text = groups[group][shown[group] % len(groups[group])]
            body = self.encode(f"{before}{text}{between.rstrip(' ')}")
            label = self.encode(f" {names[group]}")
            tail = [0] if ends else self.encode("\n")
            tokens += body + label + tail
            marks += [0] * len(body) + [LABEL if shown[group] else 0] * len(label) + [NEXT] * len(tail)
            shown[group] += 1
        return tokens, marks

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids

    def batch(self, rows: int, phase: Phase, rng: random.Random) -> tuple[Tensor, Tensor]:
        """tokens (rows, length) and marks (rows, length); about `phase.plain` of the rows are running text."""
        tokens, marks = [], []
        for _ in range(rows):
            if rng.random() < phase.plain:
                begin = rng.randrange(len(self.documents) - phase.length)
                one, mark = self.documents[begin : begin + phase.length].tolist(), [NEXT] * phase.length
            else:
                one, mark = self.episode(phase.length, phase.words, rng, rng.choices(KINDS, phase.kinds)[0])
            tokens.append(one[: phase.length])
            marks.append(mark[: phase.length])
        return torch.tensor(tokens), torch.tensor(marks)


def crop(text: str, count: int, rng: random.Random) -> str:
    """`count` neighbouring words of a text."""
    parts = text.split()
    start = rng.randrange(max(1, len(parts) - count + 1))
    return " ".join(parts[start : start + count])


def train_tokenizer(texts: list[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE: every text can be encoded, and decoding gives it back. Token 0 ends a text; there is no padding token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    frequent = " ".join(template for template, _ in TEMPLATES)
    tokenizer.train_from_iterator([*texts, *[f" {frequent} {frequent}"] * 2000], trainer)
    return tokenizer


def label_words(texts: list[str]) -> tuple[list[str], list[str]]:
    """(words for training, held-out words): frequent lower-case words of the texts, every eighth held out."""
    counts = Counter(word for text in texts for word in re.findall(r"\b[a-z]{4,10}\b", text))
    words = [word for word, _ in sorted(counts.most_common(1200), key=lambda item: item[0])]
    return [w for i, w in enumerate(words) if i % 8], words[::8]


@dataclass
class Material:
    """What the model reads, and what it is tested on."""

    tokenizer: Tokenizer
    seen: Episodes
    unseen: Episodes


def read_material(vocabulary: int) -> Material:
    """The standard library's texts, split into modules that are read and modules that are not."""
    files = module_files()
    known = [name for name in files if name not in HELD_OUT]
    plain = [doc for name in known for path in files[name] for doc in docstrings(path)]
    reference = topics()
    tokenizer = train_tokenizer([*plain, *reference.values()], vocabulary)
    documents: list[int] = []
    for text in [*plain, *reference.values()]:
        documents += [*tokenizer.encode(text).ids, 0]
    labels, unseen_labels = label_words(plain)
    seen = Episodes(tokenizer, module_sentences(tuple(known)), labels, documents)
    unseen = Episodes(tokenizer, module_sentences(HELD_OUT), unseen_labels, documents)
    return Material(tokenizer, seen, unseen)


def build(config: PretrainConfig) -> LlamaForCausalLM:
    """A Llama with tied embeddings."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.inner,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            head_dim=config.head_size,
            max_position_embeddings=config.context,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=None,
            attention_dropout=0.0,
            rope_parameters={"rope_type": "default", "rope_theta": 1e8},
        )
    )


@torch.no_grad()
def in_context_accuracy(
    model: Any, episodes: Episodes, classes: int, shots: int, rounds: int, kind: str = "module"
) -> float:
    """Share of right labels at the end of episodes with `shots` examples of each class; the label's first token decides."""
    rng = random.Random(0)
    right = 0
    before, between = TEMPLATES[0][0].split("{}")[:2]
    for _ in range(rounds):
        groups = [
            rng.sample(texts, shots + 1) if len(texts) > shots else texts * (shots + 1)
            for texts in episodes.texts(kind, classes, (6, 12), rng)
        ]
        names = rng.sample(episodes.labels, classes)
        while len({episodes.encode(f" {name}")[0] for name in names}) < classes:
            names = rng.sample(episodes.labels, classes)
        shown = [(text, names[c]) for c, texts in enumerate(groups) for text in texts[:shots]]
        rng.shuffle(shown)
        gold = rng.randrange(classes)
        parts = [f"{before}{crop(text, 20, rng)}{between} {name}".replace("  ", " ") for text, name in shown]
        tokens: list[int] = []
        for part in parts:
            tokens += [*episodes.encode(part), 0]
        tokens += episodes.encode(f"{before}{crop(groups[gold][shots], 20, rng)}{between}".rstrip())
        logits = model(torch.tensor([tokens])).logits[0, -1]
        firsts = [episodes.encode(f" {name}")[0] for name in names]
        right += int(logits[firsts].argmax()) == gold
    return right / rounds


def train(config: PretrainConfig, material: Material, keep: Callable[[LlamaForCausalLM, int, float], str]) -> None:
    """Train, and hand (model, steps done, mean loss) to `keep` every `keep_every` steps and at the end; it returns what to print.

    Raises:
        NonFiniteError: the loss became NaN or infinite.
    """
    torch.manual_seed(config.seed)
    model = build(config).train()
    encode = material.seen.encode
    frequent = [0, *(token for template, _ in TEMPLATES for token in encode(template.replace("{}", "")))]
    start(model, material.seen.documents, [encode(word)[-1] for word in MARKED], frequent, config.seed)
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))
    losses: list[float] = []
    accuracies: list[float] = []
    started = time.monotonic()
    for step in tqdm(range(config.steps), desc="pretrain", unit="step", disable=None):
        phase = [one for one in PHASES if step >= one.start * config.steps][-1]
        rows = max(2, config.tokens_per_step // phase.length)
        tokens, marks = material.seen.batch(rows, phase, random.Random(f"{config.seed}-{step}"))
        warm = min(1.0, (step + 1) / config.warmup)
        rate = config.lr * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / config.steps)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        hidden = model.model(input_ids=tokens).last_hidden_state[:, :-1]
        mark, target = marks[:, 1:], tokens[:, 1:]
        asked = mark > 0  # (rows, length - 1): only there a distribution over the vocabulary is computed
        mark, target = mark[asked], target[asked]
        logits = model.lm_head(hidden[asked])
        weight = torch.where(mark == LABEL, config.label_weight, 1.0)
        loss = (F.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise NonFiniteError(f"the loss became {losses[-1]} at step {step}; lower lr={config.lr:g}")
        accuracies.append(float((logits.argmax(-1) == target)[mark == LABEL].float().mean()))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        done = step + 1
        if done % 50 == 0:
            told = f"loss {np.mean(losses[-50:]):.3f}, label accuracy {np.nanmean(accuracies[-50:]):.3f}"
            tqdm.write(f"step {done}: {told} ({time.monotonic() - started:.0f} s)")
        if done % config.keep_every == 0 or done == config.steps:
            model.eval()
            tqdm.write(f"step {done}: {keep(model, done, float(np.mean(losses[-100:])))}")
            model.train()


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, card: dict[str, Any], out: Path) -> None:
    """A folder in the hub's layout with fp16 weights, and the recipe beside them."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {n: t.half().contiguous() for n, t in model.state_dict().items() if n != "lm_head.weight"}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads(model.config.to_json_string(use_diff=True))
    config |= {"architectures": ["LlamaForCausalLM"], "dtype": "float16"}
    (out / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    tokenizer.save(str(out / "tokenizer.json"))
    special = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "model_max_length": model.config.max_position_embeddings,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(special, indent=1) + "\n", encoding="utf-8")
    (out / "recipe.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def measure(model: Any, material: Material, rounds: int) -> dict[str, float]:
    """In-context accuracy on held-out topics and label words."""
    names = {"copy": "same text", "word": "shared word", "module": "same module"}
    return {
        f"held out, {names[kind]}, {classes} classes, {shots} shots each": in_context_accuracy(
            model, material.unseen, classes, shots, rounds, kind
        )
        for kind in KINDS
        for classes, shots in ((2, 1), (2, 4), (4, 2))
    }


def pretrain(config: PretrainConfig, out: Path) -> dict[str, Any]:
    """Train the model and write it to the folder `out`; returns what recipe.json holds.

    Raises:
        UserError: `out` exists and is not a folder.
        NonFiniteError: the loss became NaN or infinite.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give the folder that the model is written to")
    material = read_material(config.vocabulary)
    started = time.monotonic()
    card: dict[str, Any] = {
        "format_version": 1,
        "data": "documentation strings and language reference of the Python standard library; labelled episodes made of them",
        "held_out_modules": list(HELD_OUT),
        "recipe": asdict(config),
        "versions": {n: metadata.version(n) for n in ("torch", "transformers", "tokenizers")}
        | {"python": platform.python_version()},
    }

    def keep(model: LlamaForCausalLM, done: int, loss: float) -> str:
        rounds = ROUNDS[done == config.steps]
        found = {name: round(value, 4) for name, value in measure(model, material, rounds).items()}
        card["parameters"] = sum(p.numel() for p in model.parameters())
        card["steps_done"] = done
        card["results"] = {"loss": round(loss, 4), **found}
        card["seconds"] = round(time.monotonic() - started)
        save(model, material.tokenizer, card, out)
        return ", ".join(f"{name.removeprefix('held out, ')} {value:.3f}" for name, value in found.items())

    train(config, material, keep)
    return card


__all__ = ["PretrainConfig", "pretrain"]
