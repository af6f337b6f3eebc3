"""Images with masks: folders, class files, bad files by name, crops, rare classes, and views without labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pt_core.errors import DataError, UserError
from pt_core.run.data.sampling import SubsetDataset, hold_out
from pt_vision.options import DataOptions
from pt_vision.segmentation.data.crops import RareClasses, TrainingView
from pt_vision.segmentation.data.dataset import SegmentationDataset, bind_pixels
from pt_vision.segmentation.data.load import is_segmentation, load_segmentation
from pt_vision.segmentation.data.masks import ArrayMasks

from tests.vision.segmentation.common import CROP, DATA, pictures

OPTIONS = DataOptions()


def write(folder: Path, name: str, pixels: np.ndarray, mask: np.ndarray | None = None, palette: bool = False) -> None:
    image = folder / "images" / name
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(image)
    if mask is not None:
        path = (folder / "masks" / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(mask)
        if palette:
            picture = picture.convert("P")
            picture.putpalette([7, 9, 1] * 256)
        picture.save(path)


def tree(root: Path, mask: np.ndarray | None = None, count: int = 2) -> Path:
    rng = np.random.default_rng(0)
    for n in range(count):
        own = (np.arange(48)[:, None] // 16 + np.zeros((48, 60))).astype(np.uint8) if mask is None else mask
        write(root / "train", f"{n}.jpg", rng.integers(0, 255, (48, 60, 3), dtype=np.uint8), own)
    return root


def test_a_folder_with_parts_conditions_and_a_class_file(tmp_path):
    root = tree(tmp_path / "d")
    for name in ("fog/a.png", "night/b.png"):
        write(root / "target", name, np.zeros((48, 60, 3), np.uint8))
        write(root / "test", name, np.zeros((48, 60, 3), np.uint8), np.full((48, 60), 3, np.uint8), palette=True)
    (root / "classes.txt").write_text("road\nignore\nfull moon\nsky\n")
    assert is_segmentation(str(root))
    parts = load_segmentation(str(root), OPTIONS)
    assert list(parts) == ["train", "test", "target"]
    assert parts["train"].classes == ["road", "full moon", "sky"]
    assert parts["target"].masks is None
    assert parts["target"].condition == ["fog", "night"] == parts["test"].condition
    assert parts["train"].condition == ()
    pixels, mask = parts["train"].pair(0)
    assert pixels.shape == (48, 60, 3)
    assert [int(mask[row, 0]) for row in (0, 20, 40)] == [0, 255, 1]  # the line `ignore` takes part in the count
    assert int(parts["test"].pair(0)[1][0, 0]) == 2  # a palette image holds indices
    assert parts["test"].ids == ["test/images/fog/a.png", "test/images/night/b.png"]


def test_without_a_class_file_values_name_the_classes(tmp_path):
    parts = load_segmentation(str(tree(tmp_path / "d")), DataOptions(ignore_values=(1,)))
    assert parts["train"].classes == ["class 0", "class 1", "class 2"]
    assert "named by their mask values 0..2" in parts["train"].notes[0]
    assert set(np.unique(parts["train"].pair(0)[1])) == {0, 2, 255}


def test_coloured_masks(tmp_path):
    colours = np.array([[128, 64, 128], [0, 0, 142]], np.uint8)
    mask = colours[np.tile([0, 1], (48, 30))]
    root = tree(tmp_path / "d", mask)
    with pytest.raises(DataError, match="0.png is a RGB image; give 8-bit indices, or a class file with a colour"):
        load_segmentation(str(root), OPTIONS)
    (root / "classes.txt").write_text("road 128 64 128\ntraffic light 0,0,142\n")
    train = load_segmentation(str(root), OPTIONS)["train"]
    assert train.classes == ["road", "traffic light"]
    assert train.pair(0)[1][0, :4].tolist() == [0, 1, 0, 1]
    mask[3, 5] = (1, 2, 3)
    write(root / "train", "0.jpg", np.zeros((48, 60, 3), np.uint8), mask)
    with pytest.raises(DataError, match=r"masks/0.png has colour \(1, 2, 3\) at row 3, column 5, which no class has"):
        load_segmentation(str(root), OPTIONS)


@pytest.mark.parametrize("workers", [0])
def test_bad_files_are_named(tmp_path, workers):
    bad = np.zeros((48, 60), np.uint8)
    bad[2, 7] = 9
    root = tree(tmp_path / "value", bad)
    (root / "classes.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match="masks/0.png has value 9 at row 2, column 7, which no class has"):
        load_segmentation(str(root), OPTIONS)
    root = tree(tmp_path / "missing")
    (root / "train/masks/1.png").unlink()
    with pytest.raises(DataError, match="1 of 2 images.*have no mask of their name.*1.jpg needs 1.png"):
        load_segmentation(str(root), OPTIONS)
    root = tree(tmp_path / "size")
    write(root / "train", "1.jpg", np.zeros((10, 12, 3), np.uint8), np.zeros((12, 10), np.uint8))
    with pytest.raises(DataError, match="'train/images/1.jpg' is 10x12, its mask 12x10"):
        load_segmentation(str(root), OPTIONS)
    root = tree(tmp_path / "broken")
    (root / "train/masks/0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="masks/0.png cannot be read"):
        load_segmentation(str(root), OPTIONS)
    root = tree(tmp_path / "deep", np.full((48, 60), 300, np.uint16))
    with pytest.raises(DataError, match="masks/0.png has value 300; indices of classes are at most 254"):
        load_segmentation(str(root), OPTIONS)
    with pytest.raises(UserError, match="--classes-file nowhere.txt does not exist"):
        load_segmentation(str(root), DataOptions(classes_file="nowhere.txt"))
    with pytest.raises(UserError, match="belong together"):
        load_segmentation(str(root), DataOptions(resize_rows=10))


def test_class_folders_are_no_masks(tmp_path):
    for name in ("images", "cats"):
        (tmp_path / name).mkdir()
    assert not is_segmentation(str(tmp_path))
    assert not is_segmentation("builtin:digits")
    assert is_segmentation("builtin:streets")


def test_resize_and_relabel(tmp_path):
    root = tree(tmp_path / "d")
    train = load_segmentation(str(root), DataOptions(resize_rows=24, resize_columns=30))["train"]
    assert train.pair(0)[1].shape == (24, 30)
    other = train.relabel(["class 2", "x", "class 1", "class 0"])
    assert other.pair(0)[1][0, 0] == 3
    with pytest.raises(DataError, match="'class 0'"):
        train.relabel(["class 1", "class 2"])


def test_crops_are_functions_of_seed_epoch_and_index():
    data = bind_pixels(pictures(3, 0, side=80), DATA["train"].preprocessing, "flip", None, None)
    view = TrainingView(data, CROP)
    one, again = (view.sample(1, epoch=4, seed=7) for _ in range(2))
    assert torch.equal(one["image"], again["image"])
    assert one["image"].shape == (3, CROP, CROP)
    others = [view.sample(1, epoch=epoch, seed=7) for epoch in range(8)]
    assert len({sample["box"] for sample in others}) > 3
    for sample in others:  # image and mask are cut and flipped together
        top, left, rows, columns = sample["box"]
        mask = data.pair(1)[1]
        part = mask[top : top + CROP, left : left + CROP]
        mirrored = mask[:, ::-1][top : top + CROP, left : left + CROP]
        assert (rows, columns) == (80, 80)
        assert np.array_equal(sample["mask"], part) or np.array_equal(sample["mask"], mirrored)
    larger = TrainingView(data, 96).sample(0, epoch=0, seed=0)
    assert larger["image"].shape == (3, 96, 96)  # smaller images are enlarged
    scaled = TrainingView(bind_pixels(data, data.preprocessing, "standard", None, None), CROP)
    assert len({scaled.sample(0, epoch=e, seed=0)["box"][2] for e in range(6)}) > 3


def test_a_view_without_labels_has_none():
    view = TrainingView(DATA["val"], CROP, labelled=False)
    sample = view.sample(0, epoch=0, seed=0)
    assert sample["mask"] is None
    assert view.collate([0], [sample]).target is None
    assert DATA["val"].masks is not None  # of the view only


def test_crops_of_one_class_are_drawn_anew():
    mask = np.zeros((200, 200), np.uint8)
    mask[:, 100:] = 1
    data = SegmentationDataset([np.zeros((200, 200, 3), np.uint8)], ["a"], ArrayMasks([mask]), ["a", "b"])
    data = data.bind(DATA["train"].preprocessing)
    view = TrainingView(data, CROP, max_share=0.75)
    shares = [float(view.sample(0, epoch=e, seed=0)["mask"].float().mean()) for e in range(20)]
    assert sum(0.25 < share < 0.75 for share in shares) >= 17
    plain = [float(TrainingView(data, CROP).sample(0, epoch=e, seed=0)["mask"].float().mean()) for e in range(20)]
    assert sum(0.25 < share < 0.75 for share in plain) < 15


def test_rare_classes_follow_the_temperature_and_need_pixels():
    masks = [np.zeros((64, 64), np.uint8) for _ in range(4)]
    masks[0][:20, :20] = 1
    masks[1][:3, :3] = 2  # too few pixels
    data = SegmentationDataset([np.zeros((64, 64, 3), np.uint8)] * 4, list("abcd"), ArrayMasks(masks), ["x", "y", "z"])
    data = data.bind(DATA["train"].preprocessing)
    rare = RareClasses(temperature=0.5, image_share=0.01)
    probability, rows = rare.table(data.counts, 64 * 64)
    share = data.counts.sum(0) / data.counts.sum()
    weight = np.exp((1 - share[:2]) / 0.5)
    assert probability[:2] == pytest.approx(weight / weight.sum())
    assert probability[2] == 0
    assert rows[1].tolist() == [0]
    view = TrainingView(data, 32, rare=RareClasses(temperature=0.05, image_share=0.01))
    assert view.without() == ["z"]
    drawn = [view.sample(n % 4, epoch=n, seed=0) for n in range(30)]
    assert sum(sample["id"] == "a" for sample in drawn) >= 27
    assert sum(int((sample["mask"] == 1).sum()) > 0 for sample in drawn) >= 25
    batch = view.collate([0, 1], drawn[:2])
    assert batch.ids == [drawn[0]["id"], drawn[1]["id"]]
    with pytest.raises(DataError, match="switch rare-class sampling off"):
        RareClasses(image_share=1.0).table(data.counts, 64 * 64)


def test_views_of_a_split_stay_inside_it():
    kept, held = hold_out(pictures(10, 0).bind(DATA["train"].preprocessing), 0.4, 0)
    inside = set(kept.ids)
    view = TrainingView(kept, CROP, rare=RareClasses(1.0))
    assert {view.sample(n, epoch=0, seed=0)["id"] for n in range(len(view))} <= inside
    assert {view.collate([n], [view.sample(n, epoch=1, seed=0)]).ids[0] for n in range(len(view))} <= inside
    assert not inside & set(held.ids)
    with pytest.raises(UserError, match="add|segmentation methods train on images with masks"):
        TrainingView(SubsetDataset(view, [0]), CROP)


def test_images_of_several_sizes_are_padded_and_keep_their_sizes():
    small, large = pictures(1, 0, side=40), pictures(1, 1, side=64)
    data = SegmentationDataset(
        [*small.sources, *large.sources],
        ["a", "b"],
        ArrayMasks([small.masks.read(0), large.masks.read(0)]),
        small.classes,
        preprocessing=DATA["train"].preprocessing,
    )
    batch = data.collate([0, 1], [data.sample(n, epoch=None, seed=0) for n in range(2)])
    assert batch.inputs.shape == (2, 3, 64, 64)
    assert batch.extra["size"].tolist() == [[40, 40], [64, 64]]
    assert bool((batch.target[0, 40:] == 255).all())
    assert bool((batch.inputs[0, :, :, 40:] == 0).all())


def test_augmentations_that_masks_do_not_take():
    with pytest.raises(DataError, match="augment='medical' is for classification"):
        bind_pixels(pictures(1, 0), {}, "medical", None, None)
    with pytest.raises(DataError, match="scale_min=3 is above scale_max=2"):
        bind_pixels(pictures(1, 0), {}, "standard", 3.0, None)
