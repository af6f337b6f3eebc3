"""What an earlier run tuned, used again from the command line: its network under another method, its prompts under other classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pt_vision
import pytest
import torch
from pt_core.artifact import read_artifact

from tests.command import good, refused
from tests.vision.pictures import make_folder
from tests.vision.segmentation.common import CROP, LABELS, pictures
from tests.vision.segmentation.data.test_dataset import write

SHORT = ("--steps", "2", "--batch-size", "6", "--test-fraction", "0", "--device", "cpu")
MASKS = (
    "--task",
    "segmentation",
    "--data",
    "streets",
    "--backbone",
    "builtin:mit_shapes",
    "--steps",
    "2",
    "--device",
    "cpu",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder: photos/, streets/ and the runs full, vpt and source_only."""
    folder = tmp_path_factory.mktemp("reuse")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PT_CACHE", str(folder / "cache"))
        make_folder(folder / "photos", {"": {"cat": 6, "dog": 6}})
        data = pictures(3, 1, side=CROP)
        for n, source in enumerate(data.sources):
            write(folder / "streets" / "train", f"{n}.png", source, data.masks.read(n))
        (folder / "streets" / "classes.txt").write_text("\n".join(LABELS) + "\n")
        good("fit", "full", "--data", "photos", *SHORT, "--lr", "1e-2", "--out", "full")
        good("fit", "vpt", "--data", "photos", *SHORT, "--out", "vpt")
        good(
            "fit",
            "source_only",
            *MASKS,
            "--crop-size",
            "64",
            "--head-width",
            "8",
            "--lr",
            "1e-2",
            "--out",
            "source_only",
        )
        yield folder


def weights(run: str, role: str) -> dict[str, torch.Tensor]:
    return dict(pt_vision.load(run, device="cpu").method.backbones[role].module.state_dict())


def test_a_network_that_was_tuned_carries_another_method(place: Path) -> None:
    """`full` folds its copy of all weights back; what was tuned on that finds it again by itself."""
    good("fit", "linear", "--data", "photos", *SHORT, "--backbone", "run:full", "--out", "probe")
    good("fit", "vpt", "--data", "photos", *SHORT, "--backbone", "run:full", "--out", "prompts")
    tuned = {
        name.removeprefix("claimed.").replace("/", "."): tensor
        for name, tensor in read_artifact(Path("full")).tensors.items()
        if name.startswith("claimed.")
    }
    plain = weights("vpt", "backbone")
    for run in ("probe", "prompts"):
        assert read_artifact(Path(run)).card["backbones"]["backbone"]["source"] == f"run:{Path('full').absolute()}"
        under = weights(run, "backbone")
        assert tuned.keys() == under.keys()
        assert all(torch.equal(tuned[name], under[name]) for name in tuned)
        assert any(not torch.equal(plain[name], under[name]) for name in tuned)
        assert len(good("predict", run, "photos", "--json").out.splitlines()) == 12
    refused("does not fit this backbone", "predict", "prompts", "photos", "--backbone", "builtin:vit_glyphs")


def test_an_encoder_that_was_tuned_keeps_its_networks_decoder(place: Path) -> None:
    good(
        "fit",
        "linear_seg",
        *MASKS[:4],
        "--backbone",
        "run:source_only",
        "--steps",
        "2",
        "--crop-size",
        "64",
        "--out",
        "seg",
    )
    under, plain = weights("seg", "encoder"), weights("source_only", "encoder")
    changed = {name.partition(".")[0] for name in plain if not torch.equal(plain[name], under[name])}
    assert changed == {"encoder"}
    tuned = read_artifact(Path("source_only")).tensors["network.claimed.encoder/stages/0/blocks/0/attn/q/weight"]
    assert torch.equal(under["encoder.stages.0.blocks.0.attn.q.weight"], tuned)


def test_runs_without_tuned_weights_are_no_backbones(place: Path) -> None:
    fit = ("fit", "linear", "--data", "photos", *SHORT, "--out", "no", "--backbone")
    refused(
        "VPT tuned no weights of its backbone: name the backbone itself, and this run with --init-from", *fit, "run:vpt"
    )
    refused("--backbone run:nowhere: nowhere does not exist", *fit, "run:nowhere")
    refused("tuned the weights of encoder, not of 'backbone'", *fit, "run:source_only")
    assert not Path("no").exists()


def test_classes_are_fixed(place: Path) -> None:
    message = r"has a fixed label space: what it tuned belongs to its classes \(cat, dog \.\.\.\), so it cannot predict others"
    refused(message, "predict", "vpt", "photos", "--class-names", "owl,wren")
    refused(
        r"SourceOnly has a fixed label space: .*\(ground, disc, car",
        "predict",
        "source_only",
        "photos",
        "--class-names",
        "a,b",
    )
    good("predict", "vpt", "photos", "--class-names", "cat,dog")


def test_a_run_at_another_size_finds_its_network_again(place: Path) -> None:
    """What `fit` recommends to do next works without repeating its flags."""
    good("fit", "vpt", "--data", "photos", *SHORT, "--image-size", "48", "--out", "large")
    assert read_artifact(Path("large")).card["backbones"]["backbone"]["preprocessing"]["input_size"] == [3, 48, 48]
    assert len(good("predict", "large", "photos", "--json").out.splitlines()) == 12
    assert pt_vision.load("large").method.backbone.image_size == (48, 48)
    refused("does not fit this backbone", "predict", "large", "photos", "--backbone", "run:full")
