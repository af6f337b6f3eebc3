"""The Python API: its public names, the same runs as the command line, mixed batches, errors."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path

import numpy as np
import pt_vision
import pytest
import torch
from PIL import Image
from pt_core.errors import BackboneMismatch, ConfigError, DataError, UserError
from pt_core.run.command.api import Run

from tests.command import good
from tests.vision.pictures import encoded, make_folder, picture

PUBLIC = {
    "DVPT", "DVPTConfig", "DataOptions", "FullConfig", "FullFineTuning", "ImageDataset", "LinearConfig", "LinearProbe", "VPT",
    "VPTConfig", "VPTPixel", "VPTPixelConfig", "__version__", "fit", "list_backbones", "load", "load_backbone", "load_images",
    "load_many", "CoDA", "CoDAConfig", "DVPTSeg", "DVPTSegConfig", "LinearSegConfig", "LinearSegProbe", "Segmentation",
    "SegmentationDataset", "SelfTraining", "SelfTrainingConfig", "SourceOnly", "SourceOnlyConfig", "wrap", "study", "CoOp", "CoOpConfig",
    "ZeroShot", "ZeroShotConfig",
}  # fmt: skip
SHORT = {"steps": 4, "batch_size": 6, "eval_every": 2, "test_fraction": 0.0, "quiet": True}


def test_the_public_names_are_these() -> None:
    assert set(pt_vision.__all__) == PUBLIC
    for name in PUBLIC - {"__version__"}:
        value = getattr(pt_vision, name)
        assert callable(value)
        assert value.__doc__ or is_dataclass(value), name
    with pytest.raises(AttributeError, match="pt_vision attribute vpt"):
        _ = pt_vision.vpt


def test_every_method_is_exported_with_its_configuration() -> None:
    from pt_vision.modality import Vision

    for name in Vision.registry.infos():
        cls = Vision.registry.load(name)
        assert getattr(pt_vision, cls.__name__) is cls
        assert getattr(pt_vision, cls.Config.__name__) is cls.Config


def test_signatures() -> None:
    fit = ["method", "data", "backbone", "out", "recipe", "quiet", "options"]
    assert list(inspect.signature(pt_vision.fit).parameters) == fit
    assert list(inspect.signature(pt_vision.load).parameters) == ["run", "options"]
    assert list(inspect.signature(pt_vision.load_many).parameters) == ["runs", "options"]
    assert list(inspect.signature(pt_vision.load_backbone).parameters) == ["spec", "weights", "image_size", "device"]


# ---- runs ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PT_CACHE", str(folder / "cache"))
        make_folder(folder / "photos", {"": {"cat": 6, "dog": 6}})
        yield folder


@pytest.fixture(scope="module")
def backbone(place: Path) -> pt_vision.load_backbone:
    return pt_vision.load_backbone("builtin:vit_glyphs")


@pytest.fixture(scope="module")
def runs(place: Path, backbone: object) -> dict[str, Run]:
    return {
        name: pt_vision.fit(method, data="photos", backbone=backbone, out=name, **SHORT, **options)
        for name, method, options in (
            ("a", "vpt", {"lr": 20.0}),
            ("b", "vpt", {"lr": 20.0, "seed": 1}),
            ("c", "dvpt", {"lr": 0.1, "prompt_length": 3}),
        )
    }


def test_a_run_holds_its_folder_and_numbers(place: Path, runs: dict[str, Run]) -> None:
    run = runs["a"]
    assert run.path == Path("a")
    assert run.info["status"] == "finished"
    assert set(run.metrics) >= {"accuracy", "macro_f1", "nll"}
    assert run.metrics == run.info["results"]["val"]
    assert run.info["parameters"]["tuned"] == 6 * 5 * 160 + 2 * 160 + 2


def test_classes_have_texts_in_the_card_the_notes_and_info(place: Path, backbone: object) -> None:
    labels = sorted(folder.name for folder in Path("photos").iterdir())
    Path("words.json").write_text(json.dumps({name: f"drawing of {name}" for name in labels}))
    run = pt_vision.fit("vpt", data="photos", backbone=backbone, out="worded", class_names="words.json", **SHORT)
    task = json.loads((run.path / "tuned" / "card.json").read_text())["task"]
    assert task["labels"] == labels
    assert task["class_words"] == {name: f"drawing of {name}" for name in labels}
    assert sum("class names are read in words" in note for note in run.info["notes"]) == 1
    assert pt_vision.load("worded").method.task.class_words() == [f"drawing of {name}" for name in labels]
    assert f"{labels[0]} (drawing of {labels[0]})" in good("info", "worded").out
    Path("short.txt").write_text("".join(f"{name}\n" for name in labels[:-1]))
    with pytest.raises(ConfigError, match=f"no line for class '{labels[-1]}'"):
        pt_vision.fit("vpt", data="photos", backbone=backbone, out="short", class_names="short.txt", **SHORT)
    assert not Path("short").exists()


def test_it_is_the_run_of_the_command_line(place: Path, runs: dict[str, Run]) -> None:
    flags = ("--steps", "4", "--batch-size", "6", "--eval-every", "2", "--test-fraction", "0", "--lr", "20")
    good("fit", "vpt", "--data", "photos", *flags, "--out", "typed")
    typed = Path("typed", "tuned", "weights.safetensors").read_bytes()
    assert typed == (runs["a"].path / "tuned" / "weights.safetensors").read_bytes()
    named = pt_vision.fit("vpt", data="photos", backbone="builtin:vit_glyphs", lr=20.0, **SHORT)
    assert named.path == Path("runs", "vpt-1")
    assert typed == (named.path / "tuned" / "weights.safetensors").read_bytes()


def test_predict_takes_files_and_images_in_memory(place: Path, runs: dict[str, Run]) -> None:
    predictor = pt_vision.load(runs["a"])
    path = "photos/cat/0.png"
    want = predictor.predict(path)[0]
    tensor = torch.from_numpy(picture(0).copy()).permute(2, 0, 1)
    for item in (Path(path), encoded(0), picture(0), Image.open(path), tensor):
        (record,) = predictor.predict([item])
        assert record["predicted"] == want["predicted"]
        assert record["score"] == pytest.approx(want["score"], rel=1e-5)
    assert [record["id"] for record in predictor.predict(np.stack([picture(0), picture(1)]))] == ["image-0", "image-1"]
    assert len(predictor.predict("photos")) == 12
    stream = predictor.stream(["photos"], batch_size=2)
    assert next(stream)["id"] == "photos/cat/0.png"
    assert pt_vision.load("a/tuned").predict(path) == [want]


def test_a_mixed_batch_equals_one_by_one(place: Path, runs: dict[str, Run], backbone: object) -> None:
    images = [f"photos/{name}/{number}.png" for name in ("cat", "dog") for number in range(4)]
    for names in (["a", "b"], ["a", "b", "c"]):  # one forward, and grouped by run
        many = pt_vision.load_many([runs[name] for name in names], backbone=backbone)
        assert many.names == names
        assert all(p.method.backbone is many.backbones["backbone"] for p in many.predictors.values())
        routes = [names[number % len(names)] for number in range(len(images))]
        mixed = many.predict(images, routes, batch_size=3)
        for record, image, route in zip(mixed, images, routes, strict=True):
            (want,) = pt_vision.load(route, backbone=backbone).predict([image])
            assert record["predicted"] == want["predicted"]
            assert record["score"] == pytest.approx(want["score"], rel=1e-4)
    renamed = pt_vision.load_many({"left": "a", "right": "b"}, backbone=backbone)
    assert [r["run"] for r in renamed.predict(images[:2], ["right", "left"])] == ["right", "left"]


def test_a_run_is_tuned_further(place: Path, runs: dict[str, Run], backbone: object) -> None:
    on = pt_vision.fit("vpt", data="photos", backbone=backbone, init_from="a", out="on", **SHORT)
    assert on.info["status"] == "finished"


def test_errors(place: Path, runs: dict[str, Run], backbone: object) -> None:
    before = set(Path().iterdir())
    fit = pt_vision.fit
    with pytest.raises(ConfigError, match="unknown option 'promt_length'.*did you mean 'prompt_length'.*; lr=-1"):
        fit("vpt", data="photos", promt_length=3, lr=-1, out="new", quiet=True)
    with pytest.raises(UserError, match="no method 'vtp'"):
        fit("vtp", data="photos", out="new")
    with pytest.raises(UserError, match="nowhere"):
        fit("vpt", data="nowhere", out="new", quiet=True)
    with pytest.raises(UserError, match="a already holds a run"):
        fit("vpt", data="photos", out="a", quiet=True)
    with pytest.raises(ConfigError, match="names role 'teacher'|role 'teacher'"):
        fit("vpt", data="photos", backbone={"teacher": "builtin:vit_glyphs"}, out="new", quiet=True)
    with pytest.raises(UserError, match="photos"):
        pt_vision.load("photos")
    predictor = pt_vision.load("a", backbone=backbone)
    with pytest.raises(DataError, match="1 of 2 images cannot be read: gone.png"):
        predictor.predict(["photos/cat/0.png", "gone.png"])
    with pytest.raises(DataError, match="no input images"):
        predictor.predict([])
    with pytest.raises(DataError, match="image-0 .*0..1"):
        predictor.predict([np.full((4, 4), 3.0)])
    with pytest.raises(ConfigError, match="unknown option 'skip_bd'"):
        predictor.predict("photos", skip_bd=True)
    many = pt_vision.load_many(["a", "b"], backbone=backbone)
    with pytest.raises(UserError, match="2 routes for 1 inputs"):
        many.predict(["photos/cat/0.png"], ["a", "b"])
    with pytest.raises(UserError, match="unknown run 'z'; loaded: a, b"):
        many.predict(["photos/cat/0.png"], ["z"])
    with pytest.raises(UserError, match="two runs are called 'a'"):
        pt_vision.load_many(["a", "a/tuned"], backbone=backbone)
    with pytest.raises(UserError, match="at least one run"):
        pt_vision.load_many([])
    larger = pt_vision.load_backbone("builtin:vit_glyphs", image_size=64)
    with pytest.raises(BackboneMismatch, match="allow"):
        pt_vision.load("a", backbone=larger)
    with pytest.raises(DataError, match=r"call dataset.bind\(backbone.preprocessing\)"):
        pt_vision.load_images("photos")["train"].sample(0, epoch=None, seed=0)
    assert set(Path().iterdir()) == before
