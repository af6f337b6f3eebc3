"""Real image sets under $PT_REALDATA: they load with the classes and parts their notes name, and a short run beats chance."""

from __future__ import annotations

import os
from pathlib import Path

import pt_vision
import pytest
from pt_core.run.data.audit import audit
from pt_vision import DataOptions, load_images

pytestmark = pytest.mark.realdata
ROOT = Path(os.environ.get("PT_REALDATA", "."))
SETS: dict[str, tuple[str, int, set[str]]] = {
    "blood_cells": ("blood_cells/bccd_crops64.npz", 3, {"train", "val"}),
    "chest_xray": ("chest_xray/cxr112.npz", 2, {"train", "val", "test"}),
    "pacs": ("pacs/pacs_128.parquet", 7, {"train", "test"}),
    "cifar10": ("cifar10/cifar10.npz", 10, {"train", "test"}),
}


@pytest.mark.parametrize("name", SETS)
def test_a_real_set_loads(name: str) -> None:
    path, classes, roles = SETS[name]
    parts = load_images(str(ROOT / path))
    assert set(parts) == roles
    for part in parts.values():
        assert len(part.classes) == classes
        assert set(part.labels) == set(range(classes))
        picture = part.picture(0)
        assert picture.mode == "RGB"
        assert min(picture.size) >= 32
        low, high = zip(*(channel for channel in picture.getextrema()), strict=True)
        assert max(high) - min(low) > 20  # neither black nor clipped away
    report = audit(parts)
    assert report.table().splitlines()[0].split()[0] == "class"


def test_a_domain_of_pacs_is_chosen_by_a_condition() -> None:
    path = str(ROOT / SETS["pacs"][0])
    whole = load_images(path)["train"]
    photo = load_images(path, DataOptions(where=("domain=photo",)))["train"]
    rest = load_images(path, DataOptions(where=("domain!=photo",)))["train"]
    assert 0 < len(photo) < len(whole)
    assert len(photo) + len(rest) == len(whole)


@pytest.mark.parametrize(("method", "options"), [("vpt", {"lr": 10.0, "prompt_length": 5}), ("linear", {"epochs": 40})])
def test_a_short_run_beats_chance_clearly(method: str, options: dict, tmp_path: Path) -> None:
    """Three blood-cell types with 16 shots each: chance is 1/3 of balanced accuracy."""
    given = {"shots": 16, "steps": 90, "batch_size": 16, "eval_every": 45, "quiet": True, **options}
    if method == "linear":
        given.pop("steps")
    run = pt_vision.fit(method, data=str(ROOT / SETS["blood_cells"][0]), out=tmp_path / "run", **given)
    assert run.metrics["balanced_accuracy"] > 0.5
    assert (tmp_path / "run" / "report.html").is_file()
    path = ROOT / SETS["blood_cells"][0]
    records = pt_vision.load(run).predict([load_images(str(path))["val"].picture(n) for n in range(4)])
    assert {r["predicted"] for r in records} <= set(load_images(str(path))["val"].classes)
