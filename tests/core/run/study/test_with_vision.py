"""Cells that share a real network and the feature cache tune the bytes of single fits."""

import pt_vision
import pytest
from pt_core.run.fit.shelf import Shelf
from pt_core.run.study import work

OPTIONS = {"shots": 2, "epochs": 1, "batch_size": 10, "device": "cpu"}


@pytest.mark.parametrize("method", ["linear", "vpt"])
def test_bytes_of_single_fits_from_one_network(tmp_path, monkeypatch, method):
    monkeypatch.setenv("PT_CACHE", str(tmp_path / "cache"))
    shelves = []

    class Watched(Shelf):
        def __init__(self):
            super().__init__()
            shelves.append(self)

    monkeypatch.setattr(work, "Shelf", Watched)
    content = {"methods": [method], "data": "builtin:digits", "options": OPTIONS, "seeds": 2}
    study = pt_vision.study(content, tmp_path / "study", quiet=True)
    assert study.count("finished") == 2
    (shelf,) = shelves
    assert len(shelf._networks.held) == 1
    monkeypatch.setenv("PT_CACHE", str(tmp_path / "other"))
    for cell in study.cells:
        seed = cell.told.seed
        single = pt_vision.fit(
            method, data="builtin:digits", seed=seed, out=tmp_path / f"{seed}", quiet=True, **OPTIONS
        )
        tuned = [run / "tuned" / "weights.safetensors" for run in (study.run(cell.name), single.path)]
        assert tuned[0].read_bytes() == tuned[1].read_bytes()
