"""Image data sets give the same sample for the same key, wherever and in whatever order it is drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pt_core.errors import ConfigError, DataError
from pt_core.run.data.audit import audit
from pt_core.run.data.sampling import SubsetDataset
from pt_core.run.data.streams import Shard, StreamReader
from pt_core.run.declare.options import build_all, field_docs
from pt_core.stage import Stream
from pt_vision.data.dataset import ImageDataset
from pt_vision.data.inputs import input_images
from pt_vision.data.load import load_images
from pt_vision.options import DataOptions

from tests.vision.pictures import encoded, picture

PREPROCESSING = {
    "input_size": (3, 16, 16),
    "mean": (0.5, 0.4, 0.3),
    "std": (0.5, 0.25, 0.2),
    "interpolation": "bilinear",
    "crop_pct": 1.0,
}


# Samples


@pytest.fixture(scope="module")
def digits() -> ImageDataset:
    return load_images("builtin:digits")["val"]


def test_an_unbound_data_set_says_what_to_do(digits: ImageDataset) -> None:
    with pytest.raises(DataError, match=r"call dataset\.bind"):
        digits.sample(0, epoch=None, seed=0)


def test_the_evaluation_view_is_resize_centre_crop_and_normalise() -> None:
    wide = ImageDataset([picture(1, (40, 80))], ["a"], [0], ["x"]).bind({**PREPROCESSING, "crop_pct": 0.8})
    image = Image.fromarray(picture(1, (40, 80))).resize((40, 20), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)[2:18, 12:28].astype(np.float32) / 255
    expected = (pixels - np.float32(PREPROCESSING["mean"])) / np.float32(PREPROCESSING["std"])
    sample = wide.sample(0, epoch=None, seed=0)
    assert sample.dtype == torch.float32
    assert torch.allclose(sample, torch.as_tensor(expected).permute(2, 0, 1), atol=1e-6)
    assert torch.equal(wide.sample(0, epoch=5, seed=1), sample)
    assert not wide.augmented


@pytest.mark.parametrize("augment", ["none", "flip", "standard", "medical"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_view_has_the_input_size(augment: Any, channels: int) -> None:
    data = ImageDataset([picture(1, (40, 80))], ["a"], [0], ["x"])
    data = data.bind({**PREPROCESSING, "input_size": (channels, 16, 24), "crop_pct": 0.9}, augment)
    for epoch in (None, 0):
        assert data.sample(0, epoch=epoch, seed=0).shape == (channels, 16, 24)


@pytest.mark.parametrize("augment", ["standard", "medical"])
def test_a_random_crop_is_not_cut_again(augment: Any) -> None:
    data = ImageDataset([picture(1, (40, 80))], ["a"], [0], ["x"])
    plain, cut = (data.bind({**PREPROCESSING, "crop_pct": share}, augment) for share in (1.0, 0.5))
    assert torch.equal(plain.sample(0, epoch=0, seed=0), cut.sample(0, epoch=0, seed=0))


def test_one_channel_backbones_read_grey() -> None:
    data = ImageDataset([picture(1, (16, 16))], ["a"], [0], ["x"]).bind({**PREPROCESSING, "input_size": (1, 16, 16)})
    grey = np.asarray(Image.fromarray(picture(1, (16, 16))).convert("L")).astype(np.float32) / 255
    expected = (grey - 0.4) / np.mean([0.5, 0.25, 0.2])
    assert np.allclose(data.sample(0, epoch=None, seed=0).numpy()[0], expected, atol=1e-5)
    with pytest.raises(DataError, match="reads 4 channels"):
        data.bind({**PREPROCESSING, "input_size": (4, 16, 16)})


@pytest.mark.parametrize("augment", ["flip", "standard", "medical"])
def test_the_training_view_is_a_function_of_seed_epoch_and_index(digits: ImageDataset, augment: Any) -> None:
    data = digits.bind(PREPROCESSING, augment)
    assert data.augmented
    forwards = [data.sample(i, epoch=2, seed=1) for i in range(12)]
    torch.rand(5)
    backwards = [data.sample(i, epoch=2, seed=1) for i in reversed(range(12))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forwards, backwards, strict=True))
    for epoch, seed in ((3, 1), (2, 2)):
        assert any(not torch.equal(a, data.sample(i, epoch=epoch, seed=seed)) for i, a in enumerate(forwards))
    same = ImageDataset([digits.sources[0]] * 12, list("abcdefghijkl"), None).bind(PREPROCESSING, augment)
    assert len({same.sample(i, epoch=0, seed=0).numpy().tobytes() for i in range(12)}) > 1
    assert torch.equal(data.sample(0, epoch=None, seed=1), digits.bind(PREPROCESSING).sample(0, epoch=None, seed=0))


def test_the_callers_generators_are_left_alone(digits: ImageDataset) -> None:
    data = digits.bind(PREPROCESSING, "medical")
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    data.sample(0, epoch=0, seed=0)
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])


def test_flip_is_a_flip(digits: ImageDataset) -> None:
    plain, flipped = digits.bind(PREPROCESSING), digits.bind(PREPROCESSING, "flip")
    turned = 0
    for i in range(16):
        view, image = flipped.sample(i, epoch=0, seed=0), plain.sample(i, epoch=None, seed=0)
        mirrored = torch.allclose(view, image.flip(-1), atol=0.02)
        assert mirrored or torch.equal(view, image)
        turned += mirrored
    assert 0 < turned < 16


def test_the_number_of_workers_changes_nothing(divided: Path) -> None:
    data = load_images(str(divided))["train"].bind(PREPROCESSING, "standard")

    def draws(workers: int) -> list[Any]:
        reader = StreamReader("train", Stream("train"), data, 3, seed=5, shard=Shard(), workers=workers)
        reader.start(0)
        batches = [reader.next()[0] for _ in range(4)]
        reader.close()
        return batches

    for one, two in zip(draws(0), draws(2), strict=True):
        assert torch.equal(one.inputs, two.inputs)
        assert torch.equal(one.target, two.target)
        assert list(one.ids) == list(two.ids)


def test_collate_gives_inputs_targets_positions_and_names(divided: Path) -> None:
    data = load_images(str(divided))["train"].bind(PREPROCESSING)
    batch = data.collate([5, 0], [data.sample(i, epoch=None, seed=0) for i in (5, 0)])
    assert batch.inputs.shape == (2, 3, 16, 16)
    assert (batch.target.tolist(), batch.target.dtype) == ([1, 0], torch.int64)
    assert batch.index.tolist() == [5, 0]
    assert list(batch.ids) == ["train/dog/2.png", "train/cat/0.png"]


def test_identity_follows_content_and_labels_and_not_the_place(divided: Path, tmp_path: Path) -> None:
    original = load_images(str(divided))["train"]
    moved = load_images(str(divided.rename(tmp_path / "elsewhere")))["train"]
    assert original.identity() == moved.identity() == moved.bind(PREPROCESSING).identity()
    assert moved.subset([0, 1]).identity() != moved.subset([1, 0]).identity()
    assert moved.relabel(["dog", "cat"]).identity() != moved.identity()
    assert replace(moved, labels=[1 - label for label in moved.labels or []]).identity() != moved.identity()
    path = tmp_path / "elsewhere/train/cat/0.png"
    path.write_bytes(encoded(77))
    assert load_images(str(tmp_path / "elsewhere"))["train"].identity() != moved.identity()


def test_the_audit_finds_a_copy_in_another_format(divided: Path) -> None:
    Image.open(divided / "train/dog/1.png").save(divided / "test/dog/copy.bmp")
    found = audit(load_images(str(divided)))
    assert found.examples == {"train/test": [("train/dog/1.png", "test/dog/copy.bmp")]}


def test_a_subset_of_images_binds_and_shows_its_pictures(divided: Path) -> None:
    whole = load_images(str(divided))["train"]
    subset = SubsetDataset(whole, [4, 1])
    bound = subset.bind(PREPROCESSING, "flip")
    assert torch.equal(bound.sample(0, epoch=1, seed=2), whole.bind(PREPROCESSING, "flip").sample(4, epoch=1, seed=2))
    assert np.array_equal(subset.picture(1), whole.picture(1))
    assert bound.augmented
    assert subset.digests() == [whole.digests()[4], whole.digests()[1]]
    assert whole.subset([4, 1]).subset([1]).ids == [whole.ids[1]]


def test_a_file_that_vanishes_is_named(divided: Path) -> None:
    data = load_images(str(divided))["train"].bind(PREPROCESSING)
    (divided / "train/cat/1.png").unlink()
    with pytest.raises(DataError, match=r"image 'train/cat/1\.png' cannot be read: does not exist"):
        data.sample(1, epoch=None, seed=0)


# Options


def test_options_are_documented_and_checked() -> None:
    assert set(field_docs(DataOptions)) == set(DataOptions.__dataclass_fields__)
    options = build_all({"data": DataOptions}, {"where": "domain=photo,fold=1", "augment": "flip"})["data"]
    assert options.where == ("domain=photo", "fold=1")
    for wrong in ({"val_fraction": 1.0}, {"test_fraction": -0.1}, {"augment": "flips"}, {"skip_bda": True}):
        with pytest.raises(ConfigError):
            build_all({"data": DataOptions}, wrong)


# Inputs for prediction


def test_inputs_from_files_folders_and_patterns(divided: Path) -> None:
    (divided / "train/cat/.hidden").write_bytes(b"")
    inputs = input_images([str(divided / "test"), divided / "train/cat/0.png", str(divided / "train/dog/[01].png")])
    assert [Path(name).relative_to(divided).as_posix() for name in inputs.ids] == [
        "test/cat/0.png",
        "test/dog/0.png",
        "train/cat/0.png",
        "train/dog/0.png",
        "train/dog/1.png",
    ]
    assert inputs.labels is None
    bound = inputs.bind(PREPROCESSING)
    batch = bound.collate([0], [bound.sample(0, epoch=None, seed=0)])
    assert batch.target is None


def test_inputs_from_memory_agree(divided: Path) -> None:
    pixels = picture(0)
    items = [Image.fromarray(pixels), pixels, torch.as_tensor(pixels.copy()).permute(2, 0, 1), encoded(0)]
    inputs = input_images(items).bind(PREPROCESSING)
    samples = [inputs.sample(i, epoch=None, seed=0) for i in range(4)]
    assert all(torch.equal(samples[0], other) for other in samples[1:])
    assert list(inputs.ids) == [f"image-{i}" for i in range(4)]
    assert len(input_images(np.stack([pixels] * 3))) == 3
    assert len(input_images(pixels)) == len(input_images(str(divided / "train/dog/0.png"))) == 1


def test_bad_inputs_are_listed_together(divided: Path) -> None:
    (divided / "notes.txt").write_text("no")
    with pytest.raises(DataError) as caught:
        input_images(
            [divided / "gone.png", divided / "notes.txt", np.zeros((2, 2), np.int64), divided / "test/cat/0.png"]
        )
    for piece in ("3 of 4", "gone.png (does not exist)", "notes.txt (not an image)", "image-2 (pixels of type int64"):
        assert piece in str(caught.value)


def test_skip_bad_inputs_are_left_out(divided: Path) -> None:
    path = divided / "test/cat/0.png"
    path.write_bytes(path.read_bytes()[:-60])
    inputs = input_images(divided / "test", skip_bad=True)
    assert [Path(name).name for name in inputs.skipped] == ["0.png"]
    assert len(inputs) == 1
    late = input_images(divided / "test").bind(PREPROCESSING)
    with pytest.raises(DataError, match=r"test/cat/0\.png' cannot be read"):
        late.sample(0, epoch=None, seed=0)


@pytest.mark.parametrize(("items", "message"), [([], "no input images"), (["*.nothing"], "no file matches")])
def test_nothing_given_is_said(items: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        input_images(items)


def test_an_empty_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no image"):
        input_images(tmp_path)


def test_small_data_are_decoded_once_and_views_stay_as_they_were(
    divided: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = load_images(str(divided))["train"].bind(PREPROCESSING)
    decoded: list[int] = []
    picture = ImageDataset.picture
    monkeypatch.setattr(ImageDataset, "picture", lambda self, index: decoded.append(index) or picture(self, index))
    views = [[bound.sample(row, epoch=epoch, seed=0) for row in range(len(bound))] for epoch in (None, 0, 1)]
    assert decoded == list(range(len(bound)))
    for view in views[1:]:
        assert all(torch.equal(left, right) for left, right in zip(view, views[0], strict=True))
    # Another binding, a subset and the training view have views of their own.
    other = bound.bind({**PREPROCESSING, "mean": [0.1, 0.1, 0.1]})
    assert not torch.equal(other.sample(0, epoch=None, seed=0), views[0][0])
    assert torch.equal(bound.subset([2, 1]).sample(0, epoch=None, seed=0), views[0][2])
    drawn = bound.bind(PREPROCESSING, "standard")
    assert not torch.equal(drawn.sample(0, epoch=0, seed=0), drawn.sample(0, epoch=1, seed=0))
    # The bound holds.
    monkeypatch.setattr("pt_vision.data.dataset.KEPT_BYTES", 2 * views[0][0].nbytes)
    small = bound.bind(PREPROCESSING)
    for row in [0, 1, 2, 2, 0]:
        assert torch.equal(small.sample(row, epoch=None, seed=0), views[0][row])
    assert sorted(small._ready) == [0, 1]
