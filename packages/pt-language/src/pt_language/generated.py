"""Prompts that a small network produces while they are trained; only what it produced is needed afterwards."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pt_core import Backbone, Task
from pt_core.artifact import Artifact
from pt_core.errors import ArtifactError
from pt_core.method import View
from torch import Tensor

from pt_language.initial import cycled
from pt_language.method import LanguageMethod


class GeneratedPrompt(LanguageMethod):
    """`value()` is the prompt: a parameter itself, or the output of a network (`reparameterised`).

    Inference view of the artifact: the prompt under the name `prompt` (and a head). Training view: the tensors of the network, where
    there is one, so that a loaded prompt can be tuned further.
    """

    producer: ClassVar[tuple[str, ...]] = ()
    """Patterns of the network's tensors."""

    def __init__(self, config: Any, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        self._stored: Tensor | None = None

    @property
    @abstractmethod
    def reparameterised(self) -> bool:
        """Whether a network produces the prompt."""

    @abstractmethod
    def produce(self) -> Tensor:
        """The prompt from the trained tensors."""

    def value(self) -> Tensor:
        """The prompt; what was loaded, as long as only the inference view was."""
        if self._stored is None:
            return self.produce()
        return self._stored.to(next(self.parameters()).device)

    def _network(self) -> dict[str, Tensor]:
        return {n: t for n, t in self.own_tensors().items() if not n.startswith("head.")}

    def export(self, view: View) -> dict[str, Tensor]:
        if not self.reparameterised:
            return super().export(view)
        if view == "train":
            return {n: t.detach() for n, t in self._network().items()}
        head = {n: t.detach() for n, t in self.own_tensors().items() if n.startswith("head.")}
        with torch.no_grad():
            return {"prompt": self.value().detach().clone(), **head}

    def restore(self, view: View, tensors: Mapping[str, Tensor]) -> None:
        if not self.reparameterised:
            super().restore(view, tensors)
            return
        known = dict(self.own_tensors())
        if view == "predict":
            expected = {
                "prompt": self.produce().shape,
                **{n: t.shape for n, t in known.items() if n.startswith("head.")},
            }
        else:
            expected = {n: t.shape for n, t in self._network().items()}
        if set(tensors) != set(expected):
            raise ArtifactError(
                f"tensors do not fit: expected {', '.join(sorted(expected))}, found {', '.join(sorted(tensors))}"
            )
        for name, tensor in tensors.items():
            if tensor.shape != expected[name]:
                raise ArtifactError(
                    f"tensor {name!r} has shape {tuple(tensor.shape)}, this method needs {tuple(expected[name])}"
                )
        if view == "train":
            self._stored = None
        with torch.no_grad():
            for name, tensor in tensors.items():
                if name == "prompt" and view == "predict":
                    self._stored = tensor.detach().clone()
                else:
                    known[name].copy_(tensor)
        self.note_start()

    def warm_start(self, role: str, artifact: Artifact) -> None:
        """From an earlier network that produces prompts to this one; without a network here, from what that one produced."""
        tensors = dict(artifact.tensors)
        if self.reparameterised:
            tensors.pop("prompt", None)
        training = artifact.training if self.reparameterised else {}
        super().warm_start(role, replace(artifact, tensors=tensors, training=training))

    def resized(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
        """A longer prompt starts as a shorter one, repeated."""
        return cycled(tensor, shape) if name in ("prompt", "tokens") else None
