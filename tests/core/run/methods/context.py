"""Context vectors in front of every class name (as CoOp): nothing that is tuned belongs to a class."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from pt_core import Insert, Method
from torch import nn

ID = "context"
TITLE = "Context for Names"
TUNES = "vectors in front of the class names"
NEEDS = {"train": "labelled vectors"}


@dataclass(frozen=True)
class ContextConfig:
    length: Annotated[int, Ge(1)] = 2
    """Vectors."""


class Context(Method):
    Config = ContextConfig
    recipe: ClassVar = {"lr": 0.05, "epochs": 3, "batch_size": 8, "device": "cpu"}
    class_tensors = ()

    def __init__(self, config, backbones, task):
        super().__init__(config, backbones, task)
        self.context = nn.Parameter(torch.randn(config.length, self.backbone.text.dim) * 0.1)

    def names(self):
        return self.backbone.text.encode_words(self.task.class_names(), edits={"input": Insert(self.context)})

    def forward(self, batch):
        return self.backbone.compare(self.backbone.image(batch.inputs).tokens.mean(1), self.names())

    def resized(self, name, tensor, shape):
        """A longer context starts as a shorter one, repeated."""
        return tensor[torch.arange(shape[0]) % len(tensor)]
