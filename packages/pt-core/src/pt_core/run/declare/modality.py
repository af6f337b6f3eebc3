"""What a modality package plugs into the shared commands: its methods, backbones, data and tasks.

Packages build on `package.Package`, which fills most of it by where things lie."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pt_core.errors import UserError, nearest
from pt_core.run.declare.registry import Registry

if TYPE_CHECKING:  # the command line's help must not wait for torch
    import click
    from torch import Tensor, nn

    from pt_core.backbone import Backbone
    from pt_core.data import Batch, Dataset
    from pt_core.method import Method
    from pt_core.run.declare.panel import Panel
    from pt_core.run.declare.spec import RunSpec
    from pt_core.task import Evaluation, Task


@dataclass(frozen=True)
class Demo:
    """A built-in demonstration: methods compared on built-in data."""

    name: str
    summary: str
    run: Any
    """Callable (modality, out: Path, seeds: int, fast: bool) -> None."""


class Modality(ABC):
    """One package's side of the commands.

    Attributes:
        registry: its methods.
        input_name: what `predict` reads, for the help.
        data_options: dataclass of the data flags.
        task_options: dataclass of the task flags; its field `task` is a Literal of the tasks there are.
        predict_options: dataclass of further flags of `predict`, or None. Read for the help: its module must not import torch.
    """

    registry: Registry
    input_name: str = "INPUT"
    data_options: type
    task_options: type
    predict_options: type | None = None
    class_texts: bool = False
    """Whether `fit --class-names FILE` gives the classes of labelled data a text each."""

    @property
    def package(self) -> str:
        """Distribution and command name, such as `pt-vision`."""
        return self.registry.distribution

    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def backbones(self) -> Sequence[tuple[str, str]]:
        """(spec, one-line description) of what --backbone accepts."""

    def backbone_problem(self, spec: str, role: str) -> str | None:
        """What is wrong with a --backbone, as far as its name tells; nothing is loaded. Schemes and built-in names are those of
        `backbones()`; a package that can say more without loading weights overrides it."""
        mine = [text.removeprefix(f"{role}=") for text, _ in self.backbones() if _role_of(text) in ("", role)]
        schemes = sorted({text.partition(":")[0] for text in mine if ":" in text})
        scheme, found, _ = spec.partition(":")
        if not found or scheme not in schemes:
            forms = ", ".join(f"{known}:" for known in schemes)
            return f"--backbone {spec!r} has no known form{nearest(scheme, schemes)}; it starts with one of {forms}"
        builtin = [text for text in mine if text.startswith("builtin:")]
        if scheme == "builtin" and spec.partition(",")[0] not in builtin:
            return f"no backbone {spec!r}{nearest(spec, builtin)}; built in: {', '.join(builtin)}"
        return None

    def weights_problem(self, spec: str, role: str) -> str | None:
        """What is wrong with loading a known --backbone without --weights, as far as its name tells."""
        return None

    def data_problem(self, spec: str) -> str | None:
        """What is wrong with a --data, as far as the name tells; nothing is read."""
        scheme, found, _ = spec.partition(":")
        if Path(spec).exists() or (found and scheme.isalnum()):
            return None
        return f"--data {spec} does not exist; give a folder, a file, or a builtin: name"

    @abstractmethod
    def default_backbone(self, role: str) -> str:
        """The spec used for a backbone role without --backbone."""

    @abstractmethod
    def load_backbone(self, spec: str, weights: str | None, options: Any | None, role: str) -> Backbone:
        """The backbone behind a spec. `options` are the run's data options, or None where a tuned artifact is loaded."""

    def reload_backbone(self, spec: str, weights: str | None, preprocessing: Mapping[str, Any], role: str) -> Backbone:
        """The backbone as an artifact was tuned on it, whose recorded `preprocessing` may tell options that it was loaded with."""
        return self.load_backbone(spec, weights, None, role)

    def backbone_of(self, module: nn.Module) -> Backbone:
        """The backbone around a user's own network.

        Raises:
            UserError: the package has no adapter for networks of this kind.
        """
        raise UserError(f"{self.package} has no adapter for a {type(module).__name__}")

    def plain_batch(self, method: Method, inputs: Sequence[Any], named: Mapping[str, Any]) -> Batch:
        """What a wrapped network is called with, as an unlabelled batch; the default takes one tensor (batch, ...)."""
        import torch

        from pt_core.data import Batch

        if len(inputs) != 1 or named:
            raise TypeError(f"{self.package} networks take one tensor of inputs")
        rows = torch.arange(len(inputs[0]), device=inputs[0].device)
        return Batch(inputs[0], None, rows, [str(row) for row in range(len(inputs[0]))])

    @abstractmethod
    def load_data(self, spec: str, options: Any, seed: int) -> Mapping[str, Dataset]:
        """Roles found behind a path (train, val, test), not yet prepared for a backbone."""

    @abstractmethod
    def bind(
        self, dataset: Dataset, backbones: Mapping[str, Backbone], task: Task, options: Any | None, training: bool
    ) -> Dataset:
        """The dataset with the backbones' preprocessing, and augmentation where `training`."""

    @abstractmethod
    def make_task(self, options: Any, data: Mapping[str, Dataset]) -> Task:
        """The task of a run; `options` is an instance of `task_options`."""

    @abstractmethod
    def task_from_json(self, spec: Mapping[str, Any]) -> Task:
        """The task stored in a card.

        Raises:
            ArtifactError: unknown or malformed.
        """

    def mixing_problem(self, one: Method, other: Method) -> str | None:
        """Why inputs that were read for one method over a backbone are not those of another over it; None where they are."""
        return None

    @abstractmethod
    def inputs(self, items: Sequence[Any], method: Method, options: Any | None) -> Dataset:
        """Unlabelled inputs for `predict`: paths, folders, or in-memory samples; `options` is an instance of `predict_options`."""

    def example(self, spec: RunSpec, classes: int, batch_size: int) -> tuple[Mapping[str, Backbone], Task, Batch]:
        """What `budget` counts with: the run's backbones without weights (built under `torch.device("meta")`), a task, and
        a labelled batch of zeros. Reads no data and no weights."""
        raise TypeError(f"{self.package} has no budget")

    def blank_inputs(self, backbone: Backbone, batch_size: int) -> Tensor:
        """Preprocessed inputs of zeros, shaped as the backbone reads them; `export` traces with them."""
        raise TypeError(f"{self.package} has no programs to export")

    def export_formats(self) -> Mapping[str, Callable[[Method, Path], Sequence[str]]]:
        """Further values of `export --format`: name -> fn(tuned method, path to write), which returns remarks for the user."""
        return {}

    def thumbnail(self, dataset: Dataset, index: int) -> bytes | None:
        """PNG of a sample for the report, or None."""
        return None

    def panels(self, method: Method, data: Mapping[str, Dataset], finals: Mapping[str, Evaluation]) -> Sequence[Panel]:
        """Further panels of a run's report, from its data and its final evaluations (role -> evaluation)."""
        return ()

    def history_panels(self, method: Method, metrics: Sequence[Mapping[str, Any]]) -> Sequence[Panel]:
        """Further panels of a run's report, from the lines of its metrics.jsonl."""
        return ()

    def commands(self) -> Sequence[click.Command]:
        """Commands that only this package has."""
        return ()

    def demos(self) -> Sequence[Demo]:
        return ()

    def pretrain_options(self) -> type | None:
        """Dataclass of the `pretrain` command's flags, or None where the package has no pretraining."""
        return None

    def pretrain(self, options: Any, out: Path) -> str:
        """Pretrain a small backbone and write it to `out`; returns the spec that loads it."""
        raise TypeError(f"{self.package} has no pretraining")


def _role_of(text: str) -> str:
    """The role that an entry of `backbones()` is for, as in `encoder=ast:ID`; empty where it serves every role."""
    role, found, _ = text.partition(":")[0].partition("=")
    return role if found else ""
