"""Class names scored as they are: needs no data, tunes nothing, has options of its own for predictions."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt
from pt_core import Method

ID = "setup"
TITLE = "Names Alone"
TUNES = "nothing"
NEEDS = {}


@dataclass(frozen=True)
class SetupConfig:
    template: str = "{}"
    """Text around a name."""


@dataclass(frozen=True)
class SetupPredictOptions:
    heat: Annotated[float, Gt(0)] = 1.0
    """What logits are divided by."""
    squared: bool = False
    """Divide once more."""


class Setup(Method):
    Config = SetupConfig
    PredictOptions = SetupPredictOptions
    class_tensors = ()

    def stages(self, ctx):
        return iter(())

    def forward(self, batch):
        texts = self.task.class_texts()
        if texts:
            rows = [self.backbone.text.encode_words(list(texts[name])).mean(0) for name in self.task.class_names()]
            import torch

            names = torch.stack(rows)
        else:
            names = self.backbone.text.encode_words(self.task.class_names(), (self.config.template,))
        logits = self.backbone.compare(self.backbone.image(batch.inputs).tokens.mean(1), names)
        options = self.predict_options
        return logits / options.heat ** (2 if options.squared else 1)
