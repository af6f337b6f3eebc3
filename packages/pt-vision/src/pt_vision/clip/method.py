"""The base of methods on two towers: a picture is compared with one vector per class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pt_core import Backbone, Batch, Features, Method, Task
from pt_core.dual import DualBackbone
from pt_core.errors import ConfigError, UserError
from pt_core.kernels import fast_paths_enabled
from pt_core.lowered import Watch
from torch import Tensor

RECIPE: Mapping[str, Any] = {
    "optimizer": "sgd",
    "lr": 0.002,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "warmup_epochs": 1,
    "warmup_lr": 1e-5,
    "official_warmup": True,
    "epochs": 200,
    "batch_size": 32,
    "select": False,
}
"""CoOp's training options; the learning rate of epoch e >= 1 of E is lr / 2 (1 + cos(pi (e - 1) / E)), that of epoch 0 is 1e-5."""


class ClipMethod(Method):
    """logits = scale cos(image(x), text(class)) [+ bias].

    A subclass gives the classes' vectors (`class_vectors`), and where it touches the image tower `image_vectors` too.
    """

    class_tensors: tuple[str, ...] | None = ()

    def __init__(self, config: Any, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        backbone = self.backbones.get("backbone")
        if not isinstance(backbone, DualBackbone):
            source = getattr(backbone, "source", None)
            raise ConfigError(
                f"{type(self).__name__} compares pictures with class names: it needs an image and a text tower, which {source!r} is not; "
                "give --backbone open_clip:NAME@TAG, or a folder with open_clip_config.json"
            )
        if getattr(task, "unit", "image") != "image" or not task.class_names():
            raise ConfigError(f"{type(self).__name__} predicts one of the named classes per image")
        self.words()  # two classes of one text are told before anything is computed
        self._watch = Watch()
        self._kept: Tensor | None = None

    @property
    def backbone(self) -> DualBackbone:
        backbone = self.backbones["backbone"]
        assert isinstance(backbone, DualBackbone)
        return backbone

    def words(self) -> list[str]:
        """What stands for every class in a text: the one that `--class-names` gives, or its name told in words.

        Raises:
            UserError: an empty name, or two classes with the same one.
        """
        words = [" ".join(word.split()) for word in self.task.class_words()]
        for number, word in enumerate(words):
            if not word.strip("_"):
                raise UserError(f"class {number} has an empty name")
            if word in words[:number]:
                raise UserError(f"two classes are both named {word!r} in a text; tell them apart with --class-names")
        return words

    def class_vectors(self) -> Tensor:
        """(class, joint), or (sample, class, joint), from the tuned tensors."""
        raise TypeError(f"{type(self).__name__} must define class_vectors()")

    def image_vectors(self, batch: Batch) -> Tensor:
        """(batch, joint) of the frozen image tower, which nothing here tunes."""
        frozen = batch.extra.get("frozen")
        return self.frozen_part(batch) if frozen is None else frozen

    def frozen_key(self) -> str | None:
        return "image/pooled"

    def frozen_part(self, batch: Batch) -> Tensor:
        pooled: Tensor = self.backbone.image(batch.inputs).extra["pooled"]
        return pooled

    def untouched(self, batch: Batch) -> Features | None:
        return None if batch.inputs is None else self.backbone.image(batch.inputs)

    def forward(self, batch: Batch) -> Tensor:
        """(batch, class) logits."""
        return self.backbone.compare(self.image_vectors(batch).float(), self.kept(self.class_vectors).float())

    def kept(self, compute: Callable[[], Tensor]) -> Tensor:
        """Vectors of the classes; outside training they are computed once for a class list and kept while no tuned tensor changes."""
        if self.training or torch.is_grad_enabled() or self.backbone.text._bound is not None:
            return compute()
        kind = self.backbone.device.type
        autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
        text = self.backbone.text
        state = (
            tuple(self.task.class_words()),
            id(text.module),
            text.device,
            text.dtype,
            autocast,
            fast_paths_enabled(),
        )
        if not self._watch.same(list(self.parameters()), *state) or self._kept is None:
            self._kept = compute()
        return self._kept

    def retarget(self, task: Task) -> Method:
        view = super().retarget(task)
        assert isinstance(view, ClipMethod)
        view._watch, view._kept = Watch(), None
        view.words()
        return view


def mean_of_texts(vectors: Sequence[Tensor]) -> Tensor:
    """(class, joint) from one such tensor per template: normalise each, average, normalise again."""
    each = [torch.nn.functional.normalize(some, dim=-1) for some in vectors]
    return torch.nn.functional.normalize(torch.stack(each).mean(0), dim=-1)
