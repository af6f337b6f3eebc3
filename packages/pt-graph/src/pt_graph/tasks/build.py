"""The task of a run, as its data and options say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pt_core.data import Dataset
from pt_core.errors import ConfigError

from pt_graph.options import TaskOptions
from pt_graph.tasks.binary import BinaryTasks
from pt_graph.tasks.classification import GraphClassification


def task_of(options: TaskOptions, data: Mapping[str, Dataset]) -> BinaryTasks | GraphClassification:
    """The kind that the training labels have, or the one that is asked for; where there are class names only, classification.

    Raises:
        ConfigError: the labels are of another kind, or the metric is none of that kind.
    """
    train: Any = data["train"]
    binary = getattr(train, "targets", None) is not None
    kind = options.task if options.task != "auto" else ("binary" if binary else "classification")
    task: BinaryTasks | GraphClassification
    if kind == "binary":
        if getattr(train, "tasks", None) is None:
            raise ConfigError(
                "--task binary needs yes/no labels; these data have classes (or none): use --task classification"
            )
        task = BinaryTasks(train.tasks)
    else:
        if train.labels is None:
            raise ConfigError(
                "--task classification needs one class per graph; these data have yes/no properties (or no labels)"
            )
        doubt = getattr(train, "doubt", None)
        if doubt is not None and options.task == "auto":
            raise ConfigError(
                f"{doubt}, as amounts are, and regression is not supported; give --task classification if they are classes"
            )
        task = GraphClassification.from_options(options, train)  # type: ignore[assignment]
    known = ("roc_auc", "accuracy", "nll") if kind == "binary" else ("accuracy", "macro_f1", "nll")
    if options.select_by != "auto":
        if options.select_by not in known:
            raise ConfigError(f"--select-by {options.select_by} is no metric of {kind} tasks; use {', '.join(known)}")
        task.select = (options.select_by, "min" if options.select_by == "nll" else "max")
    sizes = (graph.nodes for part in data.values() for graph in getattr(part, "graphs", ()))
    task.largest = max(sizes, default=None)
    return task
