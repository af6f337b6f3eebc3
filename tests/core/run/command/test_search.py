"""The grid search lists every problem, tries every point once in order, and takes the first of the best."""

import json
import math

import pytest
from pt_core.errors import ConfigError, UserError
from pt_core.run.command.search import parse_grid, search


def test_grid_is_the_product_with_the_last_name_fastest():
    assert parse_grid(["lr=0.1, 0.01", "weight-decay=0,1e-4"]) == [
        {"lr": "0.1", "weight_decay": "0"},
        {"lr": "0.1", "weight_decay": "1e-4"},
        {"lr": "0.01", "weight_decay": "0"},
        {"lr": "0.01", "weight_decay": "1e-4"},
    ]
    assert parse_grid(["mode=deep"]) == [{"mode": "deep"}]


def test_all_problems_are_listed_at_once():
    with pytest.raises(ConfigError) as error:
        parse_grid(["lr", "lr=", "lr=1,,2", "=3", "lr=1,2,1.0", "lr=4", "mode=a,b,a", "1x=2"])
    problems = error.value.problems
    assert [problem for problem in problems if "not of the form" in problem] == [
        f"--search {spec!r} is not of the form NAME=V1,V2,..." for spec in ("lr", "lr=", "lr=1,,2", "=3", "1x=2")
    ]
    assert "--search lr: value '1.0' is given twice" in problems
    assert "--search mode: value 'a' is given twice" in problems
    assert any("names 'lr' twice" in problem for problem in problems)
    assert len(problems) == 8


def test_empty_and_enormous_grids_are_refused():
    with pytest.raises(ConfigError, match="needs NAME"):
        parse_grid([])
    with pytest.raises(ConfigError, match="10,000 points"):
        parse_grid([f"{name}={','.join(map(str, range(10)))}" for name in "abcd"])


@pytest.mark.parametrize(
    ("values", "mode", "best"),
    [
        ([1.0, 3.0, 2.0], "max", 1),
        ([1.0, 3.0, 2.0], "min", 0),
        ([2.0, 5.0, 5.0], "max", 1),
        ([5.0, 2.0, 2.0], "min", 1),
        ([math.nan, 1.0, math.nan], "max", 1),
        ([math.nan, math.inf, 1.0], "min", 2),
        ([-math.inf, math.nan, -math.inf], "max", 0),
    ],
)
def test_best_point_is_the_first_of_the_best(values, mode, best):
    points = parse_grid(["lr=1,2,3"])
    seen = []

    def evaluate(point):
        seen.append(dict(point))
        return values[len(seen) - 1]

    result = search(points, evaluate, mode)
    assert seen == points
    assert result.index == best
    assert result.best == points[best]


def test_without_a_value_there_is_no_best():
    with pytest.raises(UserError, match="none of the 2 points"):
        search(parse_grid(["lr=1,2"]), lambda point: math.nan, "max")


def test_table_marks_the_best_point_and_json_is_strict():
    result = search(
        parse_grid(["lr=0.1,10", "mode=deep"]), lambda point: 0.5 if point["lr"] == "10" else math.nan, "max"
    )
    head, first, second = result.table().splitlines()
    assert head.split() == ["lr", "mode", "validation"]
    assert first.split() == ["0.1", "deep", "nan"]
    assert second.split() == ["10", "deep", "0.5000", "<-", "best"]
    assert head.index("validation") + len("validation") == len(first)
    content = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert content["best"] == {"lr": "10", "mode": "deep"}
    assert content["points"][0]["validation"] is None
