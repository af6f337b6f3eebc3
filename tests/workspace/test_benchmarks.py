"""The benchmark page says what the committed results say, and the results hold what the page promises."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from benchmarks import report
from benchmarks._harness import RESULTS, alternate, difference, peak_bytes, read, write


def test_the_page_is_generated_from_the_results() -> None:
    """After new measurements: `python -m benchmarks.report`."""
    assert report.PAGE.read_text(encoding="utf-8") == report.render()


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_name_no_places(path) -> None:
    text = path.read_text()
    json.loads(text)
    assert not any(word in text for word in ("/home", "/root", "/work", "/tmp"))


@pytest.mark.parametrize("name", ["vpt_deep", "prompt_attention"])
def test_contenders_agreed_while_they_were_timed(name: str) -> None:
    differences = [row["max_relative_difference"] for row in read(name)["rows"] if "max_relative_difference" in row]
    assert len(differences) > 4
    assert max(differences) <= 1e-5


def test_a_ratio_pairs_the_times_of_a_round() -> None:
    calls: list[str] = []
    times = alternate({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3, warmup=1)
    assert calls == ["a", "b", "b", "a", "a", "b", "b", "a"]  # warm-up, then the order turns around
    assert [len(values) for values in times.seconds.values()] == [3, 3]
    slow = type(times)({"a": [2.0, 20.0, 4.0], "b": [1.0, 10.0, 1.0]})  # a slow round slows both
    assert slow.ratio("a", "b") == 2
    assert slow.median("a") == 4


def test_written_results_read_back(tmp_path) -> None:
    path = write("x", {"settings": {"a": 1}}, [{"b": 2}, {"b": 3}], tmp_path / "x.json")
    assert json.loads(path.read_text()) == {"settings": {"a": 1}, "rows": [{"b": 2}, {"b": 3}]}


def test_difference_is_relative_to_the_reference() -> None:
    assert difference(torch.tensor([1.0, 4.5]), torch.tensor([1.0, -5.0])) == pytest.approx(1.9)


@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark can be reset on Linux only")
def test_peak_memory_is_that_of_the_body() -> None:
    torch.ones(64_000_000, dtype=torch.uint8).sum()  # an earlier, higher peak must not show
    before, peak = peak_bytes(lambda: torch.ones(32_000_000, dtype=torch.uint8))
    assert 31e6 < peak - before < 48e6
