"""Signals end a run behind a checkpoint, kill -9 leaves one; resumed runs end byte-equal to unbroken ones."""

import json
import shutil
import signal
import time

import pytest
import torch
from pt_core.errors import ArtifactError
from pt_core.run.declare.options import TrainOptions
from pt_core.run.train.rundir import RunDir
from pt_core.run.train.trainer import Trainer
from pt_core.run.train.world import World

from tests.core.run.forked import Child
from tests.core.run.train.test_trainer import Killed, build, data, same_bytes, tensors, train
from tests.core.toys import TOYS

LONG = TrainOptions(steps=40, batch_size=7, lr=0.05, eval_every=5, checkpoint_every=10, device="cpu")
OFTEN = TrainOptions(steps=40, batch_size=7, lr=0.05, eval_every=5, checkpoint_every=1, device="cpu")


def slowly(kind, path, options=LONG, pause=0.01, method=None, resume=False):
    """Train with a pause behind every step, so that a signal arrives in the middle."""
    method = method or build(kind)
    with RunDir(path).open(resume) as run:
        run.update({"status": "running"})
        Trainer(method, data(), options, run, World(options), lambda *_: time.sleep(pause)).fit(resume)


def lines(path):
    return len(RunDir(path).metrics())


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("kind", ["supervised", "pseudo", "actor"])
def test_signal_finishes_the_step_saves_and_resumes_exactly(kind, number, status, tmp_path):
    whole, _ = train(kind, tmp_path / "whole", options=LONG)
    child = Child(lambda: slowly(kind, tmp_path / "run"))
    child.wait_for(lambda: lines(tmp_path / "run") > 2)
    child.signal(number)
    assert child.status() == status
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    state = json.loads((newest / "state.json").read_text())
    assert 0 < state["step"] <= 40
    resumed, steps = train(kind, tmp_path / "run", resume=True, options=LONG)
    assert same_bytes(tensors(resumed), tensors(whole))
    assert steps[:1] == [] or steps[0] == (state["stage"], state["step"] + 1), "no step is done twice"


def test_signal_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train("supervised", tmp_path / "run")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


class SlowJob(TOYS["cache"]):
    """Counts its passes in a file, so that a repeated job is seen."""

    passes = None
    whole_job = False

    def feature(self, batch):
        time.sleep(0.05)
        with self.passes.open("a") as file:
            file.write("x")
        return super().feature(batch)

    def build(self, ctx):
        if not self.whole_job:
            super().build(ctx)
            return
        rows = list(ctx.batches("train", 24))  # nothing to stop at from here on
        self.keys = torch.cat([self.feature(batch) for batch in rows for _ in range(10)])
        self.values = torch.zeros(len(self.keys), self.task.outputs)


def slow_job(tmp_path, whole_job):
    method = build("cache")
    method.__class__ = SlowJob
    method.passes, method.whole_job = tmp_path / "passes", whole_job
    return method


def passes(tmp_path):
    return len((tmp_path / "passes").read_text()) if (tmp_path / "passes").exists() else 0


def test_signal_in_a_job_stops_between_its_batches_and_the_job_continues_from_its_folder(tmp_path):
    whole, _ = train("cache", tmp_path / "whole")
    child = Child(lambda: slowly("cache", tmp_path / "run", method=slow_job(tmp_path, whole_job=False)))
    child.wait_for(lambda: passes(tmp_path) >= 2)
    child.signal(signal.SIGTERM)
    assert child.status() == 143
    done = passes(tmp_path)
    assert 2 <= done < 6
    resumed, _ = train("cache", tmp_path / "run", resume=True, method=slow_job(tmp_path, whole_job=False))
    assert same_bytes(tensors(resumed), tensors(whole))
    assert passes(tmp_path) == 6, "six batches, each computed once over both runs"


def test_job_that_cannot_stop_finishes_is_kept_and_is_not_repeated(tmp_path):
    child = Child(lambda: slowly("cache", tmp_path / "run", method=slow_job(tmp_path, whole_job=True)))
    child.wait_for(lambda: passes(tmp_path) >= 2)
    child.signal(signal.SIGINT)
    assert child.status() == 130
    assert passes(tmp_path) == 10
    resumed, _ = train("cache", tmp_path / "run", resume=True, method=slow_job(tmp_path, whole_job=True))
    assert passes(tmp_path) == 10
    assert len(resumed.keys) == 240


def kill_9_again_and_again(kind, tmp_path, tries, seed):
    """Kill a run at random moments, resuming it each time, until it has been killed `tries` times; then let it finish."""
    whole, _ = train(kind, tmp_path / "whole", options=OFTEN)
    path, rng = tmp_path / "run", torch.Generator().manual_seed(seed)
    for _ in range(tries):
        before = lines(path) if path.exists() else 0
        resume = (path / "run.json").exists()
        child = Child(lambda: slowly(kind, path, OFTEN, 0.0, resume=resume))  # noqa: B023 - runs at once
        child.wait_for(lambda: path.exists() and lines(path) != before, may_end=True)  # noqa: B023
        time.sleep(float(torch.rand((), generator=rng)) * 0.05)
        child.signal(signal.SIGKILL)
        status = child.status()
        assert status in (0, -signal.SIGKILL)
        if status == 0:
            break
    resumed, _ = train(kind, path, resume=True, options=OFTEN)
    assert same_bytes(tensors(resumed), tensors(whole))
    assert not [p for p in path.rglob(".*") if ".tmp-" in p.name or ".old-" in p.name]


@pytest.mark.parametrize(("kind", "seed"), [("supervised", 0), ("pseudo", 1)])
def test_kill_9_at_random_moments_then_resume_equals_unbroken(kind, seed, tmp_path):
    kill_9_again_and_again(kind, tmp_path, 3, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", TOYS)
def test_kill_9_at_random_moments_20_times_for_every_toy(kind, seed, tmp_path):
    kill_9_again_and_again(kind, tmp_path, 4, seed)


def test_damaged_newest_checkpoint_can_be_left_for_the_older_one(tmp_path):
    whole, _ = train("supervised", tmp_path / "whole")
    with pytest.raises(Killed):
        train("supervised", tmp_path / "run", kill_after=7)
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    (newest / "state.json").write_text("{}")
    with pytest.raises(
        ArtifactError, match=r"step-00000006 is damaged .*state.json.* `resume .* --checkpoint step-00000004`"
    ):
        train("supervised", tmp_path / "run", resume=True)
    method = build("supervised")
    with RunDir(tmp_path / "run").open(resume=True) as run:
        options = TrainOptions(**{**vars(LONG), "steps": 10, "eval_every": 3, "checkpoint_every": 2})
        Trainer(method, data(), options, run, World(options)).fit(True, "step-00000004")
    assert same_bytes(tensors(method), tensors(whole))


def test_unknown_checkpoint_lists_the_known(tmp_path):
    with pytest.raises(Killed):
        train("supervised", tmp_path / "run", kill_after=5)
    with (
        RunDir(tmp_path / "run").open(resume=True) as run,
        pytest.raises(ArtifactError, match="'step-7'; it has: step-"),
    ):
        Trainer(build("supervised"), data(), LONG, run, World(LONG)).fit(True, "step-7")


def test_resume_without_any_checkpoint_starts_from_the_committed_start(tmp_path):
    whole, _ = train("supervised", tmp_path / "whole")
    with pytest.raises(Killed):
        train("supervised", tmp_path / "run", kill_after=1)
    shutil.rmtree(tmp_path / "run" / "checkpoints", ignore_errors=True)
    resumed, _ = train("supervised", tmp_path / "run", resume=True, method=build("supervised", seed=8))
    assert same_bytes(tensors(resumed), tensors(whole)), "the initial values of the first start count, not new ones"
