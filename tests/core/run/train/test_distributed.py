"""Two processes end where one with twice the accumulation ends, count every sample once, and only the first one writes."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from pt_core.errors import ArtifactError
from safetensors.torch import load_file

from tests.core.run import ranks
from tests.core.run.forked import ranks as forked
from tests.core.run.train.test_trainer import tensors
from tests.core.toys import TOYS

PROMISED = [kind for kind, toy in TOYS.items() if not toy.coupled]


def launch(*arguments, processes=2, timeout=240):
    """Start processes as a user would; returns the finished launcher."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments], env=environment, timeout=timeout, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of two processes over all toys."""
    out = tmp_path_factory.mktemp("two")
    assert forked(2, lambda rank: ranks.main(out)) == [0, 0]
    return out


def report(two, rank):
    return json.loads((two / f"report-{rank}.json").read_text())


def close(found, expected):
    """Float32 tolerance relative to the largest value."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        scale = float(tensor.abs().max()) if tensor.numel() else 1.0
        error = float((found[name] - tensor).abs().max()) if tensor.numel() else 0.0
        assert error <= 2e-5 * max(scale, 1e-3), name


@pytest.mark.parametrize("kind", PROMISED)
def test_two_processes_equal_one_with_twice_the_accumulation(kind, two, tmp_path):
    options = ranks.OPTIONS if kind in ranks.STEPPING else replace(ranks.OPTIONS, accumulate=2)
    method, metrics, records = ranks.train(kind, tmp_path / "one", options)
    close(load_file(two / "ends" / f"{kind}-0.safetensors"), tensors(method))
    assert report(two, 0)["metrics"][kind] == pytest.approx(metrics, rel=1e-4)
    assert report(two, 0)["records"][kind] == records


@pytest.mark.parametrize("kind", TOYS)
def test_both_processes_end_with_the_same_bytes(kind, two):
    first, second = (load_file(two / "ends" / f"{kind}-{rank}.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", TOYS)
def test_sharded_evaluation_counts_every_sample_once(kind, two):
    for rank in (0, 1):
        found = report(two, rank)
        assert found["metrics"][kind]["count"] == 7
        assert [record["id"] for record in found["records"][kind]] == [f"v2-{i}" for i in range(7)]


def test_only_the_first_process_writes(two):
    assert report(two, 0)["opened"], "the watch sees the writes of the first process"
    assert report(two, 1)["opened"] == []


def test_logged_losses_are_means_over_both_processes(two, tmp_path):
    ranks.train("supervised", tmp_path / "one", replace(ranks.OPTIONS, accumulate=2))
    one, both = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (tmp_path / "one", two / "runs" / "supervised")
    )
    assert [line["step"] for line in one] == [line["step"] for line in both]
    for left, right in zip(one, both, strict=True):
        numbers = {"loss", "grad_norm", "accuracy", "nll", "lr"} & left.keys()
        assert numbers
        assert numbers <= right.keys()
        assert {key: left[key] for key in numbers} == pytest.approx({key: right[key] for key in numbers}, rel=1e-4)


def test_non_finite_loss_stops_both_and_names_the_samples_of_both(two):
    messages = [report(two, rank)["bad"] for rank in (0, 1)]
    assert messages[0] == messages[1]
    assert "v1-2" in messages[0] or "v1-9" in messages[0]
    failure = json.loads((two / "runs" / "bad" / "failure.json").read_text())
    assert set(failure["samples"]) & {"v1-2", "v1-9"}


def copied(two, tmp_path):
    assert report(two, 0)["killed"]
    shutil.copytree(two / "runs" / "killed", tmp_path / "killed")
    return tmp_path / "killed"


def test_resume_with_another_number_of_processes_is_refused(two, tmp_path):
    folder = copied(two, tmp_path)
    before = sorted(p.name for p in (folder / "checkpoints").iterdir())
    with pytest.raises(ArtifactError, match="2 processes and is resumed by 1.*--allow-topology-change"):
        ranks.train("supervised", folder, resume=True)
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == before


def test_resume_with_another_number_of_processes_is_equal_to_rounding_where_allowed(two, tmp_path):
    method, _, _ = ranks.train("supervised", copied(two, tmp_path), resume=True, allow_topology_change=True)
    close(tensors(method), load_file(two / "ends" / "supervised-0.safetensors"))


DYING = """
import os, sys
from pathlib import Path
from tests.core.run import ranks
from tests.core.run.forked import ranks as forked
def on_step(stage, step):
    if step == 4 and os.environ["RANK"] == "1":
        os._exit(9)
ranks.train("supervised", Path(sys.argv[1]), on_step=on_step)
"""


@pytest.mark.slow
def test_death_of_one_process_ends_the_other_and_the_run_resumes_exactly(two, tmp_path):
    script = tmp_path / "dying.py"
    script.write_text(f"import sys; sys.path.insert(0, {os.getcwd()!r})\n{DYING}")
    done = launch(str(script), str(tmp_path / "run"), timeout=120)
    assert done.returncode != 0
    (tmp_path / "again.py").write_text(
        f"import sys; sys.path.insert(0, {os.getcwd()!r})\n"
        "import os; from pathlib import Path; from safetensors.torch import save_file\n"
        "from tests.core.run import ranks; from tests.core.run.train.test_trainer import tensors\n"
        "method, _, _ = ranks.train('supervised', Path(sys.argv[1]), resume=True)\n"
        "if os.environ['RANK'] == '0': save_file(tensors(method), sys.argv[1] + '/end.safetensors')\n"
    )
    done = launch(str(tmp_path / "again.py"), str(tmp_path / "run"), timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    expected, found = load_file(two / "ends" / "supervised-0.safetensors"), load_file(tmp_path / "run/end.safetensors")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


LEFT = """
import os
from pt_core.run.train.trainer import Trainer
from tests.core.run.toy import main
save = Trainer._save
def dying(self, loop):
    save(self, loop)
    if os.environ["RANK"] == "1" and os.environ.get("DIES"):
        os._exit(9)
Trainer._save = dying
main(sys.argv[1:])
"""


def test_what_is_left_of_a_run_says_in_one_line_that_a_process_is_gone(tmp_path):
    import socket

    script = tmp_path / "dying.py"
    script.write_text(f"import sys; sys.path.insert(0, {os.getcwd()!r})\n{LEFT}")

    def together(*words, **extra):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        place = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": "2",
            "OMP_NUM_THREADS": "1",
            **extra,
        }
        started = [
            subprocess.Popen(
                [sys.executable, str(script), *words],
                env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        return [(*process.communicate(timeout=120), process.returncode) for process in started]

    run = str(tmp_path / "run")
    fit = (
        "fit",
        "prompt",
        "--data",
        "vectors:40",
        "--steps",
        "6",
        "--eval-every",
        "2",
        "--batch-size",
        "8",
        "--device",
        "cpu",
    )
    (_, told, status), (_, _, died) = together(*fit, "--out", run, DIES="yes")
    assert died == 9
    assert status == 1, told[-2000:]
    assert "Traceback" not in told
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: process 0: another process of this run is gone")
    assert [status for *_, status in together("resume", run)] == [0, 0]
