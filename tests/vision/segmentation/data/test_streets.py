"""Drawn streets and weather: repeatable, with every class, and stronger with severity; drawn shapes for pretraining."""

from __future__ import annotations

import numpy as np
import pytest
from pt_vision.segmentation.data.streets import CLASSES, COLUMNS, ROWS, street_parts, street_scene
from pt_vision.segmentation.data.weather import CONDITIONS, apply, row_depth
from pt_vision.segmentation.shapes import CLASSES as SHAPES, shape_scene


def test_scenes_are_repeatable_and_hold_every_class():
    scenes = [street_scene("train", n) for n in range(6)]
    again = street_scene("train", 3)
    assert np.array_equal(again.pixels, scenes[3].pixels)
    assert np.array_equal(again.mask, scenes[3].mask)
    assert not np.array_equal(scenes[0].mask, scenes[1].mask)
    assert scenes[0].pixels.shape == (ROWS, COLUMNS, 3)
    found = {int(v) for scene in scenes for v in np.unique(scene.mask)}
    assert found == set(range(len(CLASSES)))
    assert all(scene.depth.min() > 0 and scene.depth.max() == 4.0 for scene in scenes)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_weather_grows_with_severity_and_leaves_the_mask(condition):
    day = street_scene("train", 0)
    changed = []
    for severity in (0.0, 0.3, 0.6, 1.0):
        own = [street_scene("train", n, condition, severity) for n in range(3)]
        plain = [street_scene("train", n) for n in range(3)]
        assert np.array_equal(own[0].mask, day.mask)
        pairs = zip(own, plain, strict=True)
        changed.append(np.mean([np.abs(a.pixels.astype(int) - b.pixels.astype(int)).mean() for a, b in pairs]))
    assert changed[0] < 1
    assert changed == sorted(changed)
    assert changed[-1] > 25


def test_weather_on_pictures_without_depth():
    depth = row_depth(100, 40)
    assert depth.shape == (100, 40)
    assert bool((np.diff(depth[:, 0]) <= 0).all())
    pixels = street_scene("train", 1).pixels
    for condition in CONDITIONS:
        one = apply(condition, pixels, 0.8, np.random.default_rng(1))
        assert np.array_equal(one, apply(condition, pixels, 0.8, np.random.default_rng(1)))
        assert one.dtype == np.uint8


def test_parts_name_conditions_and_the_target_has_no_masks():
    parts = street_parts(0.7, (("train", 2), ("target", 4), ("val", 4), ("test", 4)))
    assert parts["target"].masks is None
    assert list(parts["test"].condition) == list(CONDITIONS)
    assert parts["train"].masks is not None
    assert list(parts["train"].classes) == list(CLASSES)
    assert parts["test"].ids[0] == "test/fog-0"


def test_shapes_cover_all_their_classes():
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(12):
        pixels, mask = shape_scene(rng)
        found |= {int(v) for v in np.unique(mask)}
        assert pixels.shape == (*mask.shape, 3)
    assert found == set(range(len(SHAPES)))
