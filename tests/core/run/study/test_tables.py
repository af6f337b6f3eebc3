"""Mean, interval and what may be bold: by hand, and over random results."""

import math

import numpy as np
import pytest
from markupsafe import Markup
from pt_core.run.report import strips
from pt_core.run.study.tables import Setting, best


def setting(name, *values):
    return Setting(("", ""), name, "", len(values), dict(enumerate(values)))


def test_mean_std_and_students_interval():
    one = setting("a", 1.0, 2.0, 3.0)
    assert (one.mean, one.std) == (2.0, 1.0)
    half = 4.302652729911275 / math.sqrt(3)  # t quantile 0.975 of two degrees of freedom
    assert one.interval == pytest.approx((2 - half, 2 + half))
    assert all(math.isnan(value) for value in (setting("b", 1.0).std, *setting("b", 1.0).interval))


def test_nothing_inside_an_interval_is_bold():
    rng = np.random.default_rng(0)
    bold = 0
    for _ in range(500):
        group = [
            setting(str(i), *rng.normal(rng.normal() * 3, 1, rng.integers(2, 6))) for i in range(rng.integers(2, 5))
        ]
        for mode, sign in (("max", 1), ("min", -1)):
            top = best(group, mode)
            if top is None:
                continue
            bold += 1
            for other in group:
                if other is not top:
                    assert sign * top.mean > sign * other.mean
                    assert not top.interval[0] <= other.mean <= top.interval[1]
                    assert min(sign * end for end in top.interval) > max(sign * end for end in other.interval)
    assert 20 < bold < 900, "both happen"


def test_one_seed_or_one_setting_is_never_bold():
    assert best([setting("a", 0.9), setting("b", 0.1)], "max") is None
    assert best([setting("a", 0.9, 0.91)], "max") is None
    assert best([setting("a", 0.9, 0.901), setting("b", 0.1, 0.101), setting("c", 0.0)], "max") is None
    top = setting("a", 0.9, 0.901)
    assert best([top, setting("b", 0.1, 0.101)], "max") is top


def test_strips_show_every_value():
    lines = [
        strips.Strip("a <b>", [0.1, 0.2, 0.3], 0.2, (0.1, 0.3)),
        strips.Strip("one", [0.5], 0.5, (math.nan, math.nan)),
    ]
    drawn = strips.strips("s", "title", lines, "accuracy", str, (0.0, 1.0))
    assert isinstance(drawn, Markup)
    assert "a &lt;b&gt;" in drawn
    assert drawn.count("<use") >= 4 + 2
