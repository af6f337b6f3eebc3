"""What a strategy has of its hosts without saying so: stages, stored state, views, options, panels; and what it may not leave out."""

from dataclasses import replace

import pytest
import torch
from pt_core import Stage
from pt_core.artifact import read_artifact
from pt_core.data import Dataset
from pt_core.errors import ConfigError, UserError
from pt_core.run.declare.options import TrainOptions
from pt_core.run.tasks.classification import Classification
from pt_core.run.use.predict import predict_options
from pt_core.saving import card_of, save_artifact
from pt_core.strategy import Strategy
from pt_core.testing import CHECKS, SLOW_CHECKS, MethodCase
from pt_core.testing._support import copies, train
from pt_core.testing.tiny import TinyBackbone, TinyMethod, Vectors

from tests.core.run.methods.gates import Gates
from tests.core.run.methods.stored import Shifted, Stored
from tests.core.run.toy import Toy, vectors
from tests.core.test_second_floor import case, data_of, make
from tests.core.toys import TOYS

DATA: dict[str, Dataset] = {
    "train": vectors(27),
    "val": vectors(12, seed=2),
    "unlabeled": Vectors(17, seed=3, labelled=False),
    "easy": Vectors(13, seed=4, labelled=False),
    "hard": Vectors(11, seed=5, labelled=False),
}
OPTIONS = TrainOptions(steps=5, batch_size=9, lr=0.05, eval_every=2, device="cpu", optimizer="adamw")
KINDS = {**TOYS, "gates": Gates, "stored": Stored}


class Default(Strategy):
    """Says nothing."""


class Twice(Strategy):
    """What its host does, two times over; `between` gets the host after the first."""

    def stages(self, ctx):
        yield from self.host_stages(ctx, named="first-{}")
        self.middle = copies(self.host.own_tensors())
        yield from self.host_stages(ctx, named="second-{}")


class Marked(Strategy):
    """A loss of its own over the host's output."""

    def training_step(self, batch):
        from pt_core import StepOutput

        return StepOutput(self.task.logits(self.host(batch)).square().mean(), len(batch))


class Tuned(Marked):
    """The same in a stage of its own."""

    def stages(self, ctx):
        yield Stage("mine", trains=("hosts.*",))


def host(kind):
    torch.manual_seed(7)
    cls = KINDS[kind]
    config = cls.Config() if hasattr(cls, "Config") else None
    return cls(config, {"backbone": TinyBackbone()}, Classification(["ant", "bee", "cat"]))


def over(strategy, kind):
    one = host(kind)
    return strategy(None, one.backbones, one.task, {"host": one})


def fit(method, folder, options=OPTIONS):
    method.adopt(DATA)
    one = MethodCase(
        make=lambda *_: method,
        data=DATA,
        other_backbone=TinyBackbone,
        options=options,
        parameters=0,
        method_id="pt-toy/x",
    )
    return train(one, folder, method)


# ---- stages ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_host_in_a_strategy_learns_what_it_learns_alone(kind, tmp_path):
    """Jobs, custom steps, hooks, named optimisers and selection: the same bytes."""
    alone = fit(host(kind), tmp_path / "alone")
    hosted = fit(over(Default, kind), tmp_path / "hosted").host
    before = host(kind).own_tensors()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in alone.own_tensors().items())
    for name, tensor in alone.own_tensors().items():
        assert torch.equal(hosted.own_tensors()[name], tensor), name


@pytest.mark.parametrize("kind", ["pseudo", "chain", "gates", "stored"])
def test_host_stages_run_under_other_names(kind, tmp_path):
    alone = fit(host(kind), tmp_path / "alone")
    twice = fit(over(Twice, kind), tmp_path / "twice")
    for name, tensor in alone.own_tensors().items():
        assert torch.equal(twice.middle[name], tensor), name
    names = sorted(path.name.partition("-")[2] for path in (tmp_path / "twice" / "stages").iterdir())
    assert len([name for name in names if name.startswith("first-")]) == len(names) // 2


def test_a_host_asks_for_the_results_of_its_own_stages(tmp_path):
    class Asking(TinyMethod):
        def stages(self, ctx):
            yield Stage("one")
            self.heard = dict(ctx.results)["one"]
            yield Stage("two", options={"steps": 2, "lr": self.heard["accuracy"]})

    KINDS["asking"] = Asking
    try:
        alone, twice = fit(host("asking"), tmp_path / "alone"), fit(over(Twice, "asking"), tmp_path / "twice")
    finally:
        del KINDS["asking"]
    assert alone.heard["accuracy"] > 0
    for name, tensor in alone.own_tensors().items():
        assert torch.equal(twice.middle[name], tensor), name


def test_groups_of_a_host_are_those_of_its_own_stage(tmp_path):
    class Grouped(TinyMethod):
        def param_groups(self, stage):
            scale = 0.0 if stage.name == "one" else 1.0
            return [{"params": [self.prompt], "lr_scale": scale}, {"params": list(self.head.parameters())}]

        def stages(self, ctx):
            yield Stage("one")

    KINDS["grouped"] = Grouped
    try:
        method = over(Twice, "grouped")
        before = copies(method.host.own_tensors())
        fit(method, tmp_path / "run", replace(OPTIONS, weight_decay=0))
    finally:
        del KINDS["grouped"]
    assert torch.equal(method.host.prompt, before["prompt"])
    assert not torch.equal(method.host.head.weight, before["head.weight"])


@pytest.mark.parametrize("strategy", [Marked, Tuned])
def test_a_loss_of_its_own_is_what_is_trained(strategy, tmp_path):
    method = over(strategy, "supervised")
    batch = data_of(DATA["train"])
    before = float(method.training_step(batch).loss.detach())
    fit(method, tmp_path / "run", replace(OPTIONS, steps=40, select=False, weight_decay=0))
    assert float(method.training_step(batch).loss.detach()) < 0.5 * before


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("pseudo", "supervised, label-0"),
        ("chain", "chain"),
        ("actor", "reinforce"),
        ("cache", "cache"),
        ("bilevel", "meta"),
        ("gates", "train"),
        ("stored", "centre, train"),
    ],
)
@pytest.mark.parametrize("strategy", [Marked, Tuned])
def test_a_loss_of_its_own_leaves_nothing_of_a_host_out(strategy, kind, named, tmp_path):
    method = over(strategy, kind)
    method.adopt(DATA)
    before = copies(method.own_tensors())
    with pytest.raises(
        UserError, match=f"would leave out what that does besides \\(stages: {named}\\); choose another --host"
    ):
        fit(method, tmp_path / "run")
    for name, tensor in method.own_tensors().items():
        assert torch.equal(tensor, before[name]), "looking at a host's stages changes nothing"


def test_a_host_without_parameters_is_told(tmp_path):
    class Nothing(TinyMethod):
        def __init__(self, config, backbones, task):
            super().__init__(config, backbones, task)
            del self.prompt, self.head

    KINDS["nothing"] = Nothing
    try:
        method = over(Tuned, "nothing")
    finally:
        del KINDS["nothing"]
    with pytest.raises(ConfigError, match="stage 'mine' trains no parameter \\(hosts\\.\\*\\)"):
        fit(method, tmp_path / "run")


def test_a_host_that_did_its_own_may_be_tuned_further(tmp_path):
    class Both(Marked):
        def stages(self, ctx):
            yield from self.host_stages(ctx)
            yield Stage("mine", trains=("hosts.*",), select=False)

    method = fit(over(Both, "stored"), tmp_path / "run", replace(OPTIONS, steps=30))
    alone = fit(host("stored"), tmp_path / "alone", replace(OPTIONS, steps=30))
    batch = data_of(DATA["train"])
    assert torch.equal(method.host.centre, alone.centre)
    assert method.host(batch).square().mean() < 0.5 * alone(batch).square().mean()


def test_a_hosts_jobs_alone_may_precede_a_stage_of_its_own(tmp_path):
    class Jobs(Marked):
        def stages(self, ctx):
            yield from (stage for stage in self.host_stages(ctx) if stage.run is not None)
            yield Stage("train", trains=("hosts.*", "hosts.host.head.*"), select=False)

    method = fit(over(Jobs, "stored"), tmp_path / "run", replace(OPTIONS, steps=30))
    batch = data_of(DATA["train"])
    untrained = host("stored")
    untrained.adopt(DATA)
    untrained.centre = method.host.centre
    torch.testing.assert_close(method.host.centre, batch.inputs.mean(0))
    assert method.host(batch).square().mean() < 0.5 * untrained(batch).square().mean(), "trained by the strategy's loss"


def test_a_forward_of_its_own_predicts_and_is_trained():
    class Scaled(Strategy):
        def forward(self, batch):
            return 3 * self.host(batch)

    method, batch = over(Scaled, "supervised"), data_of(DATA["val"])
    predicted = method.predict_step(batch, lambda name: torch.Generator())
    torch.testing.assert_close(predicted["logits"], 3 * method.host(batch))
    want, _ = method.task.loss(3 * method.host(batch), batch)
    torch.testing.assert_close(method.training_step(batch).loss, want)


# ---- a strategy that leaves itself -----------------------------------------------------------------------------------------


def keeper():
    method = make("keeper", (("host", "stored"), ("aid", "prompt")))
    method.adopt(DATA)
    return method


SIZE = 1 + 2 * (2 * 2 * 8 + 3 * 8 + 3)
CASE = replace(case("keeper", SIZE, data=DATA, idle=("cold",)), make=keeper)


@pytest.mark.parametrize("name", [name for name in CHECKS if name != "reload"])
def test_conformance(name, tmp_path):
    CHECKS[name](CASE, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("check", [CHECKS["reload"], SLOW_CHECKS["two_processes"]])
def test_conformance_in_other_processes(check, tmp_path):
    check(CASE, tmp_path)


def test_what_is_stored_of_a_host_is_what_it_exports():
    method = keeper()
    kept, later = method.export("predict"), method.export("train")
    assert kept.keys() == {"cold", *(f"hosts.host.{name}" for name in method.host.export("predict"))}
    assert "hosts.host.packed" in kept
    assert "hosts.host.memory" not in kept
    assert later.keys() == {f"hosts.aid.{name}" for name in method.host_of("aid").own_tensors()}
    fresh = make("keeper", (("host", "stored"), ("aid", "prompt")))
    assert len(fresh.host.memory) == 0
    fresh.restore("predict", {name: tensor.clone() + 1 for name, tensor in kept.items()})
    torch.testing.assert_close(fresh.host.memory, method.host.memory + 1)
    torch.testing.assert_close(fresh.cold, method.cold + 1)
    fresh.restore("train", {name: tensor.clone() + 2 for name, tensor in later.items()})
    for name, tensor in method.host_of("aid").own_tensors().items():
        torch.testing.assert_close(fresh.host_of("aid").own_tensors()[name], tensor + 2)


def test_views_options_and_panels_are_the_hosts():
    method = keeper()
    view, batch = method.predict_view(DATA["val"]), data_of(DATA["val"])
    assert isinstance(view, Shifted)
    torch.testing.assert_close(view.sample(0, epoch=None, seed=0), DATA["val"].sample(0, epoch=None, seed=0) + 0.5)
    assert method.at_work is method.host
    predict_options(Toy(), method, {"heat": "4", "loud": "true"})
    assert (method.predict_options.loud, method.host.predict_options.heat) == (True, 4.0)
    predicted = method.predict_step(batch, lambda name: torch.Generator())["logits"]
    torch.testing.assert_close(predicted, method.host(batch) / 4)
    assert [panel["title"] for panel in method.panels()] == ["Centre (host)"]
    assert method.is_one_program(), "the host says that its forward is the program to export"
    assert [panel["title"] for panel in over(Default, "stored").panels()] == ["Centre"]
    assert not over(Default, "testtime").is_one_program()


def test_a_run_starts_from_a_run_host_by_host(tmp_path):
    earlier = keeper()
    with torch.no_grad():
        earlier.cold += 3
    save_artifact(tmp_path / "tuned", earlier, card_of(earlier, "pt-toy/keeper"))
    artifact = read_artifact(tmp_path / "tuned", training=True)
    same = make("keeper", (("host", "stored"), ("aid", "prompt")))
    same.reset("others")
    same.warm_start("", artifact)
    for name, tensor in earlier.own_tensors().items():
        assert torch.equal(same.own_tensors()[name], tensor), name
    other = make("keeper", (("host", "stored"), ("aid", "gates")))
    with pytest.raises(UserError, match="has the aid 'prompt', 'gates' cannot start from it"):
        other.warm_start("", artifact)
    elsewhere = make("keeper", (("host", "stored"), ("aid", "prompt")), names=("dog", "eel"))
    with pytest.raises(UserError, match="'prompt' does not say which of its tensors belong"):
        elsewhere.warm_start("", artifact)
    torch.testing.assert_close(elsewhere.host.prompt, earlier.host.prompt)


def test_folded_weights_are_the_hosts():
    folding = over(Default, "supervised")
    with pytest.raises(UserError, match="tuned no weights of its backbone"):
        folding.folded()
    folding.host.folded = lambda: {"backbone": {"a": torch.ones(1)}}
    assert folding.folded()["backbone"]["a"] == 1
