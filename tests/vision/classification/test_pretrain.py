"""Pretraining a small backbone: deterministic, described by its card, refused where it makes no sense; and the file we ship."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pt_core.errors import ConfigError, DataError, NonFiniteError, UserError
from pt_vision import load_backbone
from pt_vision.classification.pretrain.config import PretrainConfig
from pt_vision.classification.pretrain.images import ImageSource, keyed
from pt_vision.classification.pretrain.run import pretrain
from pt_vision.classification.pretrain.train import accuracy_of, train
from pt_vision.networks.files import build_vit, read_backbone
from pt_vision.networks.names import builtin_path
from pt_vision.options import PretrainOptions
from safetensors import safe_open
from torch import Tensor

from tests.vision.pictures import picture

TINY = PretrainConfig(img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2, steps=6, batch_size=8, lr=0.01)
CPU = torch.device("cpu")


def images(count: int = 12, classes: int = 3) -> list[tuple[Image.Image, int]]:
    return [(Image.fromarray(picture(number)), number % classes) for number in range(count)]


class Squares:
    """Two classes that one look tells apart."""

    class_names = ("dark", "light")

    def batch(self, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = torch.randint(2, (size,), generator=rng)
        return (0.3 + 0.4 * labels.view(-1, 1, 1, 1) + 0.1 * torch.rand(size, 3, 16, 16, generator=rng)), labels

    def held_out(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield self.batch(64, torch.Generator().manual_seed(99))


# ---- training ------------------------------------------------------------------------------------------------------------


def test_equal_configurations_give_equal_bytes_and_seeds_differ(tmp_path: Path) -> None:
    for name, config in (("a", TINY), ("b", TINY), ("c", replace(TINY, seed=1))):
        pretrain(config, tmp_path / f"{name}.safetensors", images(), progress=False)
    a, b, c = ((tmp_path / f"{name}.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    assert not list(tmp_path.glob(".*"))


def test_the_callers_random_numbers_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    pretrain(replace(TINY, steps=1), tmp_path / "a.safetensors", images(), progress=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_it_learns_what_can_be_learned() -> None:
    model, losses = train(replace(TINY, steps=40), Squares(), CPU, progress=False)
    assert np.mean(losses[-5:]) < 0.5 < losses[0] + 0.1
    assert accuracy_of(model, Squares(), CPU) > 0.95


def test_a_loss_that_explodes_stops_by_name() -> None:
    class Broken(Squares):
        def batch(self, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
            x, labels = super().batch(size, rng)
            return x / 0, labels

    with pytest.raises(NonFiniteError, match="the loss became nan at step 0; lower lr=0.01"):
        train(TINY, Broken(), CPU, progress=False)


def test_the_report_and_the_card_say_what_was_done(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "net.safetensors"
    report = pretrain(replace(TINY, holdout=0.25), out, images(16), ["x", "y", "z"], progress=False)
    model, card = read_backbone(out)
    assert report.parameters == card["parameters"] == sum(p.numel() for p in model.parameters())
    assert (report.classes, card["class_names"], report.out) == (3, ["x", "y", "z"], out)
    assert 0 <= report.held_out_accuracy <= 1
    assert card["results"]["held_out_accuracy"] == round(report.held_out_accuracy, 4)
    assert card["recipe"]["steps"] == 6
    assert card["data"] == "user images"
    with safe_open(out, framework="pt") as file:
        assert json.loads(file.metadata()["pt_vision"]) == json.loads(out.with_suffix(".json").read_text())
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
        assert not [name for name in file.keys() if name.startswith("head.")]  # noqa: SIM118
    assert card["model"]["embed_dim"] == 16
    assert not model.training


def test_held_out_images_are_never_drawn() -> None:
    source = ImageSource(images(20, 2), replace(TINY, holdout=0.25), None)
    assert len(source.out_rows) == 5
    assert not set(source.out_rows.tolist()) & set(source.train_rows.tolist())
    assert len(set(source.train_rows.tolist())) == 15
    shown, labels = next(iter(source.held_out()))
    assert shown.shape == (5, 3, 16, 16)
    assert torch.equal(labels, source.labels[source.out_rows])
    assert shown.min() >= 0
    assert shown.max() <= 1


def test_a_batch_is_a_function_of_its_generator() -> None:
    source = ImageSource(images(), TINY)
    (x, y), (again, labels) = (source.batch(8, keyed(0, 3)) for _ in range(2))
    assert torch.equal(x, again)
    assert torch.equal(y, labels)
    assert not torch.equal(x, source.batch(8, keyed(0, 4))[0])
    assert x.shape == (8, 3, 16, 16)
    assert x.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_size": 20}, "img_size=20 is not a multiple of patch_size=8"),
        ({"embed_dim": 15}, "embed_dim=15 is not a multiple of num_heads=2"),
        ({"steps": 0}, "steps=0 must be above 0"),
        ({"batch_size": 1}, "batch_size=1 must be at least 2"),
        ({"warmup": 1.0}, r"warmup=1.0 is outside \[0, 1\)"),
        ({"holdout": 0.6}, r"holdout=0.6 is outside \[0, 0.5\]"),
        ({"precision": "fp8"}, "precision='fp8' must be"),
        ({"seed": -1, "lr": 0.0}, "lr=0.0 must be above 0; seed=-1"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **changes)


@pytest.mark.parametrize(
    ("data", "names", "message"),
    [
        ([], None, "no images to pretrain on"),
        ([(Image.new("RGB", (8, 8)), 0)] * 3, None, "all images have the same label"),
        (images(), ["a", "b"], "labels run from 0 to 2, but there are 2 class names"),
    ],
)
def test_images_that_do_not_do(data: Any, names: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ImageSource(data, TINY, names)


def test_another_suffix_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must end in .safetensors"):
        pretrain(TINY, tmp_path / "net.pth", images())
    assert not list(tmp_path.iterdir())


# ---- the file we ship ----------------------------------------------------------------------------------------------------


def test_the_shipped_backbone_is_what_the_defaults_make() -> None:
    path = builtin_path("vit_glyphs")
    assert path.stat().st_size < 5_000_000
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    defaults = PretrainConfig()
    for field in fields(PretrainConfig):
        made = {**card["recipe"], **card["model"]}[field.name]
        assert made == getattr(defaults, field.name), f"{field.name}: the file was made with {made}"
    for field in fields(PretrainOptions):  # and so does `pt-vision pretrain --out FILE`
        if hasattr(defaults, field.name):
            assert field.default in (None, getattr(defaults, field.name)), field.name  # None: the recipe's own
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["pt_vision"]) == card
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert sum(tensor.numel() for tensor in tensors.values()) == card["parameters"] == 1_889_760
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_the_shipped_backbone_saw_no_digits_and_is_no_random_network() -> None:
    card = json.loads(builtin_path("vit_glyphs").with_suffix(".json").read_text(encoding="utf-8"))
    glyphs = [name.partition(":")[2] for name in card["class_names"] if name.startswith("glyph:")]
    assert len(glyphs) > 100
    assert not [name for name in glyphs if any(character.isdecimal() for character in name)]
    assert not set("OIlЗЭ") & set("".join(glyphs))
    assert card["results"]["held_out_accuracy"] > 20 / len(card["class_names"])
    backbone = load_backbone("builtin:vit_glyphs")
    assert 1 + backbone.grid[0] * backbone.grid[1] <= 20  # tokens


@pytest.mark.slow
def test_the_shipped_features_tell_digits_apart_and_random_ones_do_less() -> None:
    from pt_vision.data.load import load_images
    from sklearn.linear_model import LogisticRegression

    parts = load_images("builtin:digits")
    scores = []
    for shuffled in (False, True):
        backbone = load_backbone("builtin:vit_glyphs")
        if shuffled:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                fresh = build_vit(json.loads(builtin_path("vit_glyphs").with_suffix(".json").read_text())["model"])
            backbone.module.load_state_dict(fresh.state_dict())
        found = {}
        for role in ("train", "test"):
            bound = parts[role].bind(backbone.preprocessing)
            x = torch.stack([bound.sample(row, epoch=None, seed=0) for row in range(len(bound))])
            with torch.no_grad():
                found[role] = backbone.pool(backbone(x)).numpy()
        classifier = LogisticRegression(max_iter=500, C=0.1).fit(found["train"], parts["train"].labels)
        scores.append(classifier.score(found["test"], parts["test"].labels))
    assert scores[0] > 0.93
    assert scores[0] > scores[1] + 0.02
