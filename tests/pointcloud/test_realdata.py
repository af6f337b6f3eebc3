"""The real shapes of $PT_REALDATA: what their README says of them, and what the card claims of IDPT on them."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from pathlib import Path

import pt_pointcloud
import pytest
import torch
from pt_core.errors import UserError
from pt_pointcloud.data.load import load_clouds
from pt_pointcloud.options import DataOptions

pytestmark = pytest.mark.realdata
SHAPES = Path(os.environ.get("PT_REALDATA", "."), "shapes_psb")


def test_the_parts_are_those_of_the_readme():
    parts = load_clouds(str(SHAPES))
    assert {role: len(part) for role, part in parts.items()} == {"train": 190, "test": 76}
    assert len(parts["train"].classes) == 19
    assert set(Counter(parts["train"].labels).values()) == {10}
    assert set(Counter(parts["test"].labels).values()) == {4}
    assert not set(parts["train"].ids) & set(parts["test"].ids)
    for cloud in parts["test"].clouds:
        assert cloud.shape == (2048, 3)
        assert float(torch.as_tensor(cloud, dtype=torch.float32).norm(dim=1).max()) == pytest.approx(1, abs=2e-3)


def test_episodes_of_real_shapes():
    parts = load_clouds(str(SHAPES), DataOptions(ways=5, queries=4), 3)
    assert len(parts["train"].classes) == 5
    assert set(parts["test"].classes) == set(parts["train"].classes)


def test_more_shots_than_shapes_are_refused(tmp_path):
    with pytest.raises(UserError, match="11"):
        pt_pointcloud.fit("linear", data=str(SHAPES), shots=11, steps=1, out=tmp_path / "run", quiet=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_instance_prompts_beat_static_ones_and_the_probe_where_a_part_is_missing(tmp_path):
    """Card: under corruption IDPT > VPT > linear, mean of three seeds; the settings are those of benchmarks/pointcloud/robustness.py."""
    common = {"data": str(SHAPES), "corrupt": ("missing",), "severity": 0.5, "batch_size": 20, "eval_every": 40}
    tuned = {"epochs": 15, "warmup_epochs": 1, "lr": 3e-3}
    settings = {"linear": {"epochs": 100, "warmup_epochs": 0, "lr": 1e-2}, "vpt": tuned, "idpt": tuned}
    means = {}
    for method, own in settings.items():
        runs = (
            pt_pointcloud.fit(method, seed=seed, out=tmp_path / f"{method}-{seed}", quiet=True, **common, **own)
            for seed in range(3)
        )
        means[method] = statistics.mean(run.metrics["accuracy"] for run in runs)
    assert means["idpt"] > means["vpt"] > means["linear"] > 3 / 19
