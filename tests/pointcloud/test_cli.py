"""The command line as a user meets it: fit, predict, eval, export, budget, info, episodes, mistakes; and the Python API."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pt_pointcloud
import pytest
from pt_core.errors import BackboneMismatch, ConfigError, DataError, UserError
from pt_core.run.command import cli
from pt_pointcloud.modality import PointClouds
from pt_pointcloud.options import PretrainOptions
from pt_pointcloud.pretrain import pretrain

from tests.pointcloud.common import LABELS, clouds

QUICK = ("--epochs", "2", "--batch-size", "10", "--warmup-epochs", "0", "--device", "cpu")


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(PointClouds, [str(argument) for argument in arguments])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    sizes = {"points": 48, "groups": 8, "group_size": 6, "dim": 16, "depth": 3, "heads": 2, "first": 4}
    out = tmp_path_factory.mktemp("net") / "net.safetensors"
    pretrain(PretrainOptions(**sizes, decoder_depth=1, steps=2, batch_size=4), out, progress=False)
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for role, size, seed in (("train", 30, 1), ("test", 9, 2)):
        made = clouds(size, seed)
        arrays = {"points": np.stack(made.clouds), "y": np.array(made.labels), "parts": np.stack(made.parts)}
        np.savez(root / f"{role}.npz", **arrays, classes=np.array(LABELS), part_names=np.array(made.part_names))
    for label in LABELS:
        (root / "new" / label).mkdir(parents=True)
    made = clouds(3, 5)
    for cloud, label in zip(made.clouds, LABELS, strict=True):
        np.save(root / "new" / label / "x.npy", cloud)
    return root


@pytest.fixture(scope="module")
def fitted(backbone, data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "idpt"
    assert (
        run("fit", "idpt", "--data", data, "--backbone", f"file:{backbone}", "--neighbours", 5, *QUICK, "--out", out)
        == 0
    )
    return out


def test_a_run_has_its_report_with_pictures(fitted):
    status = json.loads((fitted / "run.json").read_text())
    assert status["status"] == "finished"
    panels = {panel["title"]: panel for panel in json.loads((fitted / "report.json").read_text())["panels"]}
    assert "Attention of the prompt (block 2)" in panels
    assert "Per class (test)" in panels
    pictures = [
        item["picture"] for panel in panels.values() if panel["kind"] == "images" for item in panel["data"]["items"]
    ]
    assert len(pictures) == 9 + 8
    assert all(picture.startswith("iVBOR") for picture in pictures)  # PNG


def test_predictions_of_files_and_folders(fitted, data, capsys, tmp_path):
    assert run("predict", fitted, data / "new", "--json", "--out", tmp_path / "p.csv") == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(record["id"]).parent.name for record in records] == LABELS
    assert all(record["predicted"] in LABELS for record in records)
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 4
    assert run("predict", fitted, data / "new" / "ball" / "x.npy", "--votes", 3) == 0


def test_evaluation_repeats_the_result_of_the_run(fitted, data, capsys):
    assert run("eval", fitted, "--data", data, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    want = json.loads((fitted / "run.json").read_text())["results"]["test"]["accuracy"]
    assert found["metrics"]["accuracy"] == pytest.approx(want)
    assert found["samples"] == 9


def test_info_compare_and_export(fitted, capsys, tmp_path):
    assert run("info", fitted) == 0
    assert "pt-pointcloud/idpt" in capsys.readouterr().out
    assert run("compare", fitted, "--out", tmp_path / "c.html") == 0
    assert run("export", fitted, "--out", tmp_path / "artifact", "--inference-only") == 0
    assert pt_pointcloud.load(tmp_path / "artifact").predict([clouds(1, 3).clouds[0]])[0]["predicted"] in LABELS


@pytest.mark.slow
def test_a_program_gives_the_same_logits(fitted, tmp_path):
    import torch

    assert run("export", fitted, "--format", "torch.export", "--out", tmp_path / "p.pt2") == 0
    program = torch.export.load(tmp_path / "p.pt2").module()
    predictor = pt_pointcloud.load(fitted)
    points = predictor.modality.inputs([clouds(1, 3).clouds[0]] * 2, predictor.method, None)
    batch = points.collate([0, 1], [points.sample(row, epoch=None, seed=0) for row in (0, 1)])
    try:
        have = program(batch.inputs["points"])
    except (RuntimeError, AssertionError):
        have = torch.cat([program(batch.inputs["points"][row : row + 1]) for row in (0, 1)])
    torch.testing.assert_close(have, predictor.method(batch), rtol=1e-4, atol=1e-5)


def test_another_backbone_is_refused(fitted, tmp_path):
    sizes = {"points": 48, "groups": 8, "group_size": 6, "dim": 16, "depth": 3, "heads": 2, "first": 4}
    other = tmp_path / "other.safetensors"
    pretrain(PretrainOptions(**sizes, decoder_depth=1, steps=1, batch_size=4, seed=1), other, progress=False)
    with pytest.raises(BackboneMismatch):
        pt_pointcloud.load(fitted, backbone=f"file:{other}")


def test_part_segmentation_runs(backbone, data, tmp_path, capsys):
    out = tmp_path / "seg"
    flags = ("--data", data, "--task", "parts", "--backbone", f"file:{backbone}", *QUICK, "--out", out)
    assert run("fit", "idpt_seg", *flags) == 0
    panels = json.loads((out / "report.json").read_text())["panels"]
    assert "Parts: true above, predicted below" in [panel["title"] for panel in panels]
    capsys.readouterr()
    assert run("predict", out, data / "new", "--json") == 0
    record = json.loads(capsys.readouterr().out.splitlines()[0])
    assert record["label"] == "ball"
    assert len(record["parts"]) == 48
    assert set(record["parts"]) <= {0, 1}


@pytest.mark.parametrize("method", ["idpt", "vpt", "linear", "full", "idpt_seg", "linear_seg"])
def test_every_method_has_a_budget(method, backbone, capsys):
    task = ("--task", "parts") if method.endswith("_seg") else ()
    assert run("budget", method, "--backbone", f"file:{backbone}", "--json", "--batch-size", 4, *task) == 0
    cost = json.loads(capsys.readouterr().out)
    assert cost["tuned"] > 0
    assert cost["forward_flops"] > 0
    assert cost["step_flops"] > cost["forward_flops"] or method == "linear"
    if method == "vpt":
        assert cost["prompts"] == {f"tokens[{layer}]": 10 for layer in range(3)}


def test_episodes_are_runs_with_a_mean(backbone, data, tmp_path, capsys):
    out = tmp_path / "e"
    flags = ("--ways", 2, "--shots", 4, "--queries", 3, "--episodes", 2, "--backbone", f"file:{backbone}", "--out", out)
    assert (
        run("episodes", "linear", "--data", data, *flags, "--set", "epochs=2", "--set", "batch-size=8", "--json") == 0
    )
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(summary["accuracies"]) == 2
    status = json.loads((out / "episode-01" / "run.json").read_text())
    assert status["data"]["counts"] == {"train": 8, "test": 6}
    assert run("episodes", "linear", "--data", data, "--set", "epochs", "--out", tmp_path / "f") == 2
    assert "--set 'epochs' is not of the form NAME=VALUE" in capsys.readouterr().err


def test_an_episode_has_its_shots(backbone, data, tmp_path, capsys):
    """`fit` takes what a class has; an episode of fewer shots would be another benchmark."""
    flags = ("--ways", 2, "--queries", 3, "--episodes", 1, "--backbone", f"file:{backbone}", "--out", tmp_path / "e")
    assert run("episodes", "linear", "--data", data, *flags, "--shots", 400, "--set", "epochs=1") == 2
    assert "--shots 400 is more than some classes have" in capsys.readouterr().err
    few = ("--data", data, "--backbone", f"file:{backbone}", *QUICK, "--shots", 400)
    assert run("fit", "linear", *few, "--out", tmp_path / "run") == 0
    notes = json.loads((tmp_path / "run" / "run.json").read_text())["notes"]
    assert any(note.startswith("--shots 400: ball has") for note in notes)


def test_pretraining_on_a_users_clouds(data, tmp_path):
    flags = (
        "--points",
        48,
        "--groups",
        8,
        "--group-size",
        6,
        "--dim",
        16,
        "--heads",
        2,
        "--depth",
        1,
        "--steps",
        1,
        "--batch-size",
        4,
    )
    out = tmp_path / "own.safetensors"
    assert run("pretrain", "--data", data, *flags, "--out", out) == 0
    assert pt_pointcloud.load_backbone(f"file:{out}").dim == 16


def test_corruption_and_augmentation_are_options_of_a_run(backbone, data, tmp_path):
    network = pt_pointcloud.load_backbone(f"file:{backbone},points=30")
    options = {
        "corrupt": ("missing",),
        "severity": 0.3,
        "augment": "scale_translate",
        "epochs": 1,
        "batch_size": 10,
        "warmup_epochs": 0,
    }
    result = pt_pointcloud.fit("vpt", data=str(data), backbone=network, out=tmp_path / "v", quiet=True, **options)
    assert 0 <= result.metrics["accuracy"] <= 1
    with pytest.raises(ConfigError, match="normalise='as_stored', but backbone"):
        pt_pointcloud.fit(
            "vpt", data=str(data), backbone=network, normalise="as_stored", out=tmp_path / "w", quiet=True
        )
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "idpd", "--data", "x"), "did you mean 'idpt'"),
        (("fit", "idpt", "--data", "nowhere"), "'nowhere' do not exist"),
        (("fit", "idpt"), "--data is missing"),
        (
            ("fit", "idpt", "--data", "builtin:shapes", "--neighbors", "3", "--severity", "7"),
            "did you mean '--neighbours'",
        ),
        (("fit", "idpt", "--data", "builtin:shapes", "--task", "part"), "task='part'"),
        (("fit", "idpt_seg", "--data", "builtin:shapes"), "choose another method"),
        (("fit", "linear", "--data", "builtin:shapes", "--backbone", "builtin:none"), "no built-in backbone 'none'"),
        (("demo", "shape"), "known: shapes, parts"),
        (("predict", "nowhere", "x.off"), "is not a run folder"),
    ],
)
def test_mistakes_end_with_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not any(tmp_path.glob("runs/*"))


def test_all_mistakes_of_a_command_are_told_together(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = ["--data", "nowhere", "--backbone", "pointmae:modelnett", "--recipe", "idpt-best", "--epocs", "3"]
    assert run("fit", "idpt", *wrong, "--out", "new") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    for part in ("'nowhere' do not exist", "did you mean 'modelnet'", "no recipe 'idpt-best'", "'--epocs'"):
        assert sum(part in line for line in errors) == 1, errors
    assert len(errors) == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("builtin:shape", "did you mean 'shapes'"),
        ("shaps", "did you mean 'shapes'"),
        ("mug.off", "is a single cloud"),
        ("notes.md", "is of no known kind"),
    ],
)
def test_data_are_checked_by_name(spec, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()
    for name in ("mug.off", "notes.md"):
        (tmp_path / name).touch()
    assert message in PointClouds().data_problem(spec)
    with pytest.raises(DataError, match=message):
        pt_pointcloud.load_clouds(spec)
    assert PointClouds().data_problem("shapes") is None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("file:nowhere.safetensors", "make it with"),
        ("builtin:point_mae_shapes,point=64", "did you mean 'points'"),
        ("builtin:point_mae_shapes,normalise=unit", "normalise='unit' is unknown"),
        ("pointmae", "is of no known kind|has no layout"),
    ],
)
def test_backbones_are_checked_by_name(spec, message):
    assert re.search(message, PointClouds().backbone_problem(spec, "backbone"))
    with pytest.raises(UserError, match=message):
        pt_pointcloud.load_backbone(spec)
    assert PointClouds().backbone_problem("pointbert:shapenet,points=512", "backbone") is None


@pytest.mark.parametrize(
    "arguments", [["--help"], ["methods"], ["fit", "--help"], ["episodes", "--help"]], ids=" ".join
)
def test_printing_commands_import_nothing_heavy(arguments):
    program = (
        "import sys\nfrom pt_pointcloud.cli import main\nsys.argv = ['pt-pointcloud', *sys.argv[1:]]\n"
        "try:\n    main()\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.strip()
    assert not {"torch", "numpy", "numba", "trimesh", "pandas"} & set(done.stderr.split())


def test_public_names():
    assert {"IDPT", "VPT", "fit", "load", "load_many", "load_clouds", "load_backbone"} <= set(pt_pointcloud.__all__)
    assert all(getattr(pt_pointcloud, name) is not None for name in pt_pointcloud.__all__)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shapes", "parts"])
def test_demos_run(name, tmp_path, capsys):
    assert run("demo", name, "--fast", "--out", tmp_path / "demo") == 0
    assert (tmp_path / "demo" / "compare.html").is_file()
    assert "idpt" in capsys.readouterr().out
