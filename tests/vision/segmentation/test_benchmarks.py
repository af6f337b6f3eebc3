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


def test_adaptation_gains_on_drawn_streets_most_at_night():
    """Means over three seeds: both ways of adapting are above source only, most at night. CoDA is not above self-training there."""
    rows = {row["method"]: row["test"] for row in read("vision_streets")["rows"]}
    night = [rows[name]["miou/night"]["mean"] for name in ("source only", "self-training", "coda")]
    assert min(night[1:]) > night[0] + 0.08
    assert night[2] < night[1]  # published is the opposite order; where this changes, docs/results must say so
    assert (
        min(rows[name]["miou"]["mean"] for name in ("self-training", "coda"))
        > rows["source only"]["miou"]["mean"] + 0.02
    )
