"""What users get wrong: one line each that says what and what to do, exit status 2, and nothing left behind."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from pt_vision import load
from safetensors.torch import save_file

from tests.command import good, pt_vision, refused
from tests.vision.nets import randomise
from tests.vision.pictures import make_folder
from tests.workspace.conftest import BACKBONE, TINY

FIT = ("fit", "vpt", "--data", "photos", *BACKBONE, "--steps", "2", "--out", "new")


def changed(*flags: str, method: str = "vpt") -> tuple[str, ...]:
    """FIT with other values behind some flags; a flag that FIT lacks is added."""
    words = list(FIT)
    words[1] = method
    for flag, value in zip(flags[::2], flags[1::2], strict=True):
        if flag in words:
            words[words.index(flag) + 1] = value
        else:
            words += [flag, value]
    return tuple(words)


# ---- the command line itself -----------------------------------------------------------------------------------------------

TYPED: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown command": (("fti", "vpt"), "No such command 'fti'"),
    "unknown method": (("fit", "vtp"), r"pt-vision has no method 'vtp' \(did you mean 'vpt'\?\); known: coda, coop, dvpt, dvpt_seg, full"),
    "method of another package": (("fit", "pt-graph/gpf"), "pt-vision has no method 'pt-graph/gpf'"),
    "unknown demo": (("demo", "digts"), r"no demo 'digts' \(did you mean 'digits'\?\); known: digits"),
    "unknown recipe": (changed("--recipe", "vpt-official"), "no recipe 'vpt-official'; known: coda-official, dvpt-medical"),
    "recipe of another method": (changed("--recipe", "dvpt-medical"), "recipe 'dvpt-medical' is for 'dvpt', not for 'vpt'"),
    "typo in a flag": (changed("--promt-length", "3"), r"unknown option '--promt-length' \(did you mean '--prompt-length'\?\)"),
    "typo in another command": (("predict", "a", "photos", "--jsn"), r"unknown option '--jsn' \(did you mean '--json'\?\)"),
    "leftover word": ((*FIT, "photos2"), "unexpected argument 'photos2'"),
    "not a number": (changed("--lr", "fast"), "lr='fast': input should be a valid number"),
    "out of range": (changed("--batch-size", "0"), "batch_size='0': input should be greater than or equal to 1"),
    "unknown choice": (changed("--optimizer", "adamax"), "optimizer='adamax': input should be 'adamw', 'adam', 'sgd' or 'adafactor'"),
    "contradiction": ((*FIT, "--mode", "shallow", "--depth", "1"), "depth, shared and reverse_depth belong to mode='deep'"),
    "missing config": (changed("--config", "nowhere.yaml"), "config file nowhere.yaml does not exist"),
    "config that is no mapping": (changed("--config", "list.yaml"), "list.yaml must hold a mapping"),
    "unknown key in a config": (changed("--config", "odd.yaml"), r"unknown option 'leraning_rate'"),
    "no data": (("fit", "vpt", "--out", "new"), "--data is missing"),
    "wrong path": (changed("--data", "nowhere"), "nowhere"),
    "wrong builtin": (changed("--data", "builtin:digit"), r"no built-in data 'digit' \(did you mean 'digits'\?\)"),
    "role that is not needed instead of the one that is": (
        changed("--data", "trian=photos"), r"names role 'trian' \(did you mean 'train'\?\); this method has: train, val, test"
    ),
    "a role twice": ((*FIT, "--data", "photos"), "--data gives role 'train' twice"),
    "backbone role": (changed("--backbone", "teacher=builtin:vit_glyphs"), "names role 'teacher'; this method has: backbone"),
    "unknown backbone kind": (changed("--backbone", "vit_small"), "'vit_small' is of no known kind; use timm:NAME"),
    "unknown timm name": (changed("--backbone", "timm:vit_smal_patch16_224"), r"timm has no model.*did you mean 'vit_small_patch16_224'"),
    "unknown weights of it": (
        changed("--backbone", "timm:vit_small_patch16_224.augreg_in12k"), "has no weights 'augreg_in12k'.*known: "
    ),
    "unknown builtin": (changed("--backbone", "builtin:vit_glyph"), r"did you mean 'vit_glyphs'"),
    "backbone file": (changed("--backbone", "file:nowhere.safetensors"), "nowhere.safetensors does not exist; make it with"),
    "weights file": (changed("--backbone", "timm:test_vit", "--weights", "no.safetensors"), "--weights no.safetensors does not exist"),
    "weights with a builtin": (
        changed("--backbone", "builtin:vit_glyphs", "--weights", "tiny.safetensors"), "brings its own weights"
    ),
    "more shots than images": ((*changed("--shots", "9"), "--exact-shots"), "9.*cat|cat.*9"),
    "depth of the network": (changed("--depth", "3"), "depth=3 exceeds the 2 blocks of 'file:tiny.safetensors'"),
    "image size": (changed("--image-size", "15"), "image_size=15x15 is not a multiple of the patch size 4x4"),
    "half precision on the CPU": (changed("--precision", "fp16", "--device", "cpu"), "fp16"),
    "unknown device": (changed("--device", "gpu"), "device='gpu': input should be 'auto', 'cpu', 'cuda' or 'mps'"),
    "out is a run": (changed("--out", "a"), r"a already holds a run; choose another --out, or continue it with `resume a`"),
    "out is a file": (changed("--out", "tiny.json"), "tiny.json is a file; name a folder"),
    "search without values": (changed("--search", "lr"), "lr"),
    "search of an unknown option": (changed("--search", "rl=1,2"), r"unknown option 'rl'"),
    "predict without a run": (("predict", "photos/cat/0.png"), "'photos/cat/0.png' is not a run folder; usage: predict RUN IMAGE"),
    "predict with a flag that is not there": (("predict", "a", "--quick", "photos"), "unknown option '--quick'"),
    "the flag in front of the run": (("predict", "--ensembl", "a", "photos"), r"'--ensembl' \(did you mean '--ensemble'\?\)"),
    "a typo with its value": (("predict", "a", "photos", "--batch-sze", "3"), r"'--batch-sze' \(did you mean '--batch-size'\?\)"),
    "eval with a flag in front of the run": (("eval", "--quick", "a", "--data", "photos"), "unknown option '--quick'"),
    "eval of two runs": (("eval", "a", "b", "--data", "photos"), "unexpected argument 'b'"),
    "predict with a flag and without a run": (("predict", "photos", "--quick", "a.png"), "'photos' is not a run folder"),
    "predict without an image": (("predict", "a"), "no IMAGE given; usage: predict RUN IMAGE"),
    "predict a missing image": (("predict", "a", "photos/cat/99.png"), "photos/cat/99.png"),
    "predict a folder without images": (("predict", "a", "empty"), "empty"),
    "predict a text": (("predict", "a", "odd.yaml"), "1 of 1 images cannot be read: odd.yaml \\(not an image\\)"),
    "predict into another type": (("predict", "a", "photos", "--out", "p.txt"), "p.txt must end in .csv, .jsonl or .parquet"),
    "predict into a folder": (("predict", "a", "photos", "--out", "dir.csv"), "dir.csv is a folder; name a file"),
    "two runs without a route": (("predict", "a", "b", "photos"), "several runs need either --route COLUMN"),
    "two runs both ways": (("predict", "a", "b", "photos", "--ensemble", "--route", "run"), "several runs need either"),
    "an ensemble of one": (("predict", "a", "photos", "--ensemble"), "--ensemble is the mean of several runs"),
    "a route for one run": (("predict", "a", "photos", "--route", "run"), "--route chooses among several runs"),
    "a route without a table": (("predict", "a", "b", "photos", "--route", "run"), "photos is not a file"),
    "a route to nowhere": (("predict", "a", "b", "routes.csv", "--route", "run"), "unknown run 'd'; loaded: a, b"),
    "a route column that is not there": (("predict", "a", "b", "routes.csv", "--route", "tenant"), "no column 'tenant'; it has: path, run"),
    "eval of a part that is not there": (("eval", "a", "--data", "photos"), "photos has no part 'test'; it has: train"),
    "eval with other classes": (("eval", "a", "--data", "others", "--role", "train"), "not among the known ones: 'elk', 'fox'"),
    "resume of nothing": (("resume", "photos"), "photos is not a run folder"),
    "resume of a finished run": (("resume", "a"), "a is finished"),
    "info of nothing": (("info", "photos"), "photos"),
    "compare of nothing": (("compare", "a", "photos"), r"photos is not a run folder \(no run.json\)"),
    "export onto something": (("export", "a", "--out", "b"), "b exists; choose another --out"),
    "pretrain of an odd shape": (
        ("pretrain", "--data", "photos", "--out", "x.safetensors", "--embed-dim", "16", *TINY[:4]), "embed_dim=16 is not a multiple"
    ),
    "start from another method": (
        ("fit", "linear", "--data", "photos", *BACKBONE, "--init-from", "a", "--out", "new"),
        "a/tuned holds a 'vpt', 'linear' cannot start from it",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def desk(place: Path) -> Path:
    """What the table needs besides the runs."""
    Path("list.yaml").write_text("- 1\n")
    Path("odd.yaml").write_text("leraning_rate: 1\n")
    Path("empty").mkdir()
    Path("dir.csv").mkdir()
    Path("routes.csv").write_text("path,run\nphotos/cat/0.png,a\nphotos/cat/1.png,d\n")
    make_folder(place / "others", {"": {"elk": 2, "fox": 2}})
    return place


@pytest.mark.parametrize("name", TYPED)
def test_a_mistake_costs_one_line_and_leaves_nothing(name: str, desk: Path) -> None:
    arguments, message = TYPED[name]
    before = {path: path.stat().st_mtime_ns for path in desk.rglob("*") if "cache" not in path.parts}
    outcome = refused(message, *arguments)
    assert len(outcome.errors) == 1, outcome.errors
    assert {path: path.stat().st_mtime_ns for path in desk.rglob("*") if "cache" not in path.parts} == before


def test_several_problems_are_reported_together(desk: Path) -> None:
    flags = (
        "--stps",
        "3",
        "--lr",
        "fast",
        "--mode",
        "deeper",
        "--prompt-length",
        "-1",
        "--val-fraction",
        "2",
        "--shots",
        "no",
    )
    outcome = refused("unknown option '--stps'", *FIT, *flags)
    for name in ("--stps", "lr='fast'", "mode='deeper'", "prompt_length='-1'", "val_fraction='2'", "shots='no'"):
        assert sum(name in line for line in outcome.errors) == 1, name
    assert len(outcome.errors) == 6


def test_wrong_paths_and_names_are_reported_together_with_the_rest(desk: Path) -> None:
    """Names are looked up and paths looked for before anything is read, so the fifth mistake does not wait for the fourth to be mended."""
    wrong = {
        "--data": ("nowhere", "--data 'nowhere' does not exist"),
        "--backbone": ("timm:vit_smal_patch16_224", "timm has no model 'vit_smal_patch16_224' (did you mean"),
        "--recipe": ("vpt-official", "no recipe 'vpt-official'"),
        "--stps": ("3", "unknown option '--stps' (did you mean '--steps'?)"),
        "--out": ("tiny.json/run", "--out tiny.json/run: "),
    }
    before = sorted(path for path in desk.rglob("*") if "cache" not in path.parts)
    outcome = refused("", "fit", "vpt", *(word for flag, (value, _) in wrong.items() for word in (flag, value)))
    for _, message in wrong.values():
        assert sum(message in line for line in outcome.errors) == 1, message
    assert len(outcome.errors) == len(wrong)
    assert sorted(path for path in desk.rglob("*") if "cache" not in path.parts) == before


def test_all_unknown_flags_of_a_prediction_are_told_together(desk: Path) -> None:
    outcome = refused("", "predict", "a", "--quick", "photos", "--class-nmes", "x,y", "--fast=yes")
    assert outcome.errors == [
        "unknown option '--quick'",
        "unknown option '--class-nmes' (did you mean '--class-names'?)",
        "unknown option '--fast'",
    ]


def test_debug_shows_the_traceback_of_a_mistake(desk: Path) -> None:
    outcome = pt_vision("--debug", *changed("--data", "nowhere"))
    assert outcome.status == 2
    assert "Traceback" in outcome.err
    assert len(outcome.errors) == 1


# ---- images ----------------------------------------------------------------------------------------------------------------


def test_corrupt_images_are_listed_by_name_or_counted(desk: Path) -> None:
    folder = make_folder(desk / "worn", {"": {"cat": 6, "dog": 6}})
    (folder / "cat" / "1.png").write_bytes(b"no image")
    whole = (folder / "dog" / "2.png").read_bytes()
    (folder / "dog" / "2.png").write_bytes(whole[: len(whole) // 2])
    (folder / "dog" / "3.png").write_bytes(b"")
    fit = changed("--data", "worn", "--test-fraction", "0")
    outcome = refused(
        r"3 of 12 images cannot be read: cat/1\.png \(not an image\), dog/2\.png \(truncated\), dog/3\.png \(empty\)",
        *fit,
    )
    assert "--skip-bad" in outcome.errors[0]
    assert not Path("new").exists()
    said = good(*changed("--data", "worn", "--test-fraction", "0", "--out", "skipped"), "--skip-bad")
    assert "3 of 12 images of worn cannot be read and are left out" in said.err
    status = json.loads(Path("skipped", "run.json").read_text())
    assert sum(status["data"]["counts"].values()) == 9
    assert any("left out" in note for note in status["notes"])


def one_class(folder: Path) -> None:
    make_folder(folder, {"": {"cat": 6}})


def empty_class(folder: Path) -> None:
    make_folder(folder, {"": {"cat": 6, "dog": 6}})
    (folder / "elk").mkdir()


def no_classes(folder: Path) -> None:
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.png")


def unknown_class_in_test(folder: Path) -> None:
    make_folder(folder, {"train": {"cat": 6, "dog": 6}, "test": {"cat": 2, "dgo": 2}})


def no_label_column(folder: Path) -> None:
    make_folder(folder, {"": {"cat": 2}})
    (folder / "table.csv").write_text("path,kind\ncat/0.png,cat\n")


def missing_files(folder: Path) -> None:
    make_folder(folder, {"": {"cat": 2}})
    (folder / "table.csv").write_text("path,label\ncat/0.png,cat\ncat/7.png,dog\n")


def leaking_group(folder: Path) -> None:
    make_folder(folder, {"": {"cat": 2, "dog": 2}})
    rows = [f"{name}/{n}.png,{name},ann" for name in ("cat", "dog") for n in range(2)]
    (folder / "table.csv").write_text("\n".join(["path,label,patient", *rows]) + "\n")


def long_class_name(folder: Path) -> None:
    make_folder(folder, {"": {"cat": 2}})
    (folder / "table.csv").write_text("path,label\ncat/0.png,cat\ncat/1.png," + "d" * 1001 + "\n")


def tab_in_a_class_name(folder: Path) -> None:
    make_folder(folder, {"": {"cat": 4, "do\tg": 4}})


DATA: dict[str, tuple[Callable[[Path], None], str, tuple[str, ...], str]] = {
    "one class": (one_class, "", (), "at least 2 classes, the data have 1 \\('cat'\\)"),
    "empty class folder": (empty_class, "", (), "elk holds no image; remove it or add images"),
    "pictures without class folders": (no_classes, "", (), "has no class folders; expected"),
    "a class only tests have": (unknown_class_in_test, "", (), r"training part lacks: 'dgo' \(did you mean 'dog'\?\)"),
    "label column": (no_label_column, "/table.csv", (), "--label-column"),
    "misspelt column": (no_label_column, "/table.csv", ("--label-column", "knd"), r"'knd' \(did you mean 'kind'\?\)"),
    "files a table names": (missing_files, "/table.csv", (), r"1 of 2 images cannot be read: cat/7\.png \(does not exist\)"),
    "long class name": (long_class_name, "/table.csv", (), r"class name 'd{60}'\.\.\. has 1,001 characters, more than 1,000"),
    "control character in a class name": (tab_in_a_class_name, "", (), r"class name 'do\\tg' holds the control character '\\t'; rename it"),
    "a single group": (leaking_group, "/table.csv", ("--group-column", "patient"), "patient|group"),
    "a condition nothing meets": (leaking_group, "/table.csv", ("--where", "patient=bob"), r"never is 'bob'; it holds ann"),
    "columns of a folder": (one_class, "", ("--group-column", "patient"), "is a folder and has no columns"),
}  # fmt: skip


@pytest.mark.parametrize("name", DATA)
def test_data_that_cannot_be_used(name: str, desk: Path, tmp_path: Path) -> None:
    make, path, flags, message = DATA[name]
    make(tmp_path / "data")
    outcome = refused(message, *changed("--data", f"{tmp_path / 'data'}{path}"), *flags)
    assert len(outcome.errors) == 1
    assert not Path("new").exists()


def test_a_class_with_one_image(desk: Path, tmp_path: Path) -> None:
    """It cannot be split off nor, with --exact-shots, drawn twice; with parts of the user's own it can be trained on."""
    folder = make_folder(tmp_path / "rare", {"": {"cat": 8, "dog": 8, "elk": 1}})
    refused("cannot split: every class needs 2 samples or more, but elk has 1", *changed("--data", str(folder)))
    divided = make_folder(
        tmp_path / "own", {"train": {"cat": 8, "dog": 8, "elk": 1}, "val": {"cat": 2, "dog": 2, "elk": 1}}
    )
    fit = changed("--data", str(divided), "--out", str(tmp_path / "run"))
    refused("elk has 1|elk.*1", *fit, "--shots", "2", "--exact-shots")
    assert not (tmp_path / "run").exists()
    assert "classes with fewer than 5 training samples: elk (1)" in good(*fit).err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["classes"] == ["cat", "dog", "elk"]


# ---- backbones -------------------------------------------------------------------------------------------------------------


def test_a_prompt_on_another_backbone_names_both(desk: Path) -> None:
    good("pretrain", "--data", "photos", "--out", "other.safetensors", "--steps", "1", "--seed", "3", *TINY)
    other = ("--backbone", "file:other.safetensors")
    for command in (
        ("predict", "a", "photos"),
        ("eval", "a", "--data", "photos", "--role", "train"),
        ("export", "a", "--out", "moved"),
    ):
        outcome = refused("--allow-backbone-mismatch", *command, *other)
        assert "file:tiny.safetensors" in outcome.errors[0]
        assert "file:other.safetensors" in outcome.errors[0]
        assert not Path("moved").exists()
    allowed = good("export", "a", "--out", "moved", *other, "--allow-backbone-mismatch")
    note = next(line for line in allowed.err.splitlines() if "other.safetensors" in line)
    assert note in json.loads(Path("moved", "card.json").read_text())["notes"]  # recorded
    assert len(good("predict", "a", "photos/cat", *other, "--allow-backbone-mismatch").out.splitlines()) == 8
    from_other = changed("--init-from", "a", "--out", "on", "--prompt-length", "2")
    refused("file:other.safetensors", *[w if w != "file:tiny.safetensors" else other[1] for w in from_other])


def test_a_damaged_artifact_is_refused(desk: Path) -> None:
    good("export", "a", "--out", "bent")
    path = Path("bent", "weights.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    refused("weights.safetensors has sha256 .* the file is damaged", "predict", "bent", "photos")


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_not_run(desk: Path, tmp_path: Path) -> None:
    torch.save({"model": Bomb(tmp_path / "boom")}, tmp_path / "evil.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    for name in ("evil.pth", "raw.pth"):
        outcome = refused(
            "loading it would run code, which is refused",
            *changed("--backbone", "timm:test_vit", "--weights", str(tmp_path / name)),
        )
        assert "Bomb" not in outcome.errors[0] or "run code" in outcome.errors[0]
    assert not (tmp_path / "boom").exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert (tmp_path / "boom").exists()  # it would have


def weights_of(name: str, path: Path) -> tuple[str, ...]:
    """Flags for a timm model with random weights in a local file."""
    import timm

    save_file(randomise(timm.create_model(name)).state_dict(), path)
    return ("--backbone", f"timm:{name}", "--weights", str(path))


def test_a_swin_is_sent_to_the_variant_that_is_defined_there(desk: Path, tmp_path: Path) -> None:
    config = {
        "architecture": "swin_tiny_patch4_window7_224",
        "model_args": {
            "img_size": 32,
            "patch_size": 4,
            "embed_dim": 8,
            "depths": [1, 1],
            "num_heads": [1, 2],
            "window_size": 4,
        },
    }
    import timm

    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, **config["model_args"])
    folder = tmp_path / "swin"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: t.float() for name, t in randomise(model).state_dict().items()}, folder / "model.safetensors")
    backbone = f"local:{folder}"
    refused(
        "variant='paper' is undefined on .*, which has stages; use variant='code_swin'",
        *changed("--backbone", backbone, method="dvpt"),
    )
    run = str(tmp_path / "run")
    good(
        *changed("--backbone", backbone, "--variant", "code_swin", "--prompt-length", "2", "--out", run, method="dvpt")
    )
    assert load(run).method.config.variant == "code_swin"


def test_weights_of_another_network_are_refused(desk: Path, tmp_path: Path) -> None:
    flags = weights_of("test_vit", tmp_path / "vit.safetensors")
    outcome = refused(
        "does not fit VisionTransformer|check the model name", *changed("--backbone", "timm:test_vit2", *flags[2:])
    )
    assert re.search(r"test_vit|vit\.safetensors", outcome.errors[0])


def test_no_run_is_left_when_the_disk_refuses(desk: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused("file", *changed("--out", str(tmp_path / "file" / "run")))
