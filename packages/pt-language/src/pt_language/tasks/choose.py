"""The task of a run from its options and data."""

from __future__ import annotations

from collections.abc import Sequence

from pt_core import Task
from pt_core.errors import ConfigError, DataError, nearest
from pt_core.run.data.sampling import class_weights

from pt_language.data.load import are_classes
from pt_language.data.texts import TextDataset
from pt_language.options import TaskOptions
from pt_language.tasks.classification import TextClassification
from pt_language.tasks.generation import Generation, LanguageModelling


def make_task(options: TaskOptions, train: TextDataset) -> Task:
    """The task that options and training rows ask for.

    Raises:
        ConfigError: options of another kind of task.
        DataError: classes are asked for, but the answers do not repeat.
    """
    if options.task == "classification" or (options.task == "auto" and are_classes(train)):
        train.refuse_references()  # a list is no class, and which of its texts were meant is not told
    kind = options.task if options.task != "auto" else _kind(train)
    template = train.template
    if kind != "classification":
        _refuse_options_of_classes(options, kind)
        cls = Generation if kind == "generation" else LanguageModelling
        return cls(template.text, options.max_new_tokens, options.beams, options.special_tokens)
    if train.labels is None:
        raise DataError(
            f"task=classification needs answers that repeat; column {template.answer!r} has "
            f"{len({row[template.answer] for row in train.rows})} different answers in {len(train)} rows"
        )
    return TextClassification(
        train.classes,
        template.text,
        label_words(options.label_words, train.classes),
        options.scoring,
        class_weights(train.labels, len(train.classes)) if options.class_weights else None,
        options.label_smoothing,
        options.ordinal,
        options.special_tokens,
    )


def _kind(train: TextDataset) -> str:
    if not train.template.inputs:
        return "language-modelling"
    return "classification" if train.classes else "generation"


def _refuse_options_of_classes(options: TaskOptions, kind: str) -> None:
    names = ("label_words", "class_weights", "ordinal", "label_smoothing")
    unused = [name for name in names if getattr(options, name)]
    if options.scoring == "head":
        unused.append("scoring")
    if unused:
        raise ConfigError([f"{name} belongs to task=classification, this is {kind}" for name in unused])


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
