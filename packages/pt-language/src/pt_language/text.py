"""What loading, tuning and opening a prompt need: pt-language's side of the shared commands, but for commands and demos of its own.

The server opens runs through this class, so it lies below `modality`, which brings the server's command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pt_core.errors import problem_of
from pt_core.run.declare.package import Package

from pt_language.options import TaskOptions

if TYPE_CHECKING:  # the command line's help must not wait for torch
    from pt_core.backbone import Backbone
    from pt_core.data import Batch, Dataset
    from pt_core.method import Method
    from pt_core.run.declare.panel import Panel
    from pt_core.task import Evaluation, Task
    from torch import nn

    from pt_language.adapters.base import LanguageBackbone
    from pt_language.data.texts import TextDataset
    from pt_language.method import LanguageMethod

TOKENS = ("input_ids", "attention_mask")
"""What a wrapped network is called with, by the names of transformers."""


class Text(Package):
    """Text: classification, generation and language modelling with language models of transformers."""

    input_name = "TEXT"

    def data_problem(self, spec: str) -> str | None:
        from pt_language.data.places import check_place

        return problem_of(check_place, spec)

    def load_backbone(self, spec: str, weights: str | None, options: Any | None, role: str) -> Backbone:
        from pt_language.backbones import load_backbone

        backbone = load_backbone(spec, weights)
        backbone.recompute = bool(getattr(options, "recompute", False))
        return backbone

    def backbone_of(self, module: nn.Module) -> Backbone:
        from pt_language.backbones import adapt

        return adapt(module)

    def plain_batch(self, method: Method, inputs: Sequence[Any], named: Mapping[str, Any]) -> Batch:
        """`input_ids` and `attention_mask` (batch, tokens), in this order or by name."""
        from pt_language.data.tokens import token_batch

        given = {**dict(zip(TOKENS, inputs, strict=False)), **named}
        segments = given.pop("token_type_ids", None)  # tokenizers make them; zeros say nothing
        unknown = sorted(set(given) - set(TOKENS))
        if len(inputs) > len(TOKENS) or unknown or "input_ids" not in given:
            told = f"{len(inputs)} tensors" + (f" and {', '.join(unknown)}" if unknown else "")
            raise TypeError(
                f"the network takes {' and '.join(TOKENS)}, not {told} (HF Trainer leaves columns out that a forward does not name: "
                "set remove_unused_columns=False)"
            )
        if segments is not None and bool(segments.any()):
            raise TypeError("prompts stand in front of one text: token_type_ids of a second one are not supported")
        return token_batch(given["input_ids"], given.get("attention_mask"))

    def load_data(self, spec: str, options: Any, seed: int) -> Mapping[str, Dataset]:
        from pt_language.data.load import load_text

        found: dict[str, Any] = dict(load_text(spec, options))
        return found

    def bind(
        self, dataset: Dataset, backbones: Mapping[str, Backbone], task: Task, options: Any | None, training: bool
    ) -> Dataset:
        longest = getattr(options, "max_text_tokens", None)
        bound: Dataset = cast("TextDataset", dataset).bind(backbones["backbone"], task, longest)  # type: ignore[arg-type]
        return bound

    def make_task(self, options: TaskOptions, data: Mapping[str, Dataset]) -> Task:
        from pt_language.tasks.choose import make_task

        return make_task(options, cast("TextDataset", data["train"]))

    def task_kinds(self) -> Sequence[type[Task]]:
        from pt_language.tasks.classification import TextClassification
        from pt_language.tasks.generation import Generation, LanguageModelling

        return TextClassification, Generation, LanguageModelling

    def inputs(self, items: Sequence[Any], method: Method, options: Any | None) -> Dataset:
        from pt_language.data.inputs import input_texts

        task: Any = method.task
        dataset = input_texts(items, task.template, getattr(options, "text_column", None))
        return dataset.bind(cast("LanguageBackbone", method.backbone), task)

    def mixing_problem(self, one: Method, other: Method) -> str | None:
        """Texts are tokenised once for a batch."""
        first, second = cast("LanguageMethod", one).text_task, cast("LanguageMethod", other).text_task
        if first.template.text != second.template.text:
            return f"their templates are {first.template.text!r} and {second.template.text!r}; predict with one at a time, or serve them"
        if first.special_tokens != second.special_tokens:
            return "only one of them was tuned with the tokenizer's special tokens; predict with one at a time, or serve them"
        return None

    def export_formats(self) -> Mapping[str, Callable[[Method, Path], Sequence[str]]]:
        def peft(method: Method, out: Path) -> Sequence[str]:
            from pt_language.interop.outgoing import export_peft

            return export_peft(cast("LanguageMethod", method), out)

        def embeddings(method: Method, out: Path) -> Sequence[str]:
            from pt_language.interop.embeddings import export_embeddings

            return export_embeddings(cast("LanguageMethod", method), out)

        return {"peft": peft, "embeddings": embeddings}

    def panels(self, method: Method, data: Mapping[str, Dataset], finals: Mapping[str, Evaluation]) -> Sequence[Panel]:
        from pt_language.inspection import report_panels

        return report_panels(method, data)
