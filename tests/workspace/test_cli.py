"""Every command as a user types it: on pictures in a folder, from the first run to export."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image
from pt_vision import __version__
from safetensors.torch import load_file

from tests.command import content, good, pt_vision, refused
from tests.vision.pictures import make_folder
from tests.workspace.conftest import BACKBONE, SHORT, VPT

LINE = "from pt_vision.cli import main; main()"


def weights(run: str) -> bytes:
    return Path(run, "tuned", "weights.safetensors").read_bytes()


# ---- printing --------------------------------------------------------------------------------------------------------------


def test_nothing_typed_prints_the_help_under_the_commands_own_name() -> None:
    for arguments in ((), ("fit",)):
        outcome = pt_vision(*arguments)
        assert outcome.status == 2
        assert outcome.err.startswith(f"Usage: {' '.join(('pt-vision', *arguments))} ")
        assert "error" not in outcome.err.splitlines()[0]
        assert "METHOD" in outcome.err or "demo" in outcome.err


def test_methods_and_backbones_are_listed() -> None:
    ids = [line.split()[0] for line in good("methods").out.splitlines()]
    assert ids == [
        *(
            "coda",
            "coop",
            "dvpt",
            "dvpt_seg",
            "full",
            "linear",
            "linear_seg",
            "self_training",
            "source_only",
            "vpt",
            "vpt_pixel",
            "zero_shot",
        ),
    ]
    rows = good("methods", "--json").json()
    assert [row["id"] for row in rows] == ids
    assert all(row["title"] and row["tunes"] and "images" in row["needs"].get("train", "images") for row in rows)
    assert good("backbones").out.startswith("builtin:vit_glyphs ")


COMMANDS = ["demo", "fit", "resume", "eval", "predict", "compare", "info", "export", "budget", "pretrain"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    assert good(command, "--help").out.startswith(f"Usage: pt-vision {command} ")


def test_the_help_of_a_method_holds_its_documented_options_and_recipe() -> None:
    text = " ".join(good("fit", "dvpt", "--help").out.split())
    assert "consecutive blocks that share one bottleneck" in text
    assert "[default: 0.0005]" in text  # the method's own, not the trainer's
    assert "One of: paper, code_vit, code_swin." in text


# ---- fit -------------------------------------------------------------------------------------------------------------------


def test_fit_says_what_it_did_and_what_comes_next(place: Path) -> None:
    outcome = good("fit", "linear", "--data", "photos", *SHORT, "--out", "said")
    assert "no --backbone: using the small built-in builtin:vit_glyphs; a real pretrained one will do" in outcome.err
    assert "no test part: 6 of 24 training samples split off (stratified, seed 0)" in outcome.err
    assert outcome.out.splitlines()[-1] == "next: pt-vision predict said IMAGE..."
    files = {path.name for path in Path("said").iterdir()}
    assert {"config.yaml", "run.json", "metrics.jsonl", "report.html", "tuned", "predictions", "stages"} <= files
    assert {path.name for path in Path("said", "tuned").iterdir()} >= {"weights.safetensors", "card.json", "README.md"}
    status = json.loads(Path("said", "run.json").read_text())
    assert status["status"] == "finished"
    assert status["data"]["counts"] == {"train": 14, "val": 4, "test": 6}
    assert status["command"]
    without = good("fit", "linear", "--data", "photos", *BACKBONE, "--steps", "1")
    assert "next: pt-vision predict runs/linear-1 " in without.out
    assert "no --backbone" not in without.err


def test_print_config_writes_nothing_and_repeats_as_a_config(place: Path) -> None:
    before = set(Path().iterdir())
    printed = good(*VPT, "--print-config")
    assert set(Path().iterdir()) == before
    options = yaml.safe_load(printed.out)
    assert options["method"] == "vpt"
    assert options["options"]["prompt_length"] == 2
    assert options == yaml.safe_load(Path("a", "config.yaml").read_text())
    good("fit", "vpt", "--config", "a/config.yaml", "--out", "again")
    assert weights("again") == weights("a")
    assert weights("again") != weights("b")
    good("fit", "vpt", "--config", "a/config.yaml", "--seed", "1", "--out", "other")  # a flag goes before the file
    assert weights("other") == weights("b")
    refused("config.yaml is a configuration of 'vpt', not of 'dvpt'", "fit", "dvpt", "--config", "a/config.yaml")


def test_recipes_lie_between_the_methods_defaults_and_the_flags(place: Path) -> None:
    options = yaml.safe_load(
        good("fit", "vpt", "--recipe", "vpt-deep-official", "--lr", "7", "--data", "photos", "--print-config").out
    )["options"]
    assert options["official_warmup"] is True
    assert (options["lr"], options["batch_size"], options["prompt_dropout"]) == (7.0, 128, 0.1)
    Path("mine.yaml").write_text("prompt_length: 3\nshots: 2\n")
    options = yaml.safe_load(good("fit", "vpt", "--recipe", "mine.yaml", "--data", "photos", "--print-config").out)
    assert options["options"]["prompt_length"] == 3
    assert options["options"]["shots"] == 2


def test_search_keeps_the_best_on_validation(place: Path) -> None:
    options = ("--data", "photos", *BACKBONE, *SHORT, "--val-fraction", "0.4")
    outcome = good(
        "fit", "linear", *options, "--search", "lr=0.00001,0.3", "--search", "weight_decay=0", "--out", "best"
    )
    found = {p.parent.name: json.loads(p.read_text()) for p in sorted(Path("best", "search").glob("*/run.json"))}
    assert list(found) == ["00", "01"]
    values = [status["results"]["val"]["accuracy"] for status in found.values()]
    chosen = values.index(max(values))  # ties go to the first
    assert weights("best") == weights(f"best/search/0{chosen}")
    assert json.loads(Path("best", "run.json").read_text())["results"]["val"]["accuracy"] == max(values)
    assert "best on validation" in outcome.err
    assert outcome.out.count("0.3") >= 1


# ---- predict ---------------------------------------------------------------------------------------------------------------


def records(*arguments: str) -> list[dict]:
    return [json.loads(line) for line in good("predict", *arguments, "--json").out.splitlines()]


def test_predict_reads_files_folders_and_patterns(place: Path) -> None:
    one = records("a", "photos/cat/0.png")
    assert one[0]["id"] == "photos/cat/0.png"
    assert {*one[0]} == {"id", "predicted", "score", "top2", "top2_score", "top3", "top3_score"}
    assert abs(one[0]["score"] + one[0]["top2_score"] + one[0]["top3_score"] - 1) < 1e-5
    folder = records("a", "photos")
    assert len(folder) == 24
    assert [r["id"] for r in folder] == sorted(r["id"] for r in folder)
    assert [r["id"] for r in records("a", "photos/*/1.png", "photos/owl/7.png")] == [
        *(f"photos/{name}/1.png" for name in ("cat", "dog", "owl")),
        "photos/owl/7.png",
    ]
    for size in ("1", "5"):
        for have, want in zip(records("a", "photos", "--batch-size", size), folder, strict=True):
            assert have["predicted"] == want["predicted"]
            assert have["score"] == pytest.approx(want["score"], rel=1e-4)
    assert records("a/tuned", "photos/cat/0.png")[0]["score"] == pytest.approx(one[0]["score"], rel=1e-5)
    assert (
        good("predict", "a", "photos/cat/0.png").out
        == f"photos/cat/0.png\t{one[0]['predicted']}\t{one[0]['score']:.4f}\n"
    )


def test_predict_writes_tables_that_agree(place: Path) -> None:
    want = records("a", "photos")
    for name in ("p.csv", "deep/down/p.jsonl", "p.parquet"):
        said = good("predict", "a", "photos", "--out", name)
        assert f"24 predictions written to {name}" in said.err
        assert len(said.out.splitlines()) == 24
    with open("p.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["id"], r["predicted"], float(r["score"])) for r in rows] == [
        (r["id"], r["predicted"], r["score"]) for r in want
    ]
    assert [json.loads(line) for line in Path("deep/down/p.jsonl").read_text().splitlines()] == want
    assert pd.read_parquet("p.parquet").to_dict("records") == want


def test_predict_streams(place: Path) -> None:
    """The first rows are out before the last image is read; a table is written whole or not at all."""
    make_folder(place / "stream", {"": {"x": 4}})
    last = place / "stream" / "x" / "9.png"
    Image.new("RGB", (64, 64), "red").save(last)
    last.write_bytes(last.read_bytes()[:60])  # the head is fine
    outcome = refused("9.png' cannot be read", "predict", "a", "stream", "--batch-size", "2", "--out", "cut.csv")
    assert len(outcome.out.splitlines()) == 4
    assert not Path("cut.csv").exists()


def test_two_runs_in_one_batch_equal_one_by_one(place: Path) -> None:
    images = [f"photos/{name}/{number}.png" for name in ("cat", "dog", "owl") for number in range(4)]
    for left, right in (("a", "b"), ("a", "c")):  # one forward, and rows grouped by run
        routes = [left if number % 3 else right for number in range(len(images))]
        pd.DataFrame({"path": images, "tenant": routes}).to_csv("routes.csv", index=False)
        mixed = records(left, right, "routes.csv", "--route", "tenant", "--batch-size", "5")
        alone = {run: {r["id"]: r for r in records(run, *images)} for run in (left, right)}
        assert [r["run"] for r in mixed] == routes
        for record, image, run in zip(mixed, images, routes, strict=True):
            want = alone[run][image]
            assert (record["id"], record["predicted"]) == (image, want["predicted"])
            assert record["score"] == pytest.approx(want["score"], rel=1e-4)
        assert any(alone[left][image]["score"] != pytest.approx(alone[right][image]["score"]) for image in images)
    pd.DataFrame({"path": images[:2], "tenant": ["a", "b"]}).to_parquet("routes.parquet")
    shown = good("predict", "a", "b", "routes.parquet", "--route", "tenant").out.splitlines()
    assert [line.rpartition("  ")[2] for line in shown] == ["[a]", "[b]"]


def test_an_ensemble_agrees_where_its_runs_agree(place: Path) -> None:
    together = records("a", "c", "photos", "--ensemble", "--batch-size", "5")
    left, right = records("a", "photos"), records("c", "photos")
    assert [row["id"] for row in together] == [row["id"] for row in left]
    for mean, one, other in zip(together, left, right, strict=True):
        if one["predicted"] == other["predicted"]:
            assert mean["predicted"] == one["predicted"]
            assert mean["score"] >= min(one["score"], other["score"]) - 1e-6  # of mean logits, always
    shown = good("predict", "a", "c", "photos/cat", "--ensemble").out.splitlines()
    assert len(shown) == 8
    assert not any("[" in line for line in shown)


def test_the_version_is_told() -> None:
    assert good("--version").out.strip() == f"pt-vision, version {__version__}"


# ---- the other commands ----------------------------------------------------------------------------------------------------


def test_eval_agrees_with_the_predictions(place: Path) -> None:
    result = good("eval", "a", "--data", "photos", "--role", "train", "--json").json()
    found = records("a", "photos")
    right = sum(r["predicted"] == Path(r["id"]).parent.name for r in found)
    assert result["samples"] == 24
    assert result["metrics"]["accuracy"] == pytest.approx(right / 24)
    shown = good("eval", "a", "--data", "photos", "--role", "train").out
    assert shown.splitlines()[0] == "train: 24 samples"
    assert f"{right / 24:.4f}" in shown


def test_info_and_compare(place: Path) -> None:
    shown = good("info", "a").out
    for text in ("pt-vision/vpt", "finished", "file:tiny.safetensors", "cat, dog, owl", f"{2 * 2 * 16 + 3 * 17:,}"):
        assert text in shown
    both = good("info", "a", "--json").json()
    assert both["card"]["method"] == both["run"]["method"] == "pt-vision/vpt"
    assert good("info", "a/tuned", "--json").json()["card"] == both["card"]
    outcome = good("compare", "a", "b", "c", "--out", "pages")
    rows = [line.split() for line in outcome.out.splitlines()]
    assert [row[:2] for row in rows[1:]] in ([["linear", "1"], ["vpt", "2"]], [["vpt", "2"], ["linear", "1"]])
    assert "±" in next(line for line in outcome.out.splitlines() if line.startswith("vpt"))
    assert "<html" in Path("pages", "compare.html").read_text()
    good("compare", "a", "c", "--out", "one.html")
    assert Path("one.html").is_file()


def test_export_and_tune_on(place: Path) -> None:
    good("export", "a", "--out", "copy")
    assert content(Path("copy"))["weights.safetensors"] == weights("a")
    assert records("copy", "photos/cat") == records("a", "photos/cat")
    good("export", "a", "--out", "program.pt2", "--format", "torch.export")
    assert Path("program.pt2").stat().st_size > 1000
    good("fit", "vpt", "--config", "a/config.yaml", "--init-from", "copy", "--out", "further")
    assert weights("further") != weights("a")


def test_budget_counts_without_weights_or_data(place: Path) -> None:
    found = good("budget", "vpt", "--backbone", "timm:vit_base_patch16_224", "--prompt-length", "5", "--json").json()
    assert found["tuned"] == 53_770
    text = good("budget", "linear", *BACKBONE, "--classes", "3").out
    assert "51 (" in text
    assert "FLOP per sample" in text


def test_a_pretrained_backbone_is_what_its_card_says(place: Path) -> None:
    card = json.loads(Path("tiny.json").read_text())
    assert card["model"] == {
        "depth": 2, "embed_dim": 16, "img_size": 16, "mlp_ratio": 4.0, "num_heads": 2, "patch_size": 4
    }  # fmt: skip
    assert card["class_names"] == ["cat", "dog", "owl"]
    assert sum(tensor.numel() for tensor in load_file("tiny.safetensors").values()) == card["parameters"]
    refused("tiny.safetensors exists", "pretrain", "--data", "photos", "--out", "tiny.safetensors", "--steps", "1")
    refused("must end in .safetensors", "pretrain", "--data", "photos", "--out", "tiny.pth", "--steps", "1")
    refused("steps='0'", "pretrain", "--data", "photos", "--out", "zero.safetensors", "--steps", "0")


# ---- interrupted runs ------------------------------------------------------------------------------------------------------

LONG = ("--steps", "120", "--batch-size", "6", "--eval-every", "30", "--checkpoint-every", "1", "--test-fraction", "0")


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LINE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    """Until a checkpoint at or behind `step` lies there."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        names = [path.name for path in run.glob("checkpoints/step-*")]
        if any(int(name.rpartition("-")[2]) >= step for name in names):
            return
        assert process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(0.005)
    raise AssertionError(f"{run} did not come to step {step}")


def test_an_interrupted_then_killed_run_ends_as_an_unbroken_one(place: Path) -> None:
    command = ("fit", "vpt", "--data", "photos", *BACKBONE, *LONG)
    good(*command, "--out", "unbroken")
    process = start(*command, "--out", "broken")
    wait_for_step(process, Path("broken"), 3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopped by SIGINT; continue with `resume broken`" in said
    assert "Traceback" not in said
    assert json.loads(Path("broken", "run.json").read_text())["status"] == "interrupted"
    reached = max(int(p.name.rpartition("-")[2]) for p in Path("broken").glob("checkpoints/step-*"))
    assert 3 <= reached < 100
    process = start("resume", "broken")
    wait_for_step(process, Path("broken"), reached + 3)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not Path("broken", "tuned").exists()
    refused("broken already holds a run", *command, "--out", "broken")
    good("resume", "broken")
    assert weights("broken") == weights("unbroken")
    assert json.loads(Path("broken", "run.json").read_text())["status"] == "finished"
    steps = [json.loads(line) for line in Path("broken", "metrics.jsonl").read_text().splitlines()]
    whole = [json.loads(line) for line in Path("unbroken", "metrics.jsonl").read_text().splitlines()]
    assert [(r["split"], r["step"]) for r in steps] == [(r["split"], r["step"]) for r in whole]
    refused("broken is finished; use it with `pt-vision predict broken IMAGE...`", "resume", "broken")


def test_resume_wants_the_same_data(place: Path) -> None:
    make_folder(place / "moving", {"": {"x": 4, "y": 4}})
    good("fit", "linear", "--data", "moving", *BACKBONE, *SHORT, "--out", "moved")
    status = json.loads(Path("moved", "run.json").read_text())
    Path("moved", "run.json").write_text(json.dumps({**status, "status": "interrupted"}))
    make_folder(place / "moving", {"": {"z": 4}})
    refused("the data of role 'train' changed since moved started", "resume", "moved")
