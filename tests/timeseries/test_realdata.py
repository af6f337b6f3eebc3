"""The real sets of $PT_REALDATA: what their READMEs say of them, and scenarios that leave no recording on two sides."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from pt_timeseries.data.scenario import load_windows
from pt_timeseries.data.sources import read
from pt_timeseries.options import DataOptions

pytestmark = pytest.mark.realdata
DATA = Path(os.environ.get("PT_REALDATA", "."))


def test_phone_recordings_are_cut_into_the_windows_of_the_readme():
    found = read(str(DATA / "har_phone_watch" / "sp.npz"), DataOptions(), 0)
    assert found.names == [str(number) for number in range(1, 18)]
    counts = Counter(label for domain in found.items for label in domain.labels or ())
    told = {"0": 204, "1": 322, "2": 1294, "3": 592, "4": 333}
    assert sum(counts.values()) == sum(told.values())
    # Windows of two equally long classes: ours take the one that occurs first, the README's another.
    assert all(abs(counts[name] - size) <= 5 for name, size in told.items())
    assert [len(domain) for domain in found.items][:4] == [100, 161, 145, 160]


def test_phone_to_watch_is_a_folder_with_patterns():
    options = DataOptions(target=("sw:*",), sources=("sp:*",), target_shots=3, skip_files=True)
    parts = load_windows(str(DATA / "har_phone_watch"), options, 0)
    assert len(parts["train"]) + len(parts["val"]) == 2745
    assert len(parts["test"]) + len(parts["unlabeled"]) + len(parts["shots"]) == 2787
    assert "subjects.csv is left out" in " ".join(parts["train"].notes)


def test_bearing_loads_are_domains_of_one_channel():
    parts = load_windows(str(DATA / "cwru_bearing"), DataOptions(target=("*:3",), target_shots=3), 0)
    assert parts["train"].values.shape == (1377, 1, 1024)
    assert Counter(parts["test"].labels) == dict.fromkeys(range(9), 32)
    assert "IR014" in parts["train"].classes
