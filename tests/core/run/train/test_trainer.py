"""The trainer carries stages of every kind: killed anywhere and resumed they end byte-equal; save and load keep the predictions."""

import pytest
import torch
from pt_core.artifact import read_artifact
from pt_core.errors import ArtifactError, NonFiniteError, UserError
from pt_core.randomness import seeded
from pt_core.run.declare.options import TrainOptions
from pt_core.run.train.evaluate import evaluate
from pt_core.run.train.rundir import RunDir
from pt_core.run.train.trainer import Trainer
from pt_core.run.train.world import World
from pt_core.saving import card_of, save_artifact
from pt_core.testing.tiny import TinyBackbone, ToyTask, Vectors

from tests.core.toys import TOYS

OPTIONS = TrainOptions(steps=10, batch_size=7, lr=0.05, eval_every=3, checkpoint_every=2, device="cpu")


class Killed(BaseException):
    pass


def data():
    return {
        "train": Vectors(24, seed=1),
        "val": Vectors(12, seed=2),
        "unlabeled": Vectors(17, seed=3, labelled=False),
        "easy": Vectors(20, seed=4, shift=0.3, labelled=False),
        "hard": Vectors(20, seed=5, shift=0.8, labelled=False),
    }


def build(kind, seed=0):
    with seeded(seed, "init"):
        return TOYS[kind](None, {"backbone": TinyBackbone()}, ToyTask())


def train(kind, path, resume=False, kill_after=None, options=OPTIONS, method=None):
    method = method or build(kind)
    seen = []

    def on_step(stage, step):
        seen.append((stage, step))
        if len(seen) == kill_after:
            raise Killed

    with RunDir(path).open(resume) as run:
        run.update({"status": "running"})
        Trainer(method, data(), options, run, World(options), on_step).fit(resume)
    return method, seen


def tensors(method):
    return {name: tensor.detach().clone() for name, tensor in method.own_tensors().items()}


def same_bytes(left, right):
    return left.keys() == right.keys() and all(
        left[n].dtype == right[n].dtype and left[n].numpy().tobytes() == right[n].numpy().tobytes() for n in left
    )


@pytest.mark.parametrize("kind", TOYS)
@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_and_resumed_anywhere_equals_uninterrupted(kind, every, tmp_path):
    whole, steps = train(kind, tmp_path / "whole")
    for kill in sorted({*range(1, len(steps) + 1, every), len(steps)} - {0}):
        path = tmp_path / f"killed-{kill}"
        with pytest.raises(Killed):
            train(kind, path, kill_after=kill)
        resumed, _ = train(kind, path, resume=True)
        assert same_bytes(tensors(resumed), tensors(whole)), f"killed after {steps[kill - 1]}"


def test_killed_job_continues_from_its_folder(tmp_path):
    whole, _ = train("cache", tmp_path / "whole")
    method = build("cache")
    method.die_at = 3
    with pytest.raises(RuntimeError, match="killed"):
        train("cache", tmp_path / "run", method=method)
    assert len(list((tmp_path / "run" / "work").rglob("*.json"))) == 4
    resumed, _ = train("cache", tmp_path / "run", resume=True)
    assert same_bytes(tensors(resumed), tensors(whole))


def test_resume_writes_the_same_metrics_once(tmp_path):
    train("pseudo", tmp_path / "whole")
    with pytest.raises(Killed):
        train("pseudo", tmp_path / "run", kill_after=9)
    train("pseudo", tmp_path / "run", resume=True)

    def lines(path):
        volatile = ("time", "seconds")
        return [{k: v for k, v in line.items() if k not in volatile} for line in RunDir(path).metrics()]

    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


@pytest.mark.parametrize("kind", TOYS)
def test_saved_and_loaded_predicts_the_same(kind, tmp_path):
    method, _ = train(kind, tmp_path / "run")
    save_artifact(tmp_path / "tuned", method, card_of(method, f"toy/{kind}"))
    fresh = build(kind, seed=9)
    artifact = read_artifact(tmp_path / "tuned", training=True)
    assert artifact.check_backbone("backbone", fresh.backbone) == []
    fresh.restore("predict", artifact.tensors)
    fresh.restore("train", artifact.training)
    left, right = (
        evaluate(m, data()["val"], World(OPTIONS), size, 0, records=True).records
        for m, size in ((method, 5), (fresh, 12))
    )
    assert left == right
    assert ("critic.weight" in artifact.tensors) is False


@pytest.mark.parametrize("kind", TOYS)
def test_training_changes_only_what_the_stages_declare(kind, tmp_path):
    method = build(kind)
    before, frozen = tensors(method), [t.clone() for t in method.backbone.frozen_tensors()]
    train(kind, tmp_path / "run", method=method)
    assert all(torch.equal(a, b) for a, b in zip(frozen, method.backbone.frozen_tensors(), strict=True))
    changed = {n for n, t in tensors(method).items() if t.shape != before[n].shape or not torch.equal(t, before[n])}
    assert changed, "training changed nothing"


def test_accumulation_does_not_change_the_result(tmp_path):
    plain, _ = train("supervised", tmp_path / "a")
    split, _ = train("supervised", tmp_path / "b", options=TrainOptions(**{**vars(OPTIONS), "accumulate": 3}))
    for name, tensor in tensors(plain).items():
        torch.testing.assert_close(tensors(split)[name], tensor, rtol=1e-4, atol=1e-5)


def test_learning_happens(tmp_path):
    method = build("supervised")
    world = World(OPTIONS)
    before = evaluate(method, data()["val"], world, 8, 0).metrics["accuracy"]
    train("supervised", tmp_path / "run", method=method, options=TrainOptions(**{**vars(OPTIONS), "steps": 60}))
    after = evaluate(method, data()["val"], world, 8, 0).metrics["accuracy"]
    assert after > before + 0.2


def test_non_finite_loss_names_the_samples_and_keeps_the_checkpoint(tmp_path):
    bad = data()
    bad["train"].values[5] = float("nan")
    with RunDir(tmp_path / "run").open() as run, pytest.raises(NonFiniteError, match="v1-5"):
        Trainer(build("supervised"), bad, OPTIONS, run, World(OPTIONS)).fit()
    assert (tmp_path / "run" / "failure.json").is_file()
    assert (tmp_path / "run" / "stages" / "00-start" / "manifest.json").is_file()


def test_damaged_checkpoint_is_an_error_that_names_the_older_one(tmp_path):
    with pytest.raises(Killed):
        train("supervised", tmp_path / "run", kill_after=7)
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    file = newest / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ArtifactError, match="--checkpoint step-00000004"):
        train("supervised", tmp_path / "run", resume=True)


def test_second_run_in_one_folder_is_refused(tmp_path):
    with RunDir(tmp_path / "run").open() as run:
        run.update({"status": "running"})
        with pytest.raises(UserError, match="already holds a run|in use by process"):
            RunDir(tmp_path / "run").open(resume=True)


def test_user_generators_are_left_alone(tmp_path):
    state = torch.random.get_rng_state()
    train("supervised", tmp_path / "run")
    assert torch.equal(state, torch.random.get_rng_state())


def test_different_seeds_differ_and_equal_seeds_agree():
    assert same_bytes(tensors(build("supervised", 3)), tensors(build("supervised", 3)))
    assert not same_bytes(tensors(build("supervised", 3)), tensors(build("supervised", 4)))


# ---- loss scaling, on a CPU scaler in place of CUDA's ----


class Scaled(World):
    """fp16's loss scaling without fp16."""

    def __init__(self, options):
        super().__init__(options)
        self.cpu_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)

    @property
    def scaler(self):
        return self.cpu_scaler


def train_scaled(path, method, resume=False, kill_after=None, world=None):
    seen = []

    def on_step(stage, step):
        seen.append(step)
        if len(seen) == kill_after:
            raise Killed

    world = world or Scaled(OPTIONS)
    with RunDir(path).open(resume) as run:
        run.update({"status": "running"})
        Trainer(method, data(), OPTIONS, run, world, on_step).fit(resume)
    return method


def test_loss_scaling_resumes_exactly(tmp_path):
    whole_world, world = Scaled(OPTIONS), Scaled(OPTIONS)
    whole = train_scaled(tmp_path / "whole", build("supervised"), world=whole_world)
    plain, _ = train("supervised", tmp_path / "plain")
    for name, tensor in tensors(plain).items():
        torch.testing.assert_close(tensors(whole)[name], tensor, rtol=1e-4, atol=1e-5)
    with pytest.raises(Killed):
        train_scaled(tmp_path / "run", build("supervised"), kill_after=7)
    resumed = train_scaled(tmp_path / "run", build("supervised"), resume=True, world=world)
    assert same_bytes(tensors(resumed), tensors(whole))
    assert world.cpu_scaler.state_dict() == whole_world.cpu_scaler.state_dict()
    assert world.cpu_scaler.get_scale() > 2.0**10, "the scale grew, and its count of steps was kept"


@pytest.mark.parametrize(("overflows", "ends"), [(3, False), (100, True)])
def test_overflowing_steps_are_skipped_counted_and_finally_an_error(overflows, ends, tmp_path):
    method, count = build("supervised"), []

    def overflow(gradient):
        count.append(1)
        return gradient * float("inf") if len(count) <= overflows else gradient

    method.head.weight.register_hook(overflow)
    before, world = tensors(method), Scaled(OPTIONS)
    if ends:
        options = TrainOptions(**{**vars(OPTIONS), "steps": 40})
        with RunDir(tmp_path / "run").open() as run:
            run.update({"status": "running"})
            with pytest.raises(NonFiniteError, match="overflowed 20 times in a row.*--precision bf16"):
                Trainer(method, data(), options, run, world).fit()
        assert same_bytes(tensors(method), before), "no skipped step changed anything"
    else:
        train_scaled(tmp_path / "run", method, world=world)
        assert not same_bytes(tensors(method), before)
        assert all(torch.isfinite(tensor).all() for tensor in tensors(method).values())
