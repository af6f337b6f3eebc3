"""The very command line under `accelerate launch` and `torchrun`: two processes give the result of one with twice the accumulation."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest
from pt_core.run.train.rundir import RunDir

from tests.core.run.command.test_commands import pt, refused, status_of, weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
BIN = Path(sys.executable).parent
# `accelerate launch --cpu` starts one process whatever it is asked for; --multi_gpu is its way to several, also on the CPU.
PLAIN = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
LAUNCHERS = {
    "accelerate": [str(BIN / "accelerate"), "launch", "--multi_gpu", "--num_processes", "2", *PLAIN, "-m"],
    "torchrun": [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2", "-m"],
}
# 31 training samples in draws of 8, 8, 8 and 7: the last one is uneven; 11 test samples do not divide either.
OPTIONS = ["--data", "vectors:41", "--optimizer", "sgd", "--epochs", "3", "--checkpoint-every", "2", "--device", "cpu"]
LIMIT = 120
"""Seconds within which all processes end once one is dead."""


def launch(launcher, *arguments, **environment):
    command = [*LAUNCHERS[launcher], "tests.core.run.toy", *map(str, arguments)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, env=variables, timeout=300, capture_output=True, text=True, check=False)


def close(found, expected, tolerance=2e-5):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert float((found[name] - tensor).abs().max()) <= tolerance * float(tensor.abs().max()), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process with twice the accumulation."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert pt("fit", "prompt", *OPTIONS, "--accumulate", 2, "--out", folder)[0] == 0
    return folder


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_equal_one_with_twice_the_accumulation(launcher, alone, tmp_path):
    run = tmp_path / "run"
    done = launch(launcher, "fit", "prompt", *OPTIONS, "--out", run)
    assert done.returncode == 0, done.stderr[-3000:]
    assert status_of(run)["processes"] == 2
    close(weights(run), weights(alone))
    # Only the first process speaks and writes: one line per step, one summary, the same files.
    assert done.stdout.count("next: pt-toy predict") == 1
    steps = [[line["step"] for line in RunDir(folder).metrics()] for folder in (run, alone)]
    assert steps[0] == steps[1]

    def names(folder):
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != ".lock")

    assert names(run) == names(alone)
    # Sharded evaluation counts every sample once.
    tables = [pandas.read_parquet(folder / "predictions" / "test.parquet") for folder in (run, alone)]
    assert list(tables[0]["id"]) == list(tables[1]["id"])
    assert len(tables[0]) == 11
    for part in ("val", "test"):
        assert status_of(run)["results"][part] == pytest.approx(status_of(alone)["results"][part], rel=1e-4)


def test_death_of_one_process_ends_all_and_the_run_resumes(alone, tmp_path):
    run = tmp_path / "run"
    started = time.monotonic()
    done = launch("torchrun", "fit", "prompt", *OPTIONS, "--out", run, PT_TOY_DIES="1:6")
    assert done.returncode != 0
    assert time.monotonic() - started < LIMIT
    checkpoints = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert checkpoints[-1] == "step-00000004"
    (said,) = refused("resume", run)
    assert "trained by 2 processes and is resumed by 1" in said
    assert "--allow-topology-change" in said
    status, _, err = pt("resume", run, "--allow-topology-change")
    assert status == 0, err
    close(weights(run), weights(alone))


def test_mistakes_stop_all_processes_with_one_message(tmp_path):
    done = launch("torchrun", "fit", "prompt", *OPTIONS, "--lenght", "3", "--out", tmp_path / "run")
    assert done.returncode != 0
    assert done.stderr.count("error: unknown option '--lenght' (did you mean '--length'?)") == 1
    assert not (tmp_path / "run").exists()


def test_a_used_folder_stops_all_processes_in_time(alone, tmp_path):
    started = time.monotonic()
    done = launch("torchrun", "fit", "prompt", *OPTIONS, "--out", alone)
    assert done.returncode != 0
    assert time.monotonic() - started < LIMIT
    assert "already holds a run" in done.stderr


def test_a_packages_command_runs_on_two_processes(tmp_path):
    """pt-vision with its cached features, which only one of the processes may compute for each sample."""
    options = ["--data", "builtin:digits", "--shots", "2", "--epochs", "2", "--batch-size", "7", "--device", "cpu"]
    command = [*LAUNCHERS["torchrun"][:-1], "--no-python", str(BIN / "pt-vision"), "fit", "linear", *options]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    command += ["--out", str(tmp_path / "two")]
    done = subprocess.run(command, env=variables, timeout=300, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    import pt_vision

    one = pt_vision.fit(
        "linear",
        data="builtin:digits",
        shots=2,
        epochs=2,
        batch_size=7,
        accumulate=2,
        device="cpu",
        out=tmp_path / "one",
    )
    close(weights(tmp_path / "two"), weights(one.path), 1e-4)
