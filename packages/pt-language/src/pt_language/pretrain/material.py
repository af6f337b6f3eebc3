"""What the model reads and what it is tested on: the standard library's texts, and a tokenizer trained on them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pt_language.data.corpus import HELD_OUT, docstrings, module_files, module_sentences, topics
from pt_language.pretrain.episodes import TEMPLATES, Episodes

END = "<|end|>"


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
