"""Flags of data, tasks, prediction and pretraining; imports nothing heavy, as the command line's help reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt
from pt_core.run.declare.fields import Depth, Heads, Seed, Steps, Width
from pt_core.run.declare.options import ClassificationOptions


@dataclass(frozen=True)
class DataOptions:
    """How text data are read."""

    template: str | None = None
    """How a row becomes text; the last field is the answer (default: `input: {text} output: {label}` with the columns found)."""
    where: tuple[str, ...] = ()
    """Use only rows with COLUMN=VALUE or COLUMN!=VALUE; several values with |. All conditions must hold."""
    split_column: str | None = None
    """Column with train, val or test (default: split, where there is one)."""
    val_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Share of the training part that is split off where the data have no validation part."""
    test_fraction: Annotated[float, Ge(0), Lt(1)] = 0.2
    """Share that is split off as test part where the data have neither validation nor test part (0: none)."""
    limit: Annotated[int, Ge(1)] | None = None
    """Use at most this many rows of every part (the first ones of a seeded shuffle)."""
    recompute: bool = False
    """Checkpoint every block of the model while training: less memory, one more forward pass."""
    max_text_tokens: Annotated[int, Ge(1)] | None = None
    """Cut every input text to this many tokens (default: a text that does not fit is an error, nothing is cut)."""


@dataclass(frozen=True)
class TaskOptions(ClassificationOptions):
    """Flags of the task."""

    task: Literal["auto", "classification", "generation", "language-modelling"] = "auto"
    """What is predicted (auto: classification where the answers are few and repeat, else generation; text alone: language modelling)."""
    scoring: Literal["words", "head"] = "words"
    """How classes are told: by the probability of their label words, or by a linear head on the text's state."""
    label_words: tuple[str, ...] = ()
    """Words that stand for the classes, as CLASS=WORD (default: the class names)."""
    special_tokens: bool = True
    """Put the tokenizer's own special tokens around every text ([CLS] and [SEP], </s>, <s>), as its users do."""
    max_new_tokens: Annotated[int, Ge(1)] = 64
    """Longest generated answer."""
    beams: Annotated[int, Ge(1)] = 1
    """Beams of the search; 1 is greedy."""


@dataclass(frozen=True)
class PredictOptions:
    """Flags of `pt-language predict`."""

    text_column: str | None = None
    """Column with the text, for tables and templates of one input (default: the template's own column)."""


@dataclass(frozen=True)
class PretrainOptions:
    """Flags of `pt-language pretrain`."""

    steps: Steps = 3000
    width: Annotated[Width, Ge(32)] = 128
    depth: Annotated[Depth, Ge(2)] = 3
    heads: Annotated[Heads, Ge(3)] = 4
    head_size: Annotated[int, Ge(16)] = 64
    """Width of a head: comparing texts needs many dimensions that rotate slowly."""
    inner: Annotated[int, Ge(8)] = 256
    """Width of the gated MLP."""
    vocabulary: Annotated[int, Ge(300)] = 4096
    """Tokens of the byte-level BPE."""
    seed: Seed = 0
