"""The command line and the Python API end to end on built-in data, and the mistakes a new user makes."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pt_timeseries
import pytest
import torch
from pt_core.errors import DataError
from pt_core.run.command import cli
from pt_timeseries.modality import TimeSeries

SHORT = ("--steps", "3", "--batch-size", "8", "--eval-every", "3")


def command(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(TimeSeries, list(arguments))
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "pond"
    options = {"steps": 3, "batch_size": 8, "eval_every": 3, "quiet": True, "out": out}
    return pt_timeseries.fit("pond", data="builtin:twins", **options)


def test_a_run_has_a_report_that_says_why_a_source_was_chosen(run):
    assert run.info["status"] == "finished"
    assert "macro_f1" in run.metrics
    page = (run.path / "report.html").read_text()
    for text in (
        "Choice of the source",
        "Distinction of every pair",
        "Prompts over time",
        "Target domains (test)",
        "(chosen)",
    ):
        assert text in page


def test_predictions_need_no_labels_and_agree_with_the_command_line(run, tmp_path, capsys):
    windows = np.random.default_rng(0).normal(size=(3, 6, 128)).astype(np.float32)
    predictor = pt_timeseries.load(run)
    records = predictor.predict(list(windows))
    assert [record["id"] for record in records] == ["window/0", "window/1", "window/2"]
    np.savez(tmp_path / "new.npz", x=windows)
    code, out, _ = command(capsys, "predict", str(run.path), str(tmp_path / "new.npz"), "--json")
    assert code == 0
    told = [json.loads(line) for line in out.splitlines()]
    assert [r["predicted"] for r in told] == [r["predicted"] for r in records]
    assert told[0]["score"] == pytest.approx(records[0]["score"], rel=1e-5)
    with pytest.raises(DataError, match="reads 6 channels x 128 steps, the windows have 3 x 128"):
        predictor.predict([windows[0, :3]])


def test_eval_repeats_the_test_of_the_run(run, capsys):
    code, out, _ = command(capsys, "eval", str(run.path), "--data", "builtin:twins", "--json")
    assert code == 0
    assert json.loads(out)["metrics"]["macro_f1"] == pytest.approx(run.metrics["macro_f1"])


def test_budget_counts_without_data(capsys):
    code, out, _ = command(capsys, "budget", "pond")
    assert code == 0
    assert "2 prompt tokens at tokens[0]" in out


@pytest.mark.parametrize("name", ["source_only", "common_prompt", "coral", "codats", "full"])
@pytest.mark.slow
def test_every_method_runs(name, tmp_path, capsys):
    code, out, err = command(capsys, "fit", name, "--data", "builtin:motion", "--out", str(tmp_path / "run"), *SHORT)
    assert code == 0, err
    assert "test: " in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "pnd"], "did you mean 'pond'"),
        (["fit", "pond", "--data", "nowhere.npz"], "nowhere.npz does not exist"),
        (["fit", "pond", "--data", "builtin:motion", "--target", "q"], "has no such domain"),
        (["fit", "pond", "--data", "builtin:motion", "--prompt-length", "10"], "the nearest lengths are 8 and 16"),
        (["fit", "pond", "--data", "builtin:motion", "--prompt-lenght", "8"], "did you mean '--prompt-length'"),
        (
            ["fit", "full", "--data", "builtin:motion", "--target-shots", "0"],
            "'shots' (labelled target windows (--target-shots))",
        ),
        (["fit", "pond", "--data", "builtin:motion", "--backbone", "timm:x"], "of no known kind"),
        (["pretrain", "--dim", "10", "--heads", "4", "--out", "e.safetensors"], "dim=10 is not a multiple of heads=4"),
        (["fit", "pond", "--data", "builtin:motion", "--hidden", "1000000000"], "less than or equal to 65536"),
        (["pretrain", "--experts", "10000000", "--out", "e.safetensors"], "less than or equal to 1024"),
        (["demo", "movement"], "no demo 'movement'; known: motion"),
        (["predict", "nowhere", "x.npz"], "is not a run folder"),
    ],
)
def test_mistakes_end_with_one_line_and_nothing_written(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(capsys, *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("*.json"))


def test_all_mistakes_of_a_command_are_told_together(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = ["--data", "nowhere.npz", "--backbone", "builtin:patch_moton", "--recipe", "pond-best", "--epocs", "3"]
    code, _, err = command(capsys, "fit", "pond", *wrong, "--out", "new")
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2
    for part in ("nowhere.npz does not exist", "did you mean 'patch_motion'", "no recipe 'pond-best'", "'--epocs'"):
        assert sum(part in line for line in errors) == 1, err
    assert len(errors) == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("builtin:twin", "did you mean 'twins'"),
        ("folder", "folder folder holds no .npz"),
        ("notes.md", "notes.md is of no known format"),
    ],
)
def test_data_are_checked_by_name(spec, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.md").touch()
    assert message in TimeSeries().data_problem(spec)
    with pytest.raises(DataError, match=message):
        pt_timeseries.load_windows(spec, pt_timeseries.DataOptions(), 0)


def test_data_and_backbones_that_there_are(tmp_path):
    (tmp_path / "train_1.pt").touch()
    for spec in ("builtin:motion", str(tmp_path)):
        assert TimeSeries().data_problem(spec) is None
    assert TimeSeries().backbone_problem("builtin:patch_motion", "backbone") is None
    assert "make it with" in TimeSeries().backbone_problem("file:nowhere.safetensors", "backbone")


def test_help_does_not_wait_for_torch():
    code = (
        "import sys\nfrom pt_core.run.command import cli\nfrom pt_timeseries.modality import TimeSeries\n"
        "for a in (['--help'], ['methods'], ['fit', '--help']):\n"
        "    try:\n        cli.main(TimeSeries, a)\n    except SystemExit as stop:\n        assert not stop.code\n"
        "assert not {'torch', 'tsai', 'aeon', 'pandas'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_public_names_can_be_had():
    for name in pt_timeseries.__all__:
        assert getattr(pt_timeseries, name) is not None
    for method in TimeSeries.registry.infos():
        cls = TimeSeries.registry.load(method)
        assert getattr(pt_timeseries, cls.__name__) is cls
        assert getattr(pt_timeseries, cls.Config.__name__) is cls.Config


def adatime(folder, domains=("1", "2", "3")):
    """AdaTime's layout as its authors write it: NumPy arrays (window, channel, step), a pair of files per subject; the target's class 2 has
    two windows."""
    folder.mkdir()
    rng, time = np.random.default_rng(0), np.arange(128) / 128
    for name in domains:
        for part, count in (("train", 24), ("test", 12)):
            labels = np.arange(count) % 3
            if name == "3" and part == "train":
                labels[labels == 2] = 0
                labels[:2] = 2
            tones = np.sin(2 * np.pi * (1 + 3 * labels)[:, None, None] * time + rng.uniform(0, 6, (count, 9, 1)))
            samples = tones + 0.1 * rng.normal(size=tones.shape)
            torch.save({"samples": samples, "labels": labels.astype(np.float64)}, folder / f"{part}_{name}.pt")
    return str(folder)


def test_adatime_runs_with_the_defaults_of_fit(tmp_path, capsys, monkeypatch):
    """What the README says to do with such a folder; only the number of steps is small."""
    monkeypatch.chdir(tmp_path)
    data = ["--data", adatime(tmp_path / "HAR"), "--target", "3"]
    quick = ["--epochs", "2", "--dim", "16", "--depth", "1", "--heads", "2"]
    code, _, err = command(capsys, "pretrain", *data, *quick, "--out", "encoder.safetensors")
    assert code == 0, err
    code, out, err = command(
        capsys, "fit", "pond", *data, "--backbone", "file:encoder.safetensors", "--out", "run", *SHORT
    )
    assert code == 0, err
    assert "--target-shots 5: 2 has 2, of which all are taken (--exact-target-shots refuses this)" in out + err
    found = pt_timeseries.load_windows("HAR", pt_timeseries.DataOptions(target=("3",)), 0)
    assert [found["shots"].labels.count(label) for label in range(3)] == [5, 5, 2]
    assert len(found["test"]) == 12
    code, _, err = command(
        capsys, "fit", "pond", *data, "--exact-target-shots", "--backbone", "file:encoder.safetensors"
    )
    assert code == 2
    assert "2 has 2; lower --target-shots" in err


def test_series_of_different_length_from_pretraining_to_prediction(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    lines = ["domain,series,x,y,label"]
    for number in range(36):
        steps, label = [40, 33, 27, 19][number % 4], number // 4 % 3
        wave = np.sin(np.arange(steps) * (0.2 + 0.4 * label))
        for value in wave:
            lines.append(f"{'abt'[number % 3]},{number},{value + 0.1 * rng.normal()},{-value},{'xyz'[label]}")
    (tmp_path / "d.csv").write_text("\n".join(lines) + "\n")
    data = ["--data", "d.csv", "--target", "t", "--window", "40", "--unequal", "pad", "--val-fraction", "0.3"]
    quick = ["--epochs", "2", "--dim", "16", "--depth", "1", "--heads", "2", "--patch", "8"]
    code, _, err = command(capsys, "pretrain", *data, *quick, "--out", "e.safetensors")
    assert code == 0, err
    code, out, err = command(capsys, "fit", "pond", *data, "--backbone", "file:e.safetensors", "--out", "run", *SHORT)
    assert code == 0, err
    assert "padded to 40, behind a mask" in out + err
    predictor = pt_timeseries.load("run")
    windows = [rng.normal(size=(2, steps)).astype(np.float32) for steps in (40, 19, 30)]
    together = predictor.predict(windows)
    for window, record in zip(windows, together, strict=True):
        (alone,) = predictor.predict([window])
        assert alone["predicted"] == record["predicted"]
        assert alone["score"] == pytest.approx(record["score"], rel=1e-4)
    code, out, err = command(capsys, "eval", "run", "--data", "d.csv", "--json")
    assert code == 0, err
    code, out, err = command(capsys, "predict", "run", "d.csv", "--series-column", "series", "--json")
    assert code == 0, err
    assert len(out.splitlines()) == 36


def test_predict_reads_tables_by_the_flags_of_fit(run, tmp_path, capsys):
    """Names of columns, times and columns to leave out; what was left out is told."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 6, 128)).astype(np.float32)
    lines = ["who,which,at,note," + ",".join(f"c{n}" for n in range(6))]
    for window in range(2):
        for step in reversed(range(128)):
            cells = ",".join(repr(float(x)) for x in values[window, :, step])
            lines.append(f"p,{window},{step // 60:02d}h{step % 60:02d},text,{cells}")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "d.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "new" / "notes.csv").write_text("name,age\nx,3\n")
    flags = ["--domain-column", "who", "--series-column", "which", "--time-column", "at", "--time-format", "%Hh%M"]
    folder = [str(run.path), str(tmp_path / "new"), *flags, "--drop-columns", "note", "--json"]
    code, _, err = command(capsys, "predict", *folder)
    assert code == 2
    assert "--skip-files" in err
    code, out, err = command(capsys, "predict", *folder, "--skip-files")
    assert code == 2
    assert "times of day that fall" in err  # the rows run backwards, and the times have no date
    ordered = [lines[0], *reversed(lines[1:129]), *reversed(lines[129:])]
    (tmp_path / "new" / "d.csv").write_text("\n".join(ordered) + "\n")
    code, out, err = command(capsys, "predict", *folder, "--skip-files")
    assert code == 0, err
    assert "notes.csv is left out" in out + err
    told = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    want = pt_timeseries.load(run).predict(list(values))
    assert [row["predicted"] for row in told] == [row["predicted"] for row in want]
    for have, other in zip(told, want, strict=True):
        assert have["score"] == pytest.approx(other["score"], rel=1e-5)
