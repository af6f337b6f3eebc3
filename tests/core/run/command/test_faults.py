"""Faults around a run: stopped while its page is written, checkpoints that are not its own, damaged artifacts, odd lines and numbers."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from pt_core.artifact import read_artifact
from pt_core.run.fit import execute
from pt_core.run.train.rundir import RunDir
from pt_core.run.train.trainer import Trainer
from pt_core.sealed import read_json, read_tensors, write_sealed

from tests.core.run.toy import main, status_of as pt, vectors, write_table

FIT = (
    "fit",
    "prompt",
    "--data",
    "vectors:40",
    "--steps",
    "4",
    "--eval-every",
    "2",
    "--batch-size",
    "8",
    "--device",
    "cpu",
)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(capsys, *words):
    """The one line of a refused command."""
    capsys.readouterr()
    assert pt(*words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def stopped(name, *flags, stage_done=False):
    """A run that was killed behind its first checkpoint, or when all its steps were done."""

    class Killed(BaseException):
        pass

    def kill(*arguments, **named):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        if stage_done:
            patch.setattr(execute, "_write_report", kill)
        else:
            save = Trainer._save
            patch.setattr(Trainer, "_save", lambda self, loop: (save(self, loop), kill()))
        with pytest.raises(Killed):
            main([*map(str, FIT), *map(str, flags), "--out", name])
    return Path(name)


def recrafted(checkpoint, without="", **state):
    """The checkpoint with other entries of its state, or without some tensors; its hashes are right."""
    tensors = {
        k: v for k, v in read_tensors(checkpoint / "tensors.safetensors").items() if not (without and without in k)
    }
    content = {**read_json(checkpoint / "state.json"), **state}
    shutil.rmtree(checkpoint)
    write_sealed(checkpoint, {"tensors.safetensors": tensors, "state.json": json.dumps(content)})


def checkpoint_of(run):
    return sorted((run / "checkpoints").glob("step-*"))[-1]


# ---- 33 ----


def test_a_run_that_is_stopped_while_its_report_is_written_is_not_finished_and_resume_writes_what_is_missing():
    run = stopped("run", stage_done=True)
    assert RunDir(run).status()["status"] != "finished"
    assert not (run / "report.html").exists()
    assert pt("resume", run) == 0
    assert RunDir(run).status()["status"] == "finished"
    assert "finished" in (run / "report.html").read_text()
    assert pt(*FIT, "--out", "whole") == 0
    assert read_artifact(run).tensors.keys() == read_artifact(Path("whole")).tensors.keys()
    name = "tuned/weights.safetensors"
    assert (run / name).read_bytes() == (Path("whole") / name).read_bytes()
    assert len(RunDir(run).metrics()) == len(RunDir(Path("whole")).metrics())


# ---- 34 ----


def test_a_checkpoint_of_another_run_is_refused_naming_what_differs(capsys):
    mine, other = stopped("mine"), stopped("other", "--seed", 1, "--length", 3)
    shutil.rmtree(checkpoint_of(mine))
    shutil.copytree(checkpoint_of(other), mine / "checkpoints" / checkpoint_of(other).name)
    line = refused(capsys, "resume", mine)
    assert "is of a run with other options (length 3, now 2, seed 1, now 0)" in line


def test_changed_options_are_refused_and_the_old_ones_continue(capsys):
    run = stopped("run")
    config = (run / "config.yaml").read_text()
    changed = yaml.safe_load(config)
    changed["options"]["lr"] = 0.5
    (run / "config.yaml").write_text(yaml.safe_dump(changed))
    assert "with other options (lr 0.05, now 0.5); resume needs the same ones" in refused(capsys, "resume", run)
    changed = yaml.safe_load(config)
    changed["options"] |= {"workers": 1, "checkpoint_every": 1, "accumulate": 2}  # these change nothing
    (run / "config.yaml").write_text(yaml.safe_dump(changed))
    assert pt("resume", run) == 0


def test_a_checkpoint_without_optimiser_state_is_refused(capsys):
    run = stopped("run")
    recrafted(checkpoint_of(run), without="optimiser/")
    assert "has 0 tensors of optimiser 'main' instead of 9: it cannot be continued exactly" in refused(
        capsys, "resume", run
    )


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"step": -1}, "no valid 'step' (-1)"),
        ({"step": 10**9}, "is at step 1,000,000,000, the stage 'train' has 4"),
        ({"step": 1e9}, "no valid 'step' (1000000000.0)"),
        ({"step": "2"}, "no valid 'step' (2)"),
        ({"step": 10**40}, "no valid 'step'"),
        ({"stage_number": 9}, "is of stage 9 ('train'), but this run is at stage 1 ('train')"),
        ({"stage": "warmup"}, "is of stage 1 ('warmup'), but this run is at stage 1 ('train')"),
        ({"processes": None}, "no valid 'processes'"),
        ({"numbers": []}, "no valid 'numbers'"),
    ],
)
def test_positions_that_make_no_sense_are_refused(state, said, capsys):
    run = stopped("run")
    recrafted(checkpoint_of(run), **state)
    assert said in refused(capsys, "resume", run)


# ---- 36 ----


@pytest.mark.parametrize("file", ["weights.safetensors", "card.json", "manifest.json"])
def test_info_says_what_is_damaged(file, capsys):
    assert pt(*FIT, "--out", "run") == 0
    assert pt("info", "run") == 0
    path = Path("run", "tuned", file)
    path.write_bytes(path.read_bytes()[:-2])
    for words in (("info", "run"), ("info", "run", "--json"), ("info", "run/tuned")):
        assert file in refused(capsys, *words)
    shutil.rmtree(Path("run", "tuned"))
    assert "holds no tuned artifact" in refused(capsys, "info", "run")


def test_info_on_a_run_that_has_no_artifact_yet():
    assert pt("info", stopped("run")) == 0


# ---- 37 ----


def test_a_table_of_its_header_only_is_refused(capsys):
    write_table(Path("empty.csv"), vectors(0))
    line = refused(capsys, "fit", "prompt", "--data", "empty.csv", "--out", "run", "--device", "cpu")
    assert "the data have 0 (none)" in line
    assert not Path("run").exists()


def test_foreign_lines_of_metrics_are_passed_over(capsys):
    run = stopped("run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('3\n[1, 2]\nnull\n"text"\n{"step": "many", "stage_number": null}\n' + "[" * 5000 + "\n{cut")
    assert pt("resume", run) == 0
    assert pt("compare", run) == 0
    assert (run / "report.html").is_file()


def test_renamed_roles_are_told(capsys):
    assert pt(*FIT, "--out", "run") == 0
    assert "has no part 'tset'; it has: train" in refused(
        capsys, "eval", "run", "--data", "vectors:9", "--role", "tset"
    )
    assert "names role 'trian' (did you mean 'train'?)" in refused(
        capsys, *FIT[:2], "--data", "trian=vectors:9", "--out", "new"
    )


@pytest.mark.parametrize("flags", [("--steps", "-3"), ("--steps", "0"), ("--batch-size", "-1"), ("--epochs", "nan")])
def test_steps_and_counts_that_make_no_sense(flags, capsys):
    assert flags[0][2:].replace("-", "_") in refused(capsys, *FIT[:4], *flags, "--out", "run")
    assert not Path("run").exists()
