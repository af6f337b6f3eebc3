"""Learning rates are a function of the step; optimiser state is stored by name and continues exactly."""

import math

import pytest
import torch
from pt_core import Optimiser, Stage
from pt_core.errors import ArtifactError, ConfigError
from pt_core.run.declare.options import TrainOptions
from pt_core.run.train.optim import NamedOptimiser, build_optimisers, lr_factor
from pt_core.testing.tiny import TinyBackbone, TinyMethod, ToyTask

METHOD = lambda: TinyMethod(None, {"backbone": TinyBackbone()}, ToyTask())  # noqa: E731


def factors(steps=20, per_epoch=5, **options):
    return [lr_factor(step, steps, per_epoch, TrainOptions(**options)) for step in range(steps)]


def test_constant_and_linear():
    assert set(factors(schedule="constant")) == {1.0}
    assert factors(schedule="linear") == pytest.approx([1 - step / 20 for step in range(20)])


def test_cosine_falls_from_one_towards_zero():
    found = factors(schedule="cosine")
    assert found == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 20)) for step in range(20)])


def test_warm_up_is_step_wise_and_reaches_the_peak_at_its_last_step():
    found = factors(schedule="linear", warmup_epochs=2)
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert found[10:] == pytest.approx([1 - step / 10 for step in range(10)])
    assert factors(warmup_epochs=100)[-1] == pytest.approx(20 / 500), (
        "a run shorter than its warm-up never passes the peak"
    )


def test_official_warm_up_moves_once_per_epoch_and_starts_at_zero():
    found = factors(schedule="cosine", warmup_epochs=2, official_warmup=True)
    assert found[:10] == [0.0] * 5 + [0.5] * 5
    assert found[10:15] == [1.0] * 5
    assert found[15:] == pytest.approx([0.5 * (1 + math.cos(math.pi / 2))] * 5)


def test_learning_rate_follows_the_batch_size_where_asked():
    method = METHOD()
    plain = build_optimisers(method, Stage("s"), TrainOptions(lr=0.5, batch_size=64))["main"]
    scaled = build_optimisers(method, Stage("s"), TrainOptions(lr=0.5, batch_size=64, lr_per_256=True))["main"]
    assert (plain.lr, scaled.lr) == (0.5, 0.125)


def test_groups_scale_the_learning_rate():
    class Grouped(TinyMethod):
        def param_groups(self, stage):
            return [
                {"params": [self.prompt], "lr_scale": 10.0},
                {"params": list(self.head.parameters()), "weight_decay": 0.0},
            ]

    method = Grouped(None, {"backbone": TinyBackbone()}, ToyTask())
    built = build_optimisers(method, Stage("s"), TrainOptions(lr=0.1, weight_decay=0.3))["main"]
    built.set_lr(0.5)
    groups = built.inner.param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.5, 0.05])
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert built.names == ["prompt", "head.weight", "head.bias"]


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd", "adafactor"])
def test_stored_state_continues_byte_for_byte(kind):
    options = TrainOptions(optimizer=kind, lr=0.1)

    def step(method, optimiser, number):
        for index, parameter in enumerate(method.parameters()):
            rng = torch.Generator().manual_seed(100 * number + index)
            parameter.grad = torch.randn(parameter.shape, generator=rng)
        optimiser.inner.step()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = METHOD()
    other = METHOD()
    optimiser = build_optimisers(whole, Stage("s"), options)["main"]
    for number in range(3):
        step(whole, optimiser, number)
    other.load_state_dict(whole.state_dict())
    fresh = build_optimisers(other, Stage("s"), options)["main"]
    tensors, numbers = optimiser.state()
    fresh.load_state({name: t.clone() for name, t in tensors.items()}, dict(numbers))
    for number in range(3, 6):
        step(whole, optimiser, number)
        step(other, fresh, number)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), other.parameters(), strict=True))


def test_state_of_a_foreign_parameter_is_refused():
    optimiser = build_optimisers(METHOD(), Stage("s"), TrainOptions())["main"]
    with pytest.raises(ArtifactError, match="'gate', which optimiser 'main' does not own"):
        optimiser.load_state({"gate|exp_avg": torch.zeros(1)}, {})


def test_optimisers_must_have_parameters_and_not_share_them():
    method = METHOD()
    with pytest.raises(ConfigError, match="'b' matches no trained parameter"):
        build_optimisers(
            method, Stage("s", optimisers={"a": Optimiser(), "b": Optimiser(("nothing.*",))}), TrainOptions()
        )
    with pytest.raises(ConfigError, match="'prompt' belongs to optimisers 'a' and 'b'"):
        build_optimisers(method, Stage("s", optimisers={"a": Optimiser(), "b": Optimiser(("prompt",))}), TrainOptions())
    with pytest.raises(ConfigError, match="'learning_rate'"):
        build_optimisers(method, Stage("s", optimisers={"a": Optimiser(("*",), {"learning_rate": 1})}), TrainOptions())


def test_optimisers_take_only_what_the_stage_trains():
    stage = Stage("s", trains=("head.*",), optimisers={"a": Optimiser(("*",), {"lr": 0.7})})
    built = build_optimisers(METHOD(), stage, TrainOptions(lr=0.1))["a"]
    assert built.names == ["head.weight", "head.bias"]
    assert built.lr == 0.7


def test_exponential_falls_to_its_share_at_the_end():
    values = factors(10, schedule="exponential", decay=0.01)
    assert values == pytest.approx([0.01 ** (step / 10) for step in range(10)])


def test_one_cycle_is_torchs():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=0.4)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.4, total_steps=37)
    seen = []
    for _ in range(37):
        seen.append(optimiser.param_groups[0]["lr"] / 0.4)
        optimiser.step()
        if len(seen) < 37:
            theirs.step()
    assert factors(37, schedule="one-cycle", lr=0.4) == pytest.approx(seen, rel=1e-6)


def test_a_constant_warm_up_replaces_the_line():
    values = factors(8, per_epoch=2, schedule="constant", lr=0.01, warmup_epochs=2, warmup_lr=1e-5)
    assert values == pytest.approx([1e-3] * 4 + [1.0] * 4)


def test_adafactor_is_torchs():
    ours, theirs = METHOD(), METHOD()
    theirs.load_state_dict(ours.state_dict())
    built = build_optimisers(ours, Stage("s"), TrainOptions(optimizer="adafactor", lr=0.3, weight_decay=0.0))["main"]
    other = torch.optim.Adafactor(theirs.parameters(), lr=0.3, weight_decay=0.0)
    for number in range(3):
        for method in (ours, theirs):
            for parameter in method.parameters():
                parameter.grad = torch.full_like(parameter, 0.1 * (number + 1))
        built.inner.step()
        other.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_steps_are_those_of_torchs_own_optimiser(kind):
    options = TrainOptions(optimizer=kind, lr=0.1, weight_decay=0.01)
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.arange(6.0)) for _ in range(2))
    named = NamedOptimiser("main", [{"params": [ours]}], {id(ours): "x"}, options)
    extra = {"momentum": options.momentum} if kind == "sgd" else {"eps": options.adam_eps}
    plain = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}[kind](
        [theirs], lr=0.1, weight_decay=0.01, **extra
    )
    for _ in range(3):
        gradient = torch.randn(6)
        for parameter, optimiser in ((ours, named.inner), (theirs, plain)):
            parameter.grad = gradient.clone()
            optimiser.step()
            optimiser.zero_grad()
        assert torch.equal(ours, theirs)
        assert ours.grad is None
    assert isinstance(named.inner, type(plain))
