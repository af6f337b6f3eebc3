"""Missing values and series of different length: refused, or treated as the option says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from pt_core.errors import DataError
from pt_core.run.declare.options import ClassificationOptions
from pt_timeseries.data.dataset import windows_of
from pt_timeseries.data.domains import Domain, collect
from pt_timeseries.data.inputs import input_windows
from pt_timeseries.data.scenario import load_windows
from pt_timeseries.data.sources import read
from pt_timeseries.options import DataOptions
from pt_timeseries.tasks.classification import DomainClassification

PAD, CROP = DataOptions(unequal="pad"), DataOptions(unequal="crop")


def windows(count: int = 3, steps: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 2, steps)).astype(np.float32)


def domain(name: str, values: np.ndarray, labels: str = "xyx") -> Domain:
    return Domain(
        name, values, list(labels[: len(values)]), [f"g{n}" for n in range(len(values))], ["train"] * len(values)
    )


def test_missing_values_are_refused_interpolated_or_dropped():
    values = windows()
    values[1, 0, [0, 3, 4]] = np.nan
    values[1, 1, 7] = np.nan
    with pytest.raises(
        DataError, match="domain 'a' of d has 1 windows with NaN .*first: window 1.*--missing interpolate or drop"
    ):
        collect([domain("a", values)], "d")
    found = collect([domain("a", values)], "d", options=DataOptions(missing="interpolate"))
    for channel in range(2):
        want = pd.Series(values[1, channel]).interpolate(limit_direction="both").to_numpy()
        np.testing.assert_allclose(found.items[0].values[1, channel], want, rtol=1e-6)
    np.testing.assert_array_equal(found.items[0].values[[0, 2]], values[[0, 2]])
    assert found.notes == ("missing values in 1 windows of 'a' are interpolated",)
    dropped = collect([domain("a", values)], "d", options=DataOptions(missing="drop")).items[0]
    np.testing.assert_array_equal(dropped.values, values[[0, 2]])
    assert (dropped.labels, dropped.groups, dropped.parts) == (["x", "x"], ["g0", "g2"], ["train", "train"])


def test_what_cannot_be_filled_is_refused():
    empty = windows()
    empty[2, 1] = np.nan
    with pytest.raises(DataError, match="window 2, has no value in channel 1"):
        collect([domain("a", empty)], "d", options=DataOptions(missing="interpolate"))
    empty[2] = np.nan
    with pytest.raises(DataError, match="1 windows with infinite values or none at all .*window 2"):
        collect([domain("a", empty)], "d", options=DataOptions(missing="interpolate"))
    assert len(collect([domain("a", empty)], "d", options=DataOptions(missing="drop")).items[0]) == 2
    empty[:] = np.inf
    with pytest.raises(DataError, match="infinite"):
        collect([domain("a", empty)], "d", options=DataOptions(missing="drop"))


def table(tmp_path, gaps=(), size=20):
    frame = pd.DataFrame({"user": "a", "id": 0, "t": range(size), "x": np.arange(size) ** 2.0, "label": "p"})
    frame.loc[list(gaps), "x"] = np.nan
    frame.to_csv(tmp_path / "d.csv", index=False)
    return str(tmp_path / "d.csv")


def test_recordings_are_filled_before_they_are_cut(tmp_path):
    path = table(tmp_path, [7, 8])  # at the border of two windows: the line is drawn across it
    found = read(path, DataOptions(window=8, stride=8, missing="interpolate"), 0).items[0]
    line = np.interp([7, 8], [6, 9], [36, 81])
    assert found.values[0, 0].tolist() == [0, 1, 4, 9, 16, 25, 36, line[0]]
    assert found.values[1, 0].tolist() == [line[1], 81, 100, 121, 144, 169, 196, 225]
    with pytest.raises(DataError, match="series '0', has 2 missing values .*step 7, channel 0"):
        read(path, DataOptions(window=8, stride=8), 0)
    dropped = read(path, DataOptions(window=4, stride=4, missing="drop"), 0)
    assert dropped.items[0].values[:, 0, 0].tolist() == [0, 144, 256]  # windows 4-7 and 8-11 are gone
    assert dropped.items[0].labels == ["p"] * 3
    assert "2 windows of d.csv with missing values are left out" in dropped.notes


def test_a_short_recording_is_padded_where_asked_for(tmp_path):
    path = table(tmp_path, size=5)
    with pytest.raises(DataError, match="no window"):
        read(path, DataOptions(window=8), 0)
    found = read(path, DataOptions(window=8, unequal="pad"), 0).items[0]
    assert found.values[0, 0, :5].tolist() == [0, 1, 4, 9, 16]
    assert found.labels == ["p"]


def test_series_of_different_length_are_padded_or_cropped():
    items = [domain("a", windows()), domain("b", windows(2, 5, 1)), domain("c", windows(3, 8, 2))]
    with pytest.raises(DataError, match="domain 'b' of d has 5 steps, the others have 8.*--unequal pad or crop"):
        collect(items, "d")
    padded = collect(items, "d", options=PAD)
    assert [d.values.shape[2] for d in padded.items] == [8, 8, 8]
    np.testing.assert_array_equal(padded.items[1].values[..., :5], windows(2, 5, 1))
    assert np.isnan(padded.items[1].values[..., 5:]).all()
    assert padded.notes == ("series of 5 to 8 steps are padded to 8, behind a mask",)
    cropped = collect(items, "d", options=CROP)
    for have, want in zip(cropped.items, items, strict=True):
        np.testing.assert_array_equal(have.values, want.values[..., :5])
    with pytest.raises(DataError, match="a series of 8 steps; at most 6 are read"):
        collect(items, "d", options=PAD, length=6)
    with pytest.raises(DataError, match="a series of 5 steps; 6 are read"):
        collect(items, "d", options=CROP, length=6)
    assert collect(items, "d", options=CROP, length=3).items[0].values.shape[2] == 3


def test_statistics_do_not_count_what_is_not_there():
    long, short = windows(), windows(2, 5, 1)
    for normalise in ("train", "domain"):
        found = collect([domain("a", long), domain("b", short)], "d", options=PAD)
        data = windows_of(found.items, ["x", "y"], normalise, "pad")
        assert data.padded
        if normalise == "train":
            mean, std = data.statistics()
            own = [np.concatenate([long[:, c].ravel(), short[:, c].ravel()]) for c in range(2)]
            np.testing.assert_allclose(mean, [x.mean() for x in own], atol=1e-6)
            np.testing.assert_allclose(std, [x.std() for x in own], rtol=1e-5)
            task = DomainClassification.of(ClassificationOptions(), data)
            assert DomainClassification.from_json(task.to_json()).unequal == "pad"
            data = data.bind(task)
            want = (short[0] - np.array([[x.mean()] for x in own])) / np.array([[x.std()] for x in own])
            np.testing.assert_allclose(data.values[3, :, :5], want, rtol=1e-4, atol=1e-5)
        else:
            want = (short[0] - short.mean((0, 2))[:, None]) / short.std((0, 2))[:, None]
            np.testing.assert_allclose(data.values[3, :, :5], want, rtol=1e-4, atol=1e-5)
        assert bool(data.values[3, :, 5:].isnan().all())
    assert not windows_of([domain("a", long)], ["x", "y"], "train").padded


def test_later_inputs_are_treated_as_the_training_was(tmp_path):
    np.savez(tmp_path / "short.npz", x=windows(2, 5))
    found = input_windows([str(tmp_path / "short.npz"), windows(1, 8)[0], torch.ones(2, 6)], 8, unequal="pad")
    assert found.values.shape == (4, 2, 8)
    assert (~found.values[:, 0].isnan()).sum(1).tolist() == [5, 5, 8, 6]
    cropped = input_windows([str(tmp_path / "short.npz"), windows(1, 8)[0]], 4, unequal="crop")
    np.testing.assert_array_equal(cropped.values, np.concatenate([windows(2, 5)[..., :4], windows(1, 8)[..., :4]]))
    with pytest.raises(DataError, match="at most 7 are read"):
        input_windows([windows(1, 8)[0]], 7, unequal="pad")
    with pytest.raises(DataError, match="different shapes"):
        input_windows([windows(1, 8)[0], torch.ones(2, 6)], 8)
    gap = windows(1, 8)[0]
    gap[0, 3] = np.nan
    with pytest.raises(DataError, match="1 windows with NaN"):
        input_windows([gap], 8, missing="drop")  # a prediction is asked for
    line = input_windows([gap], 8, missing="interpolate").values[0, 0, 3]
    assert float(line) == pytest.approx((gap[0, 2] + gap[0, 4]) / 2)


# ---- shots -----------------------------------------------------------------------------------------------------------------


def scenario(tmp_path, counts, shots, **options):
    labels = [name for name, count in counts.items() for _ in range(count)]
    values = windows(len(labels))
    np.savez(
        tmp_path / "d.npz",
        x=np.concatenate([values, values]),
        y=np.array(labels * 2),
        domain=np.repeat(["s", "t"], len(labels)),
        split=np.array((["train"] * (len(labels) - 3) + ["test"] * 3) * 2),
    )
    return load_windows(str(tmp_path / "d.npz"), DataOptions(target=("t",), target_shots=shots, **options), 0)


def test_a_class_of_fewer_windows_gives_all_it_has_with_a_note(tmp_path):
    found = scenario(tmp_path, {"a": 2, "b": 9, "c": 7}, 5)
    labels = [found["shots"].classes[label] for label in found["shots"].labels]
    assert [labels.count(name) for name in "abc"] == [2, 5, 4]  # 3 of c are the test's
    assert any("--target-shots 5" in note and "a has 2, c has 4" in note for note in found["train"].notes)
    with pytest.raises(DataError, match="a has 2, c has 4.*leave out --exact-target-shots"):
        scenario(tmp_path, {"a": 2, "b": 9, "c": 7}, 5, exact_target_shots=True)


def test_windows_that_are_all_shots_serve_without_labels_too(tmp_path):
    found = scenario(tmp_path, {"a": 2, "b": 2, "c": 4}, 5)
    assert found["unlabeled"].ids == found["shots"].ids
    assert found["unlabeled"].labels is None
    assert any("every window of the target's adaptation part is a shot" in note for note in found["train"].notes)
