"""The page of speed says what the committed results say, and these hold what is promised."""

from __future__ import annotations

from benchmarks._harness import read
from benchmarks.pointcloud import report


def test_the_page_is_generated_from_the_results():
    """After new measurements: `python -m benchmarks.pointcloud.report`."""
    assert report.PAGE.read_text(encoding="utf-8") == report.render()


def test_contenders_agreed_while_they_were_timed():
    rows = read("pointcloud_operators")["rows"]
    assert all(row["identical_indices"] for row in rows if row["operator"] == "furthest_point_sample")
    assert all(row["share_of_equal_indices"] > 0.999 for row in rows if row["operator"] == "knn")
    conv, cached = read("pointcloud_edgeconv")["rows"]
    assert conv["max_relative_difference"] < 1e-5
    assert conv["flops_ratio"] <= 0.2
    assert conv["peak_ratio"] <= 0.25
    assert cached["max_relative_difference"] == 0
