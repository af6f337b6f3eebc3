"""CamVid under $PT_REALDATA: the frames, masks and conditions its notes name, and what a short run learns."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pt_vision
import pytest
from pt_vision import DataOptions
from pt_vision.segmentation.data.load import load_segmentation
from pt_vision.segmentation.severity import dark_share

from benchmarks.vision.camvid import CLASSES, prepare

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("camvid")
    prepare(Path(os.environ["PT_REALDATA"]) / "camvid", out)
    return out


def test_parts_conditions_and_classes(data):
    parts = load_segmentation(str(data), DataOptions(resize_rows=128, resize_columns=176))
    assert {role: len(part) for role, part in parts.items()} == {"train": 153, "target": 164, "val": 8, "test": 118}
    assert parts["train"].classes == CLASSES[:-1]
    assert parts["target"].masks is None
    counts = {name: list(parts["test"].condition).count(name) for name in parts["test"].conditions}
    assert counts == {"day": 29, "dusk": 31, "fog": 29, "night": 29}
    assert bool((parts["train"].counts.sum(0) > 0).all())
    assert {int(v) for v in np.unique(parts["train"].pair(0)[1])} <= {*range(11), 255}
    settings = pt_vision.load_backbone("builtin:mit_shapes").preprocessing
    bound = parts["target"].bind(settings)
    share = [float(dark_share(bound.sample(n, epoch=None, seed=0)["image"][None], settings)) for n in range(len(bound))]
    by_condition = {
        c: np.mean([s for s, name in zip(share, bound.condition, strict=True) if name == c]) for c in ("fog", "night")
    }
    assert by_condition["fog"] < 0.05 < by_condition["night"]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_short_run_learns_road_sky_and_buildings(data, tmp_path):
    run = pt_vision.fit(
        "source_only", data=str(data), task="segmentation", steps=60, lr=1e-3, head="segformer", head_width=64,
        resize_rows=128, resize_columns=176, eval_every=60, out=tmp_path / "run", quiet=True,
    )  # fmt: skip
    assert run.metrics["miou/day"] > 0.15  # one class everywhere reaches 0.03
    assert run.metrics["miou/day"] > run.metrics["miou/night"]
