"""The results page says what the committed measurements say, and these hold what the page promises."""

from __future__ import annotations

import json

import pytest

from benchmarks._harness import RESULTS, read
from benchmarks.graph import write_results


def test_the_page_is_generated_from_the_measurements():
    """After new ones: `python -m benchmarks.graph.write_results`."""
    assert write_results.PAGE.read_text(encoding="utf-8") == write_results.render()


@pytest.mark.parametrize("name", ["graph_table", "graph_rollouts"])
def test_measurements_name_no_places(name):
    text = (RESULTS / f"{name}.json").read_text()
    json.loads(text)
    assert not any(word in text for word in ("/home", "/root", "/work", "/tmp"))


def test_rollouts_agreed_while_they_were_timed():
    for row in read("graph_rollouts")["rows"]:
        assert row["largest_reward_difference"] <= 1e-5
        assert row["published_buffer_bytes"] >= 5 * row["buffer_bytes"]


def test_the_methods_were_run_on_the_sets():
    runs = read("graph_table")["runs"]
    for name in ("bbbp", "bace", "clintox", "tox21"):
        methods = {run["method"] for run in runs if run["set"] == name}
        assert methods >= {"linear", "gpf", "gpf_plus", "all_in_one", "relief", "full"}
    assert {run["method"] for run in runs if run["set"] == "cora"} >= {"linear", "gpf", "gpf_plus", "all_in_one"}
    for run in runs:
        if run["method"] == "relief":
            assert 0 < run["test"]["pcr"] < 1
