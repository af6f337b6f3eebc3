"""The page of results says what the committed results say, and these hold what is promised."""

from __future__ import annotations

from benchmarks._harness import read
from benchmarks.vision import report


def test_the_page_is_generated_from_the_results():
    """After new measurements: `python -m benchmarks.vision.report`."""
    assert report.PAGE.read_text(encoding="utf-8") == report.render()


def test_the_step_agreed_and_costs_little_more():
    coda, views = read("vision_coda_step")["rows"]
    assert coda["loss_difference_with_zero_prompts"] < 1e-4
    assert coda["peak_ratio"] <= coda["target"]
    assert views["peak_ratio"] < 1


def test_the_table_has_three_seeds_of_every_method():
    found = read("vision_camvid")
    assert {row["method"] for row in found["rows"]} >= {"source only", "self-training", "CoDA"}
    for row in found["rows"]:
        assert all(len(score["seeds"]) == len(found["seeds"]) == 3 for score in row["test"].values())
