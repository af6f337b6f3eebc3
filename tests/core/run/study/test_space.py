"""The study file: what cells it spans, and that everything wrong with it is told at once."""

import math

import pytest
from pt_core.errors import ConfigError
from pt_core.run.study.cells import names, plan
from pt_core.run.study.draws import drawn
from pt_core.run.study.space import declared, read_study

from tests.core.run.toy import Toy

BASE = {"methods": ["prompt"], "data": "vectors:40", "options": {"epochs": 1}}


def problems(content):
    with pytest.raises(ConfigError) as error:
        plan(Toy(), content)
    return error.value.problems


def test_grid_list_data_methods_and_seeds_are_multiplied():
    content = {
        "methods": {"prompt": {"grid": {"length": [1, 2]}}, "context": {}},
        "data": {"small": "vectors:20", "large": {"train": "vectors:40"}},
        "options": {"epochs": 1},
        "list": [{"lr": 0.1, "batch-size": 4}, {"lr": 0.01, "batch-size": 8}],
        "seeds": [0, 3],
    }
    cells = plan(Toy(), content)
    assert len(cells) == (2 + 1) * 2 * 2 * 2
    first = cells[0]
    assert first.name == "prompt-small-lr=0.1-batch_size=4-length=1-seed=0"
    assert (first.spec.train.lr, first.spec.train.batch_size, first.spec.config.length) == (0.1, 4, 1)
    assert cells[-1].spec.run.data == ("train=vectors:40",)
    assert {cell.spec.train.seed for cell in cells} == {0, 3}
    assert len({cell.settings for cell in cells}) == len({cell.name for cell in cells}) == len(cells)


def test_random_draws_are_keyed_so_that_more_of_them_change_none():
    def points(draws, **space):
        return [cell.point for cell in declared({**BASE, "random": {"draws": draws, "seed": 1, "space": space}})]

    lr = {"log": ["1e-4", 1e-1]}
    few = points(3, lr=lr)
    more = points(5, lr=lr, length={"integers": [1, 4]})
    assert [point["lr"] for point in more[:3]] == [point["lr"] for point in few]
    assert all(1e-4 <= point["lr"] <= 1e-1 and point["length"] in (1, 2, 3, 4) for point in more)
    values = [drawn({"log": [1e-4, 1.0]}, "x", number) for number in range(2000)]
    assert abs(sum(math.log10(value) for value in values) / 2000 + 2) < 0.1, "even on the logarithmic scale"
    assert {drawn({"choice": ["a", "b"]}, number) for number in range(20)} == {"a", "b"}


def test_groups_chain_cells_of_one_method_and_seed():
    content = {
        "methods": ["prompt", "context"],
        "options": {"epochs": 1},
        "seeds": 2,
        "groups": {
            "source": {"data": {"a": "vectors:20", "b": "vectors:30"}},
            "target": {"data": {"a": "vectors:20", "b": "vectors:30"}, "init_from": "source", "options": {"lr": 0.1}},
        },
    }
    cells = plan(Toy(), content)
    targets = [cell for cell in cells if cell.told.group == "target"]
    assert len(targets) == 2 * 2 * 2 * 2
    by_name = {cell.name: cell for cell in cells}
    for cell in targets:
        ((role, name),) = cell.starts
        start = by_name[name]
        assert role == ""
        assert (start.spec.method, start.told.seed) == (cell.spec.method, cell.told.seed)
        assert (cell.spec.train.lr, cell.spec.train.epochs) == (0.1, 1)
    assert "target-prompt-b-seed=1-from=a" in by_name


def test_cells_may_be_named_one_by_one():
    cells = plan(
        Toy(),
        {
            "cells": [
                {"name": "first", "method": "prompt", "data": "vectors:20", "options": {"lr": 0.1}},
                {"method": "prompt", "data": {"train": "vectors:30"}, "seed": 2, "init_from": "first"},
            ]
        },
    )
    assert [cell.name for cell in cells] == ["first", "prompt-seed=2-from=first"]
    assert cells[1].starts == (("", "first"),)


def test_everything_wrong_is_told_at_once():
    drawn_wrong = {"draws": 0, "space": {"lr": {"logs": [1]}}}
    told = problems(
        {
            **BASE,
            "method": [],
            "grids": {},
            "seeds": 0,
            "options": {"seed": 1},
            "random": drawn_wrong,
        }
    )
    assert any("unknown key method (did you mean 'methods'?)" in text for text in told)
    assert any("unknown key grids (did you mean 'grid'?)" in text for text in told)
    assert any("seeds must be a number of seeds" in text for text in told)
    assert "options.seed: give it as `seeds`" in told
    assert any("random.draws" in text for text in told)
    assert any("random.space.lr: unknown kind 'logs' (did you mean 'log'?)" in text for text in told)


def test_methods_options_and_sources_are_checked_before_anything_runs():
    told = problems(
        {
            **BASE,
            "methods": ["promt", "prompt"],
            "options": {"lenght": 3},
            "grid": {"lr": [0.1, -1]},
            "data": "nowhere.csv",
        }
    )
    assert any("has no method 'promt' (did you mean 'prompt'?)" in text for text in told)
    assert any("unknown option 'lenght' (did you mean 'length'?)" in text for text in told)
    assert any(text.startswith("prompt: lr=-1") for text in told)
    assert any("--data nowhere.csv does not exist" in text for text in told)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"grid": {"lr": 0.1}}, "grid must be a mapping"),
        ({"grid": {"lr": [0.1, "1e-1"]}}, "are the same run"),
        ({"grid": {"lr": [0.1]}, "list": [{"lr": 0.2}]}, "grid names 'lr', and list or random names it too"),
        ({"groups": {"b": {"init_from": "a"}}}, "no group 'a' above"),
        (
            {"groups": {"a": {}, "b": {"methods": ["context"], "init_from": "a"}}},
            "group 'a' has no cell of method 'context'",
        ),
        ({"groups": []}, "groups must be a mapping"),
        ({"methods": []}, "methods is missing"),
        ({"methods": {"prompt": 3}}, "methods.prompt must be a mapping"),
        ({"data": 3}, "data must be a source"),
        ({"recipe": "nothing"}, "no recipe 'nothing'"),
        ({"cells": [{"method": "prompt", "init_from": "x"}]}, "no cell 'x' above"),
        ({"cells": [{"method": "prompt", "init_from": ["x"]}]}, "must name a cell above"),
        ({"seeds": 20_000}, "20,000 cells, more than 10,000"),
    ],
)
def test_refusals(change, text):
    assert any(text in problem for problem in problems({**BASE, **change}))


def test_long_and_equal_names_end_in_a_digest():
    told = declared({**BASE, "grid": {"backbone": ["tiny:" + "0" * 200, "tiny:" + "0" * 199 + "1"]}})
    found = names(told)
    assert len(set(found)) == 2
    assert all(len(name) < 140 for name in found)


def test_files_are_read_with_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").touch()
    (tmp_path / "study.yaml").write_text("methods: [prompt]\ndata: {own: rows.csv, made: 'vectors:9'}\n")
    assert read_study(tmp_path / "study.yaml")["data"] == {"own": str(tmp_path / "rows.csv"), "made": "vectors:9"}
    for text, message in (("[1]", "must hold a mapping"), ("a: [", "not readable YAML")):
        (tmp_path / "study.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_study(tmp_path / "study.yaml")
    with pytest.raises(ConfigError, match="does not exist"):
        read_study(tmp_path / "none.yaml")
