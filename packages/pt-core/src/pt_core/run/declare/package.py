"""A modality whose package keeps to the usual rooms: what it need not say of itself."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pt_core.errors import ArtifactError
from pt_core.run.declare.modality import Demo, Modality
from pt_core.run.declare.registry import Registry

if TYPE_CHECKING:  # the command line's help must not wait for torch
    from pt_core.backbone import Backbone
    from pt_core.data import Batch
    from pt_core.run.declare.spec import RunSpec
    from pt_core.task import Task


class Member:
    """A class attribute that is read from a module of the package, where there is one: `Member("options", "DataOptions")`."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __get__(self, instance: Package | None, owner: type[Package]) -> Any:
        return getattr(owner.room(self.module), self.name, None)


class Package(Modality):
    """The convention. Modules of the package `PKG` are imported when something of them is used; they lie below its modality and never
    import it, so none of these imports closes a circle:

        PKG/methods/       one method per file
        PKG.options        DataOptions, TaskOptions, and PredictOptions and PretrainOptions where there are such; imports no torch
        PKG.backbones      list_backbones(), problem(spec), load_backbone(spec, weights), and the spec DEFAULT
        PKG.data.sources   problem(spec): what is wrong with a name of data; reads nothing, imports no torch
        PKG.example        example(modality, spec, classes, batch_size)
        PKG.demo           DEMOS

    A package whose module says it otherwise overrides the method.
    """

    data_options: Any = Member("options", "DataOptions")
    task_options: Any = Member("options", "TaskOptions")
    predict_options: Any = Member("options", "PredictOptions")

    def __init_subclass__(cls) -> None:
        if not hasattr(cls, "registry"):
            package = cls.__module__.partition(".")[0]
            (folder,) = importlib.import_module(package).__path__
            cls.registry = Registry(package, Path(folder) / "methods")

    @classmethod
    def room(cls, name: str) -> ModuleType:
        return importlib.import_module(f"{cls.registry.package}.{name}")

    def version(self) -> str:
        found: str = importlib.import_module(self.registry.package).__version__
        return found

    def backbones(self) -> Sequence[tuple[str, str]]:
        found: Sequence[tuple[str, str]] = self.room("backbones").list_backbones()
        return found

    def default_backbone(self, role: str) -> str:
        spec: str = self.room("backbones").DEFAULT
        return spec

    def backbone_problem(self, spec: str, role: str) -> str | None:
        found: str | None = self.room("backbones").problem(spec)
        return found

    def load_backbone(self, spec: str, weights: str | None, options: Any | None, role: str) -> Backbone:
        backbone: Backbone = self.room("backbones").load_backbone(spec, weights)
        return backbone

    def data_problem(self, spec: str) -> str | None:
        found: str | None = self.room("data.sources").problem(spec)
        return found

    @abstractmethod
    def task_kinds(self) -> Sequence[type[Task]]:
        """The kinds of tasks that a card of this package may name."""

    def task_from_json(self, spec: Mapping[str, Any]) -> Task:
        known: dict[str, Any] = {kind.name: kind for kind in self.task_kinds()}
        kind = known.get(str(spec.get("name")))
        if kind is None:
            name, kinds = spec.get("name"), ", ".join(known)
            raise ArtifactError(f"the artifact's task {name!r} is unknown to this {self.package}; known: {kinds}")
        task: Task = kind.from_json(spec)
        return task

    def example(self, spec: RunSpec, classes: int, batch_size: int) -> tuple[Mapping[str, Backbone], Task, Batch]:
        found: tuple[Mapping[str, Backbone], Task, Batch]
        found = self.room("example").example(self, spec, classes, batch_size)
        return found

    def demos(self) -> Sequence[Demo]:
        found: Sequence[Demo] = self.room("demo").DEMOS
        return found

    def pretrain_options(self) -> type | None:
        found: type | None = getattr(self.room("options"), "PretrainOptions", None)
        return found
