"""Flags of data, tasks, prediction and pretraining; imports nothing heavy, as the command line's help reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from pt_core.run.declare.fields import Seed, Steps

Stereo = Literal["error", "mean", "left", "right"]
"""What to do with several channels."""


@dataclass(frozen=True)
class DataOptions:
    """How audio data are read."""

    tasks: tuple[str, ...] = ("tagging",)
    """Records to make from labelled clips, of: tagging, captioning, question, localisation, retrieval, few_shot, reasoning."""
    ways: Annotated[int, Ge(2), Le(1000)] = 5
    """Classes of a few-shot episode."""
    episode_shots: Annotated[int, Ge(1), Le(1000)] = 1
    """Clips per class in a few-shot episode."""
    stereo: Stereo = "error"
    """What to do with several channels: refuse, average, or take one."""
    file_column: str | None = None
    """Column of a table with the audio file (default: file, filename, path, audio ...)."""
    label_column: str | None = None
    """Column of a table with what is heard (default: label, class, category, target)."""
    split_column: str | None = None
    """Column of a table with the part, train, val or test (default: split, part, subset, where there is one)."""
    audio_folder: str | None = None
    """Folder that paths in a table or in JSON lines are relative to (default: that of the file)."""
    whole_files: bool = False
    """Leave the columns start and end of a table out: every row is about its whole file."""
    val_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Share of the training clips that is split off where the data have no validation part."""
    test_fraction: Annotated[float, Ge(0), Lt(1)] = 0.2
    """Share that is split off as test part where the data have neither validation nor test part (0: none)."""
    limit: Annotated[int, Ge(1)] | None = None
    """Use at most this many records of every part (the first ones of a seeded shuffle)."""
    recompute: bool = False
    """Checkpoint every block of the language model while training: less memory, one more forward pass."""


@dataclass(frozen=True)
class TaskOptions:
    """Flags of the task."""

    task: Literal["answers"] = "answers"
    """What is predicted: answers in words."""
    max_new_tokens: Annotated[int, Ge(1), Le(65_535)] = 256
    """Longest generated answer."""
    beams: Annotated[int, Ge(1), Le(1000)] = 5
    """Beams of the search; 1 is greedy."""
    repetition_penalty: Annotated[float, Gt(0)] = 1.5
    """Makes repeated tokens less likely; 1 for none."""
    length_penalty: float = 1.0
    """Above 0 prefers long answers of a beam search."""
    instruction_tokens: Annotated[int, Ge(4), Le(65_535)] = 128
    """Longest instruction; of a longer one the end is kept."""
    answer_tokens: Annotated[int, Ge(2), Le(65_535)] = 256
    """Longest answer in training; of a longer one the beginning is kept."""


@dataclass(frozen=True)
class PredictOptions:
    """Flags of `pt-audio predict`."""

    ask: tuple[str, ...] = ()
    """The question, asked of every clip; given K times: the K clips are one input, with text k behind clip k."""
    stereo: Stereo = "error"
    """What to do with several channels: refuse, average, or take one."""


@dataclass(frozen=True)
class PretrainOptions:
    """Flags of `pt-audio pretrain`."""

    what: Literal["encoder", "text"] = "encoder"
    """The audio encoder, or the language model and the BERT."""
    steps: Steps | None = None
    """Optimiser steps (default: the recipe's)."""
    seed: Seed = 0
