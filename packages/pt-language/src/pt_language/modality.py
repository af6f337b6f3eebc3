"""pt-language's side of the shared commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from annotated_types import Ge
from pt_core.errors import ConfigError, DataError, nearest
from pt_core.run.declare.modality import Demo, Lazy, Modality
from pt_core.run.declare.options import ClassificationOptions
from pt_core.run.declare.registry import Registry

if TYPE_CHECKING:  # the command line's help must not wait for torch
    import click
    from pt_core.backbone import Backbone
    from pt_core.data import Batch, Dataset
    from pt_core.method import Method
    from pt_core.run.declare.panel import Panel
    from pt_core.run.declare.spec import RunSpec
    from pt_core.task import Evaluation, Task

    from pt_language.adapters import LanguageBackbone
    from pt_language.data import TextDataset
    from pt_language.method import LanguageMethod


@dataclass(frozen=True)
class TaskOptions(ClassificationOptions):
    """Flags of the task."""

    task: Literal["auto", "classification", "generation", "language-modelling"] = "auto"
    """What is predicted (auto: classification where the answers are few and repeat, else generation; text alone: language modelling)."""
    scoring: Literal["words", "head"] = "words"
    """How classes are told: by the probability of their label words, or by a linear head on the text's state."""
    label_words: tuple[str, ...] = ()
    """Words that stand for the classes, as CLASS=WORD (default: the class names)."""
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

    steps: Annotated[int, Ge(1)] = 3000
    """Optimiser steps."""
    width: Annotated[int, Ge(32)] = 128
    """Width d."""
    depth: Annotated[int, Ge(2)] = 3
    """Blocks."""
    heads: Annotated[int, Ge(3)] = 4
    """Attention heads."""
    head_size: Annotated[int, Ge(16)] = 64
    """Width of a head."""
    inner: Annotated[int, Ge(8)] = 256
    """Width of the gated MLP."""
    vocabulary: Annotated[int, Ge(300)] = 4096
    """Tokens of the byte-level BPE."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed."""


class Language(Modality):
    """Text: classification, generation and language modelling with language models of transformers."""

    registry = Registry("pt_language", Path(__file__).parent / "methods")
    input_name = "TEXT"
    data_options = Lazy("pt_language.data:DataOptions")
    task_options = TaskOptions
    predict_options = PredictOptions

    def default_backbone(self, role: str) -> str:
        return "builtin:lm_docs"

    def load_backbone(self, spec: str, weights: str | None, options: Any | None, role: str) -> Backbone:
        from pt_language.backbones import load_backbone

        backbone = load_backbone(spec, weights)
        backbone.recompute = bool(getattr(options, "recompute", False))
        return backbone

    def load_data(self, spec: str, options: Any, seed: int) -> Mapping[str, Dataset]:
        from pt_language.data import load_text

        found: dict[str, Any] = dict(load_text(spec, options))
        return found

    def bind(
        self, dataset: Dataset, backbones: Mapping[str, Backbone], task: Task, options: Any | None, training: bool
    ) -> Dataset:
        longest = getattr(options, "max_text_tokens", None)
        bound: Dataset = cast("TextDataset", dataset).bind(backbones["backbone"], task, longest)  # type: ignore[arg-type]
        return bound

    def make_task(self, options: TaskOptions, data: Mapping[str, Dataset]) -> Task:
        from pt_core.run.data.sampling import class_weights

        from pt_language.tasks.text import Generation, LanguageModelling, TextClassification

        train = cast("TextDataset", data["train"])
        kind = options.task
        if kind == "auto":
            kind = (
                "language-modelling"
                if not train.template.inputs
                else "classification"
                if train.classes
                else "generation"
            )
        if kind != "classification":
            unused = [
                name
                for name in ("label_words", "class_weights", "ordinal", "label_smoothing")
                if getattr(options, name)
            ]
            if options.scoring == "head":
                unused.append("scoring")
            if unused:
                raise ConfigError([f"{name} belongs to task=classification, this is {kind}" for name in unused])
            cls = Generation if kind == "generation" else LanguageModelling
            return cls(train.template.text, options.max_new_tokens, options.beams)
        if train.labels is None:
            raise DataError(
                f"task=classification needs answers that repeat; column {train.template.answer!r} has "
                f"{len({row[train.template.answer] for row in train.rows})} different answers in {len(train)} rows"
            )
        weights = class_weights(train.labels, len(train.classes)) if options.class_weights else None
        words = label_words(options.label_words, train.classes)
        return TextClassification(
            train.classes,
            train.template.text,
            words,
            options.scoring,
            weights,
            options.label_smoothing,
            options.ordinal,
        )

    def task_from_json(self, spec: Mapping[str, Any]) -> Task:
        from pt_language.tasks.text import task_from_json

        return task_from_json(spec)

    def inputs(self, items: Sequence[Any], method: Method, options: Any | None) -> Dataset:
        from pt_language.inputs import input_texts

        task: Any = method.task
        dataset = input_texts(items, task.template, getattr(options, "text_column", None))
        return dataset.bind(cast("LanguageBackbone", method.backbone), task)

    def export_formats(self) -> Mapping[str, Callable[[Method, Path], Sequence[str]]]:
        def peft(method: Method, out: Path) -> Sequence[str]:
            from pt_language.interop import export_peft

            return export_peft(cast("LanguageMethod", method), out)

        def embeddings(method: Method, out: Path) -> Sequence[str]:
            from pt_language.interop import export_embeddings

            return export_embeddings(cast("LanguageMethod", method), out)

        return {"peft": peft, "embeddings": embeddings}

    def example(self, spec: RunSpec, classes: int, batch_size: int) -> tuple[Mapping[str, Backbone], Task, Batch]:
        from pt_language.example import example

        return example(self, spec, classes, batch_size)

    def panels(self, method: Method, data: Mapping[str, Dataset], finals: Mapping[str, Evaluation]) -> Sequence[Panel]:
        from pt_language.inspection import report_panels

        return report_panels(method, data)

    def commands(self) -> Sequence[click.Command]:
        from pt_language.commands import COMMANDS

        return COMMANDS

    def demos(self) -> Sequence[Demo]:
        from pt_language.demo import words

        summary = "pieces of Python's documentation by noun: prompts against in-context learning, LoRA and full tuning"
        return (Demo("words", summary, words),)

    def pretrain_options(self) -> type:
        return PretrainOptions

    def pretrain(self, options: PretrainOptions, out: Path) -> str:
        from pt_language.pretrain import PretrainConfig, pretrain

        names = ("steps", "width", "depth", "heads", "head_size", "inner", "vocabulary", "seed")
        pretrain(PretrainConfig(**{name: getattr(options, name) for name in names}), out)
        return f"local:{out}"


def label_words(given: Sequence[str], classes: Sequence[str]) -> list[str]:
    """`("0=negative", ...)` as one word per class; classes that are not named keep their names.

    Raises:
        ConfigError: an entry without =, or an unknown class.
    """
    words = dict(zip(classes, classes, strict=True))
    problems = []
    for entry in given:
        name, found, word = entry.partition("=")
        if not found or not word.strip():
            problems.append(f"label_words {entry!r} is not CLASS=WORD")
        elif name not in words:
            problems.append(
                f"label_words names class {name!r}{nearest(name, classes)}; the data have: {', '.join(classes)}"
            )
        else:
            words[name] = word
    if problems:
        raise ConfigError(problems)
    return list(words.values())
