"""Generated shapes and corruptions: uniform by area, reproducible, with the right parts; and each corruption does what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pt_pointcloud.data.corruptions import CORRUPTIONS, corrupt
from pt_pointcloud.shapes import pretraining_shape, shape
from pt_pointcloud.shapes.families import OTHERS, TARGETS
from pt_pointcloud.shapes.primitives import Primitive, turn


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", [*TARGETS, *OTHERS])
def test_every_family_fills_the_unit_sphere_and_varies(name):
    first, parts = shape(name, 0, 300)
    assert first.dtype == np.float32
    assert first.shape == (300, 3)
    assert len(parts) == 300
    assert np.linalg.norm(first, axis=1).max() == pytest.approx(1, abs=1e-5)
    assert np.array_equal(first, shape(name, 0, 300)[0])
    assert not np.array_equal(first, shape(name, 1, 300)[0])
    assert len(set(parts)) >= 2


def test_pretraining_draws_no_target():
    assert not set(TARGETS) & set(OTHERS)
    clouds = {pretraining_shape(n, 64).tobytes() for n in range(20)}
    assert len(clouds) == 20


@pytest.mark.parametrize(
    ("primitive", "area"),
    [
        (Primitive("box", (1, 2, 3), "a"), 22),
        (Primitive("frustum", (1, 1, 2), "a"), 2 * math.pi * 2 + 2 * math.pi),
        (Primitive("frustum", (1, 0.5, 2), "a"), math.pi * 1.5 * math.hypot(0.5, 2) + math.pi * 1.25),
        (Primitive("ellipsoid", (2, 2, 2), "a"), 16 * math.pi),
        (Primitive("torus", (1, 0.2, 360), "a"), 4 * math.pi**2 * 0.2),
    ],
)
def test_areas(primitive, area):
    assert primitive.area == pytest.approx(area, rel=1e-6)
    assert primitive.sample(50, rng()).shape == (50, 3)


def test_sampling_is_uniform_by_area():
    cone = Primitive("frustum", (1, 0, 2), "a").sample(40_000, rng())
    side = cone[(cone[:, 1] > -0.999)]
    upper = (side[:, 1] > 0).mean()
    assert upper == pytest.approx(0.25, abs=0.01)  # the upper half of a cone's side has a quarter of its area
    ring = Primitive("torus", (1, 0.5, 360), "a").sample(40_000, rng())
    outside = (np.hypot(ring[:, 0], ring[:, 1]) > 1).mean()
    assert outside == pytest.approx(0.5 + 0.5 / math.pi, abs=0.01)
    egg = Primitive("ellipsoid", (3, 1, 1), "a").sample(40_000, rng())
    assert (egg[:, 0] ** 2 / 9 + egg[:, 1] ** 2 + egg[:, 2] ** 2) == pytest.approx(1)


def test_rotations_are_rotations():
    for axis in "xyz":
        matrix = turn(axis, 30)
        assert matrix @ matrix.T == pytest.approx(np.eye(3))
        assert np.linalg.det(matrix) == pytest.approx(1)


CLOUD = shape("table", 3, 400)[0]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_are_reproducible_and_vanish_at_severity_0(name):
    first, rows = corrupt(CLOUD, (name,), 0.5, rng(1))
    again, _ = corrupt(CLOUD, (name,), 0.5, rng(1))
    assert first.dtype == np.float32
    assert np.array_equal(first, again)
    assert len(rows) == len(first)
    assert not np.array_equal(first, corrupt(CLOUD, (name,), 0.5, rng(2))[0])
    none, kept = corrupt(CLOUD, (name,), 0.0, rng(1))
    assert none == pytest.approx(CLOUD, abs=1e-6)
    assert kept.tolist() == list(range(400))


def test_a_missing_part_is_a_connected_piece():
    left, rows = corrupt(CLOUD, ("missing",), 0.4, rng())
    assert len(left) == 240
    assert np.array_equal(left, CLOUD[rows])
    gone = np.delete(CLOUD, rows, axis=0)
    reach = [np.linalg.norm(gone - p, axis=1).max() - np.linalg.norm(left - p, axis=1).min() for p in gone]
    assert min(reach) <= 1e-6  # around one of them, all that is gone is nearer than all that is left


def test_noise_outliers_rotation_and_background():
    noisy, _ = corrupt(CLOUD, ("noise",), 0.5, rng())
    assert (noisy - CLOUD).std() == pytest.approx(0.05, rel=0.1)
    moved, rows = corrupt(CLOUD, ("outliers",), 0.4, rng())
    assert (rows < 0).mean() == pytest.approx(0.2, abs=0.06)
    assert np.array_equal(moved[rows >= 0], CLOUD[rows >= 0])
    turned, _ = corrupt(CLOUD, ("rotation",), 1.0, rng())
    assert np.linalg.norm(turned, axis=1) == pytest.approx(np.linalg.norm(CLOUD, axis=1), abs=1e-5)
    scene, rows = corrupt(CLOUD, ("background",), 0.5, rng())
    added = scene[rows < 0]
    assert len(scene) == 400
    assert len(added) == 100
    on_floor, on_wall = np.isclose(added[:, 1], CLOUD[:, 1].min()), np.isclose(added[:, 2], CLOUD[:, 2].min())
    assert (on_floor | on_wall).all()


def test_corruptions_apply_in_order_and_rows_refer_to_the_start():
    moved, rows = corrupt(CLOUD, ("missing", "background"), 0.3, rng())
    kept = rows >= 0
    assert np.array_equal(moved[kept], CLOUD[rows[kept]])
