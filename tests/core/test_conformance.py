"""The conformance suite passes on sound methods of every kind, and each of its checks fails on a method broken in its way."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import pytest
import torch
from pt_core import Stage, StepOutput
from pt_core.errors import UserError
from pt_core.kernels import fast_paths_enabled
from pt_core.run.declare.options import TrainOptions
from pt_core.testing import CHECKS, SLOW_CHECKS, BadInput, MethodCase, check_method
from pt_core.testing.tiny import TinyBackbone, TinyMethod, ToyTask, Vectors
from torch import nn

from tests.core.toys import TOYS

DATA = {
    "train": Vectors(24, seed=1),
    "val": Vectors(10, seed=2),
    "unlabeled": Vectors(17, seed=3, labelled=False),
    "easy": Vectors(20, seed=4, shift=0.3, labelled=False),
    "hard": Vectors(20, seed=5, shift=0.8, labelled=False),
}
OPTIONS = TrainOptions(steps=6, batch_size=7, lr=0.05, eval_every=3, device="cpu")
COUNT = 2 * 2 * 8 + 3 * 8 + 3


def make(kind):
    return kind(None, {"backbone": TinyBackbone()}, ToyTask())


def refuse():
    raise UserError("length=-1 must be at least 0")


def case(kind, **changes):
    known = {"data": DATA, "options": OPTIONS, "parameters": COUNT, "method_id": "toy/tiny"}
    return MethodCase(make=partial(make, kind), other_backbone=partial(TinyBackbone, 7), **{**known, **changes})


TABLE = (BadInput("negative length", refuse, "length=-1"),)


@pytest.mark.parametrize("name", CHECKS)
def test_a_sound_method_passes(name, tmp_path):
    CHECKS[name](case(TinyMethod, bad_inputs=TABLE), tmp_path)


class CoupledBilevel(TOYS["bilevel"]):
    """Its inner step sees the rows of its own process only."""

    coupled = True


KINDS = {
    "pseudo": case(TOYS["pseudo"]),
    "chain": case(TOYS["chain"]),
    "actor": case(TOYS["actor"], parameters=COUNT + 4, accumulates=False),
    "cache": case(TOYS["cache"], parameters=0),
    "bilevel": case(CoupledBilevel, accumulates=False),
}
IN_PROCESS = [name for name in CHECKS if name != "reload"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", IN_PROCESS)
def test_stages_of_every_kind_pass(kind, name, tmp_path):
    CHECKS[name](KINDS[kind], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("check", [CHECKS["reload"], SLOW_CHECKS["two_processes"]])
def test_stages_of_every_kind_pass_in_other_processes(kind, check, tmp_path):
    check(KINDS[kind], tmp_path)


@pytest.mark.slow
def test_the_whole_suite_with_processes(tmp_path):
    check_method(case(TinyMethod), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {*CHECKS, *SLOW_CHECKS}


def test_the_suite_names_the_check_that_failed(tmp_path):
    with pytest.raises(AssertionError, match="^parameter_count: the method has 59 parameters, its formula gives 60"):
        check_method(case(TinyMethod, parameters=60), tmp_path, processes=False)


# ---- broken on purpose -----------------------------------------------------------------------------------------------------


class UndeclaredBuffer(TinyMethod):
    def __init__(self, *args):
        super().__init__(*args)
        self.register_buffer("count", torch.zeros(()))

    def training_step(self, batch):
        self.count += 1
        return super().training_step(batch)


class ChangesBetweenStages(TinyMethod):
    def stages(self, ctx):
        yield Stage("one", options={"steps": 2})
        with torch.no_grad():
            self.prompt.mul_(0.5)
        yield Stage("two", options={"steps": 2})


class MovesUndeclaredWeight(TinyMethod):
    def stages(self, ctx):
        yield Stage("prompt", trains=("prompt",), after_step=self.nudge)
        yield Stage("head", trains=("head.*",))

    def nudge(self, ctx):
        with torch.no_grad():
            self.head.bias.add_(0.1)


class TrainsBackbone(TinyMethod):
    def training_step(self, batch):
        self.backbone.module.embed.weight.requires_grad_(True)
        return super().training_step(batch)


class ShiftsBackbone(TinyMethod):
    def training_step(self, batch):
        with torch.no_grad():
            self.backbone.module.embed.weight.add_(1e-6)
        return super().training_step(batch)


class BackboneInTrainMode(TinyMethod):
    def training_step(self, batch):
        self.backbone.module.train()
        return super().training_step(batch)


class DeadWeight(TinyMethod):
    def __init__(self, *args):
        super().__init__(*args)
        self.unused = nn.Parameter(torch.zeros(3))


class WrongCount(TinyMethod):
    def parameter_count(self):
        return super().parameter_count() - 1


class ForgetsTensor(TinyMethod):
    def export(self, view):
        return {name: tensor for name, tensor in super().export(view).items() if name != "head.bias"}


class FixedRandomProjection(TinyMethod):
    """Draws a projection that is neither saved nor the same in the next process."""

    def __init__(self, *args):
        super().__init__(*args)
        self.register_buffer("mix", torch.randn(8, 8), persistent=False)

    def logits(self, inputs):
        return self.head(self.backbone(inputs).tokens.mean(1) @ self.mix) + 0 * self.prompt.sum()


@dataclass(frozen=True)
class LossyConfig:
    mode: Literal["a", "b"] = "a"
    length: float = 0.5

    def __post_init__(self):
        object.__setattr__(self, "length", self.length / 2)


class LossyMethod(TinyMethod):
    Config = LossyConfig

    def __init__(self, config, *args):
        super().__init__(LossyConfig(), *args)


class HiddenState(TinyMethod):
    """Counts its steps in an attribute, which no checkpoint holds."""

    steps = 0

    def training_step(self, batch):
        self.steps += 1
        output = super().training_step(batch)
        return StepOutput(output.loss * (1 + 0.1 * self.steps), output.count)


class BlindFingerprint(TinyMethod):
    def __init__(self, *args):
        super().__init__(*args)
        known = TinyBackbone(7).fingerprint()
        self.backbone.fingerprint = lambda: known


class WrongFastPath(TinyMethod):
    def logits(self, inputs):
        return super().logits(inputs) * (1.001 if fast_paths_enabled() else 1.0)


class WrongFastGradient(TinyMethod):
    def logits(self, inputs):
        prompt = self.prompt - self.prompt.detach()
        first = torch.tensor([1.0, 0.0, 0.0])
        return super().logits(inputs) + (0.05 * prompt.sum() * first if fast_paths_enabled() else 0.0)


class LowPrecisionPrompt(TinyMethod):
    def __init__(self, *args):
        super().__init__(*args)
        self.prompt = nn.Parameter(self.prompt.detach().bfloat16())


class OverflowsInBf16(TinyMethod):
    def logits(self, inputs):
        logits = super().logits(inputs)
        return logits * float("inf") if torch.is_autocast_enabled("cpu") and not self.training else logits


class Neighbours(TinyMethod):
    def logits(self, inputs):
        logits = super().logits(inputs)
        return logits - logits.mean(0)


class PlaceInBatch(TinyMethod):
    def logits(self, inputs):
        return super().logits(inputs) + torch.arange(len(inputs))[:, None] * torch.tensor([0.0, 1e-3, 0.0])


class CoupledLoss(TinyMethod):
    def training_step(self, batch):
        output = super().training_step(batch)
        return StepOutput(output.loss + 0.1 * self(batch).mean(0).square().sum(), output.count)


class ForgetsForTraining(TinyMethod):
    """A tensor that only training needs is in neither view."""

    def __init__(self, *args):
        super().__init__(*args)
        self.scale = nn.Parameter(torch.rand(()) + 1)

    def export(self, view):
        return {name: tensor for name, tensor in super().export(view).items() if name != "scale"}

    def training_step(self, batch):
        output = super().training_step(batch)
        return StepOutput(output.loss * self.scale, output.count)


class StuckAfterReload(TinyMethod):
    def restore(self, view, tensors):
        super().restore(view, tensors)
        self.stages = lambda ctx: iter(())


BROKEN = {
    UndeclaredBuffer: ("declarations", "stage 'train' changed 'count'"),
    ChangesBetweenStages: ("declarations", "'prompt' changed between stages"),
    MovesUndeclaredWeight: ("declarations", "stage 'prompt' changed 'head.bias'"),
    TrainsBackbone: ("declarations", "gradient for 'embed.weight' of backbone"),
    ShiftsBackbone: ("declarations", "training changed .'embed.weight'. of backbone"),
    BackboneInTrainMode: ("declarations", "left backbone 'backbone' in train mode"),
    DeadWeight: ("declarations", "no stage gave gradient to .'unused'"),
    WrongCount: ("parameter_count", "parameter_count.. is 58"),
    ForgetsTensor: ("reload", "'logits' differs in a fresh process"),
    FixedRandomProjection: ("reload", "'logits' differs in a fresh process"),
    LossyMethod: ("reload", "configuration is not restored"),
    HiddenState: ("resume", "differs after a kill at train:"),
    BlindFingerprint: ("wrong_backbone", "backbone with other weights was accepted"),
    WrongFastPath: ("fast_path", "prediction 'logits' on the fast path is off"),
    WrongFastGradient: ("fast_path", "gradient of 'prompt' is off"),
    LowPrecisionPrompt: ("bf16", "'prompt' is kept in torch.bfloat16"),
    OverflowsInBf16: ("bf16", "'logits' is not finite"),
    Neighbours: ("independence", "'logits' in one batch"),
    PlaceInBatch: ("independence", "'logits' in one batch"),
    CoupledLoss: ("independence", "the loss of a batch"),
    ForgetsForTraining: ("trains_on", "starts at loss"),
    StuckAfterReload: ("trains_on", "further tuning changed nothing"),
}


def _marked(kind):
    starts_a_process = BROKEN[kind][0] == "reload"
    return pytest.param(kind, id=kind.__name__, marks=[pytest.mark.slow] if starts_a_process else [])


@pytest.mark.parametrize("kind", [_marked(kind) for kind in BROKEN])
def test_a_broken_method_fails_its_check(kind, tmp_path):
    name, message = BROKEN[kind]
    with pytest.raises(AssertionError, match=message):
        CHECKS[name](case(kind), tmp_path)


def test_an_accepted_bad_input_fails(tmp_path):
    table = (BadInput("fine", lambda: None, "anything"),)
    with pytest.raises(AssertionError, match="fine was accepted"):
        CHECKS["bad_inputs"](case(TinyMethod, bad_inputs=table), tmp_path)
    with pytest.raises(AssertionError, match="lacks 'width'"):
        CHECKS["bad_inputs"](case(TinyMethod, bad_inputs=(replace(TABLE[0], match="width"),)), tmp_path)


@pytest.mark.parametrize("declared", [True, False])
def test_a_loss_that_couples_rows_has_to_be_declared(declared, tmp_path, monkeypatch):
    monkeypatch.setattr(CoupledLoss, "coupled", declared)
    with pytest.raises(AssertionError) if not declared else nullcontext():
        CHECKS["independence"](case(CoupledLoss), tmp_path)


class SumOverBatch(TinyMethod):
    """Says that its loss is a mean over one unit, whatever the batch."""

    def training_step(self, batch):
        output = super().training_step(batch)
        return StepOutput(output.loss, 1)


@pytest.mark.slow
def test_a_wrong_count_shows_in_two_processes(tmp_path):
    uneven = replace(OPTIONS, batch_size=5, accumulate=2)
    with pytest.raises(AssertionError, match="of two processes is off"):
        SLOW_CHECKS["two_processes"](case(SumOverBatch, options=uneven, accumulates=False), tmp_path)
