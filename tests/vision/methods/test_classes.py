"""What of every method belongs to its classes: declared exactly, fresh where classes differ, and the reason why others are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pt_vision
import pytest
import torch
from pt_core import Method, Task
from pt_core.artifact import read_artifact
from pt_core.errors import ArtifactError, UserError
from pt_core.randomness import seeded
from pt_core.run.declare.options import build_all
from pt_core.run.tasks.classification import Classification
from pt_core.saving import card_of, save_artifact
from pt_core.stage import matches
from pt_vision.modality import Vision
from pt_vision.segmentation.task import Segmentation
from torch import Tensor

from tests.vision.methods.classification.common import tiny
from tests.vision.segmentation.common import WIDTH, tiny as tiny_mit

PIXELS = ("coda", "dvpt_seg", "linear_seg", "self_training", "source_only")
METHODS = [name for name, info in Vision.registry.infos().items() if info.extra != "clip"]  # those have their own tests
OPTIONS: dict[str, dict[str, Any]] = {"dvpt_seg": {"prompt_length": 4}, "dvpt": {"prompt_length": 3}}


def task(name: str, classes: int) -> Task:
    labels = [f"{'thing' if classes == 3 else 'other'} {number}" for number in range(classes)]
    return Segmentation(labels) if name in PIXELS else Classification(labels)


def make(name: str, classes: int, seed: int = 0, **options: Any) -> Method:
    cls = Vision.registry.load(name)
    width = {"head_width": WIDTH} if "head_width" in cls.Config.__dataclass_fields__ else {}
    config = build_all({"config": cls.Config}, {**OPTIONS.get(name, {}), **width, **options})["config"]
    backbones = {"encoder": tiny_mit()} if name in PIXELS else {"backbone": tiny("class")}
    with seeded(seed, "init"):
        return cls(config, backbones, task(name, classes))


def saved(method: Method, name: str, folder: Path) -> Any:
    """The artifact of a method whose every tensor was moved."""
    with torch.no_grad():
        for tensor in method.own_tensors().values():
            if tensor.is_floating_point():
                tensor.add_(1)
    save_artifact(folder, method, card_of(method, f"pt-vision/{name}"))
    return read_artifact(folder, training=True)


def copied(method: Method) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in method.own_tensors().items()}


@pytest.mark.parametrize("name", METHODS)
def test_the_declared_tensors_are_those_that_change_with_the_classes(name: str) -> None:
    method, four = make(name, 3), make(name, 4).own_tensors()
    three = method.own_tensors()
    assert three.keys() == four.keys()
    differing = {key for key in three if three[key].shape != four[key].shape}
    assert differing
    assert differing == {key for key in three if matches(key, method.class_tensors or ())}


def test_library_decoders_declare_theirs_too() -> None:
    for head in ("segformer", "fpn"):
        three, four = (make("self_training", n, head=head, head_width=32) for n in (3, 4))
        own = three.own_tensors()
        differing = {key for key, tensor in four.own_tensors().items() if tensor.shape != own[key].shape}
        assert differing == {key for key in own if matches(key, three.class_tensors or ())}


@pytest.mark.parametrize("name", METHODS)
def test_a_warm_start_onto_other_classes_keeps_all_but_the_head(name: str, tmp_path: Path) -> None:
    artifact = saved(make(name, 3), name, tmp_path / "tuned")
    method = make(name, 4, seed=1)
    fresh = copied(method)
    method.warm_start("", artifact)
    given = {**artifact.tensors, **(artifact.training or {})}
    for key, tensor in method.own_tensors().items():
        of_classes = matches(key, method.class_tensors or ())
        assert torch.equal(tensor, fresh[key] if of_classes else given[key]), key
    again = make(name, 3, seed=1)
    again.warm_start("", artifact)
    assert all(torch.equal(tensor, given[key]) for key, tensor in again.own_tensors().items())


@pytest.mark.parametrize("name", METHODS)
def test_no_method_predicts_other_classes_than_its_own(name: str) -> None:
    method = make(name, 3)
    with pytest.raises(UserError, match=r"has a fixed label space: what it tuned belongs to its classes \(thing 0, "):
        method.retarget(method.task.with_classes(["a", "b"]))
    same = method.retarget(method.task.with_classes(list(method.task.class_names())))
    assert all(a is b for a, b in zip(same.parameters(), method.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "options", "prompts"),
    [
        ("vpt", {"prompt_length": 5}, {"sets.0.tokens": 1}),
        ("vpt", {"prompt_length": 5, "projection": 6}, {"sets.0.tokens": 1}),
        ("dvpt", {"prompt_length": 5}, {"prompt": 0, "prompt_position": 0}),
        ("dvpt_seg", {"prompt_length": 4}, {f"prompts.{n}": 0 for n in range(5)}),
    ],
)
@pytest.mark.parametrize("change", [-2, 0])
def test_longer_and_shorter_prompts_keep_what_both_have(
    name: str, options: dict[str, Any], prompts: dict[str, int], change: int, tmp_path: Path
) -> None:
    """DVPT's segmentation variant takes at most as many prompts as the last stage has tokens."""
    other = {**options, "prompt_length": options["prompt_length"] + (change or (0 if name == "dvpt_seg" else 3))}
    artifact = saved(make(name, 3, **options), name, tmp_path / "tuned")
    method = make(name, 3, seed=1, **other)
    fresh = copied(method)
    method.warm_start("", artifact)
    for key, axis in prompts.items():
        earlier, now = artifact.tensors[key], method.own_tensors()[key]
        shared = min(earlier.shape[axis], now.shape[axis])
        assert torch.equal(now.narrow(axis, 0, shared), earlier.narrow(axis, 0, shared))
        rest = now.shape[axis] - shared
        assert torch.equal(now.narrow(axis, shared, rest), fresh[key].narrow(axis, shared, rest))


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("vpt", {"mode": "shallow"}, {"mode": "deep"}),
        ("vpt", {"location": "add"}, {"location": "add_one"}),
        ("vpt", {"projection": 6}, {"projection": 7}),
        ("dvpt", {"latent": 4}, {"latent": 5}),
        ("vpt_pixel", {"prompt_length": 2}, {"prompt_length": 3}),
    ],
)
def test_where_there_is_no_rule_shapes_must_agree(
    name: str, first: dict[str, Any], second: dict[str, Any], tmp_path: Path
) -> None:
    artifact = saved(make(name, 3, **first), name, tmp_path / "tuned")
    with pytest.raises(ArtifactError, match=r"tensor '.*' has shape \(.*\), this method needs \("):
        make(name, 3, **second).warm_start("", artifact)


def test_masks_give_scores_per_class_and_take_names_only() -> None:
    masks, output = task("coda", 3), torch.randn(2, 3, 4, 5)
    assert torch.equal(masks.logits(output), output)
    assert list(masks.with_classes(["sky", "road"]).class_names()) == ["sky", "road"]
    assert masks.with_classes(["sky", "road"]).outputs == 2
    with pytest.raises(UserError, match="takes names of classes, not texts"):
        masks.with_classes(["sky", "road"], {"sky": ["a photo of the sky"]})


def test_the_public_api_starts_from_a_run_on_other_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.vision.pictures import make_folder

    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "pets", {"": {"cat": 6, "dog": 6}})
    make_folder(tmp_path / "birds", {"": {"owl": 5, "wren": 5, "crow": 5}})
    options = {"steps": 2, "batch_size": 6, "test_fraction": 0.0, "quiet": True, "device": "cpu"}
    first = pt_vision.fit("vpt", data="pets", out="a", lr=5.0, **options)
    second = pt_vision.fit("vpt", data="birds", out="b", init_from="a", lr=1e-6, prompt_length=7, **options)
    before, after = (read_artifact(run.path).tensors for run in (first, second))
    assert after["head.weight"].shape == (3, 160)
    torch.testing.assert_close(after["sets.0.tokens"][:, :5], before["sets.0.tokens"], atol=1e-4, rtol=0)
