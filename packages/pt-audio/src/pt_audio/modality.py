"""pt-audio's side of the shared commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pt_core.errors import UserError, problem_of
from pt_core.run.declare.package import Package

from pt_audio.options import PredictOptions, PretrainOptions, TaskOptions

if TYPE_CHECKING:  # the command line's help must not wait for torch
    from pt_core.backbone import Backbone
    from pt_core.data import Dataset
    from pt_core.method import Method
    from pt_core.run.declare.panel import Panel
    from pt_core.task import Evaluation, Task
    from torch import Tensor

    from pt_audio.data.dataset import AudioRecords
    from pt_audio.method import AudioMethod
    from pt_audio.tasks.answers import Answers


class Audio(Package):
    """Audio: questions about clips, answered by a frozen language model."""

    input_name = "AUDIO"

    def default_backbone(self, role: str) -> str:
        from pt_audio.backbones import BUILTIN

        return f"builtin:{BUILTIN[role]}"

    def backbone_problem(self, spec: str, role: str) -> str | None:
        from pt_audio.backbones import locate

        return problem_of(locate, spec, None, role)

    def data_problem(self, spec: str) -> str | None:
        from pt_audio.data.places import kind_of

        return problem_of(kind_of, spec)

    def load_backbone(self, spec: str, weights: str | None, options: Any | None, role: str) -> Backbone:
        from pt_core.run.command.runs import say

        from pt_audio.backbones import load_backbone

        backbone: Any = load_backbone(spec, weights, role)
        for note in getattr(backbone, "notes", ()):
            say(note)
        if role == "lm":
            backbone.recompute = bool(getattr(options, "recompute", False))
        return backbone  # type: ignore[no-any-return]

    def load_data(self, spec: str, options: Any, seed: int) -> Mapping[str, Dataset]:
        from pt_audio.data.load import load_audio

        found: dict[str, Any] = dict(load_audio(spec, options, seed))
        return found

    def bind(
        self, dataset: Dataset, backbones: Mapping[str, Backbone], task: Task, options: Any | None, training: bool
    ) -> Dataset:
        answers, records = cast("Answers", task), cast("AudioRecords", dataset)
        bound: Dataset = records.bind(
            backbones["encoder"], backbones["text"], backbones["lm"], answers.tags, answers.limits  # type: ignore[arg-type]
        )  # fmt: skip
        return bound

    def make_task(self, options: TaskOptions, data: Mapping[str, Dataset]) -> Task:
        from pt_audio.tasks.answers import Answers

        return Answers.of(options, cast("AudioRecords", data["train"]).tags)

    def task_kinds(self) -> Sequence[type[Task]]:
        from pt_audio.tasks.answers import Answers

        return (Answers,)

    def inputs(self, items: Sequence[Any], method: Method, options: Any | None) -> Dataset:
        from pt_core.run.command.runs import say

        from pt_audio.data.inputs import input_records

        chosen = options if isinstance(options, PredictOptions) else PredictOptions()
        records = input_records(items, chosen.ask, chosen.stereo)
        for note in records.notes:
            say(note)
        own = cast("AudioMethod", method)
        return records.bind(own.encoder, own.text, own.lm, own.answers.tags, own.answers.limits)  # type: ignore[return-value]

    def blank_inputs(self, backbone: Backbone, batch_size: int) -> Tensor:
        raise UserError("answers are generated token by token, so pt-audio exports no programs; use --format artifact")

    def thumbnail(self, dataset: Dataset, index: int) -> bytes | None:
        from pt_audio.pictures import thumbnail

        return thumbnail(dataset, index)

    def panels(self, method: Method, data: Mapping[str, Dataset], finals: Mapping[str, Evaluation]) -> Sequence[Panel]:
        from pt_audio.panels import attention_panels

        return attention_panels(method, data)

    def pretrain(self, options: PretrainOptions, out: Path) -> str:
        changes: dict[str, Any] = {"seed": options.seed}
        if options.steps is not None:
            changes["steps"] = options.steps
        if options.what == "encoder":
            from pt_audio.pretrain import encoder

            encoder.pretrain(encoder.EncoderConfig(**changes), out)
            return f"encoder=local:{out}"
        from pt_audio.pretrain import text

        text.pretrain(text.TextConfig(**changes), out)
        return f"lm=local:{out / 'lm'} --backbone text=local:{out / 'text'}"
