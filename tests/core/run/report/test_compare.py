"""Comparison of runs: one row per setting with mean and deviation over seeds, honest about what does not compare."""

import json
import math
import re
import statistics

import pytest
from pt_core.errors import ArtifactError
from pt_core.run.report import compare, compare_table
from pt_core.testing.html import external_requests

from tests.core.run.report import pages


def run(
    folder, name, accuracy, seed=0, tuned=71, method="pt-toy/prompt", group=None, results=None, config=None, **changes
):
    """A finished run below `folder`."""
    results = results or {"test": {"accuracy": accuracy, "nll": 1 - accuracy}}
    told = pages.status(seed=seed, method=method, tuned=tuned, results=results, group=group or f"{method}-{tuned}")
    return pages.write_run(folder / name, {**told, **changes}, config=config)


def compared(runs, tmp_path):
    frame = compare(runs, tmp_path / "compare.html")
    html = (tmp_path / "compare.html").read_text()
    assert external_requests(html) == []
    return frame, html, " ".join(re.sub(r"<(style|script)>.*?</\1>|<[^>]*>", " ", html, flags=re.DOTALL).split())


def test_seeds_become_one_row_with_mean_and_deviation(tmp_path):
    values = [0.8, 0.9, 0.85]
    runs = [run(tmp_path, f"a{seed}", value, seed) for seed, value in enumerate(values)]
    runs.append(run(tmp_path, "b", 0.95, tuned=900, method="pt-toy/full"))
    frame, _, text = compared(runs, tmp_path)
    assert list(frame["run"]) == ["full", "prompt"], "the best comes first"
    row = frame.iloc[1]
    assert row["runs"] == 3
    assert row["accuracy"] == pytest.approx(statistics.fmean(values))
    assert row["accuracy_std"] == pytest.approx(statistics.stdev(values))
    assert math.isnan(frame.iloc[0]["accuracy_std"]), "one run has no deviation"
    assert "85.0 ± 5.0 %" in text
    assert "mean ± sample standard deviation" in text
    assert "The settings have between 1 and 3 runs each." in text
    assert compare_table(frame).splitlines()[2].split()[:2] == ["prompt", "3"]


def test_plot_has_every_setting_over_its_tuned_parameters(tmp_path):
    runs = [run(tmp_path, f"m{n}", 0.5 + n / 20, tuned=10**n, method=f"pt-toy/m{n}") for n in range(1, 6)]
    runs.append(run(tmp_path, "zero", 0.4, tuned=0, method="pt-toy/zero"))
    _, html, _ = compared(runs, tmp_path)
    wide = html[html.index('class="only-wide"') : html.index('class="only-narrow"')]
    for name in ("m1", "m2", "m3", "m4", "m5", "zero", "tuned parameters (log scale)", "1k", "100k"):
        assert f">{name}</text>" in wide
    assert 'aria-label="Test accuracy against tuned parameters"' in wide


def test_settings_of_one_method_are_told_apart_by_what_differs(tmp_path):
    runs = [
        run(tmp_path, f"r{n}", 0.5, tuned=n, group=str(n), config={"prompt_length": n, "lr": 0.1 * n, "seed": n})
        for n in (1, 2)
    ]
    frame, _, _ = compared(runs, tmp_path)
    assert set(frame["run"]) == {"prompt lr=0.1, prompt_length=1", "prompt lr=0.2, prompt_length=2"}


def test_equal_settings_that_are_not_one_group_are_named_by_folder(tmp_path):
    runs = [run(tmp_path, f"r{n}", 0.5, group=str(n)) for n in (1, 2)]
    frame, _, _ = compared(runs, tmp_path)
    assert set(frame["run"]) == {"prompt (r1)", "prompt (r2)"}


def test_mixed_metrics_leave_gaps_and_the_shared_one_is_plotted(tmp_path):
    runs = [
        run(tmp_path, "a", 0, results={"test": {"kappa": 0.4, "miou": 0.6}}),
        run(tmp_path, "b", 0, results={"test": {"miou": 0.7, "pixel_accuracy": 0.9}}, tuned=99, method="pt-toy/other"),
    ]
    frame, _, text = compared(runs, tmp_path)
    assert math.isnan(frame.set_index("run").loc["other", "kappa"])
    assert list(frame["run"]) == ["other", "prompt"], "sorted by the metric that both have"
    assert "Test mIoU against tuned parameters" in text
    assert re.search(r"other 1 0.700 99 9.2 % 90.0 % –", text)
    assert "–" in compare_table(frame).splitlines()[1]


def test_the_metric_runs_were_selected_by_leads_and_smaller_may_be_better(tmp_path):
    runs = [
        run(
            tmp_path,
            f"r{n}",
            0,
            tuned=n,
            method=f"pt-toy/m{n}",
            results={"test": {"mae": n, "mse": 9 - n}},
            select=["mse", "min"],
        )
        for n in (1, 2, 3)
    ]
    frame, _, text = compared(runs, tmp_path)
    assert list(frame["run"]) == ["m3", "m2", "m1"]
    assert "Test mse against tuned parameters" in text
    assert compare_table(frame).splitlines()[0].split()[:4] == ["setting", "runs", "test", "mse"]


def test_runs_without_any_shared_metric_still_compare(tmp_path):
    runs = [
        run(tmp_path, "a", 0, results={"test": {"kappa": 0.4}}),
        run(tmp_path, "b", 0, results={"test": {"rmse": 7.5}}, tuned=99, method="pt-toy/other"),
    ]
    frame, _, _ = compared(runs, tmp_path)
    assert set(frame["run"]) == {"prompt", "other"}


def test_validation_is_used_where_no_run_has_a_test_part_and_never_mixed_with_it(tmp_path):
    val = {"val": {"accuracy": 0.7}}
    frame, _, text = compared([run(tmp_path, "a", 0, results=val)], tmp_path)
    assert frame.iloc[0]["split"] == "val"
    assert "judged on the validation part" in text
    both = [tmp_path / "a", run(tmp_path, "b", 0.9, tuned=5, method="pt-toy/other")]
    frame, _, text = compared(both, tmp_path)
    assert list(frame["run"]) == ["other"]
    assert "no results on the test part" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"data": {"source": ["elsewhere"], "counts": {"test": 11}, "classes": ["ant", "bee", "cat"]}},
            "differ in data:",
        ),
        ({"data": {"source": ["photos"], "counts": {"test": 11}, "classes": ["x", "y"]}}, "differ in classes:"),
        (
            {"data": {"source": ["photos"], "counts": {"test": 3}, "classes": ["ant", "bee", "cat"]}},
            "number of test samples",
        ),
    ],
)
def test_what_does_not_compare_is_said(change, said, tmp_path):
    runs = [run(tmp_path, "a", 0.5), run(tmp_path, "b", 0.6, tuned=9, method="pt-toy/other", **change)]
    _, _, text = compared(runs, tmp_path)
    assert said in text
    assert "not on one scale" in text


def test_comparable_runs_raise_no_caution(tmp_path):
    html = compared([run(tmp_path, f"a{seed}", 0.5, seed) for seed in (0, 1)], tmp_path)[1]
    assert 'class="message warn"' not in html


def test_a_repeated_seed_is_said(tmp_path):
    assert "repeat a seed" in compared([run(tmp_path, n, 0.5, seed=3) for n in "ab"], tmp_path)[2]


def test_unfinished_runs_are_left_out_by_name_with_their_reason(tmp_path):
    broken = pages.write_run(tmp_path / "x", pages.status(state="failed", message="loss <is> nan"))
    frame, _, text = compared([run(tmp_path, "a", 0.5), broken], tmp_path)
    assert len(frame) == 1
    assert f"{broken} failed: loss &lt;is&gt; nan" in text


def test_only_unfinished_runs_give_a_page_and_a_sentence(tmp_path):
    frame, _, text = compared([pages.write_run(tmp_path / "x", pages.status(state="running"))], tmp_path)
    assert len(frame) == 0
    assert "No finished run with results." in text
    assert compare_table(frame) == "no finished run with results among these"


def test_hostile_names_are_text(tmp_path):
    runs = [
        run(tmp_path, f"r{n}", 0.5, tuned=n + 1, method=f"pt-toy/{name}", config={"note": name})
        for n, name in enumerate(pages.HOSTILE)
    ]
    html = compared(runs, tmp_path)[1]
    assert html.count("<script>") == 1
    assert "<img" not in html
    assert "<b onmouseover" not in html


def test_damaged_run_is_refused_by_name(tmp_path):
    folder = run(tmp_path, "a", 0.5)
    (folder / "run.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"a/run.json is not readable JSON"):
        compare([folder], tmp_path / "compare.html")


def test_missing_config_only_costs_the_names(tmp_path):
    folder = run(tmp_path, "a", 0.5)
    (folder / "config.yaml").write_text("[")
    assert list(compared([folder], tmp_path)[0]["run"]) == ["prompt"]


def test_not_a_number_sorts_last(tmp_path):
    results = {"test": {"accuracy": float("nan")}}
    folder = run(tmp_path, "a", 0, results=results, method="pt-toy/other", tuned=3)
    assert "NaN" in (folder / "run.json").read_text()
    frame, _, _ = compared([folder, run(tmp_path, "b", 0.2)], tmp_path)
    assert list(frame["run"]) == ["prompt", "other"]
    assert json.loads(frame.to_json(orient="records"))[1]["accuracy"] is None


def test_errors_are_better_the_smaller_they_are(tmp_path):
    """Also where runs selected by nothing that is shown: NLL .048 stands above .648."""
    for told in ({"directions": {"nll": "min"}}, {}):
        folder = tmp_path / str(len(told))
        runs = [
            run(folder, name, 0, results={"test": {"nll": value}}, tuned=n, method=f"pt-toy/{name}", select=[], **told)
            for n, (name, value) in enumerate((("bad", 0.648), ("good", 0.048)), 1)
        ]
        frame = compare(runs, folder / "page.html")
        assert list(frame["run"]) == ["good", "bad"]


def test_a_task_says_which_way_its_metrics_go(tmp_path):
    runs = [
        run(tmp_path, name, 0, results={"test": {"steps": value}}, tuned=n, method=f"pt-toy/{name}", select=[], directions={"steps": "min"})
        for n, (name, value) in enumerate((("slow", 9.0), ("fast", 2.0)), 1)
    ]  # fmt: skip
    assert list(compare(runs, tmp_path / "page.html")["run"]) == ["fast", "slow"]


def test_how_much_was_measured_ranks_nothing_and_what_was_not_is_undefined(tmp_path):
    """ROC-AUC of one run's test part is not defined: it comes last, whatever else it has."""
    directions = {"roc_auc": "max", "nll": "min"}
    some = {"select": ["roc_auc", "max"], "directions": directions}
    runs = [
        run(tmp_path, "a", 0, results={"test": {"tasks_scored": 0.0, "nll": 0.1}}, method="pt-toy/a", **some),
        run(tmp_path, "b", 0, results={"test": {"roc_auc": 0.6, "tasks_scored": 1.0, "nll": 0.7}}, tuned=9, method="pt-toy/b", **some),
        run(tmp_path, "c", 0, results={"test": {"roc_auc": 0.8, "tasks_scored": 1.0, "nll": 0.9}}, tuned=8, method="pt-toy/c", **some),
    ]  # fmt: skip
    frame, _, _ = compared(runs, tmp_path)
    assert list(frame["run"]) == ["c", "b", "a"]
    table = compare_table(frame).splitlines()
    assert "test roc auc" in table[0]
    assert table[3].split()[:3] == ["a", "1", "undefined"]
    nobody, _, _ = compared(runs[:1], tmp_path)
    assert compare_table(nobody).splitlines()[1].split()[:3] == ["a", "1", "undefined"]


def test_runs_that_are_left_out_are_told(tmp_path):
    runs = [run(tmp_path, "a", 0.5), run(tmp_path, "b", 0.6, status="failed", message="out of memory")]
    frame, _, _ = compared(runs, tmp_path)
    assert frame.attrs["left_out"] == [(str(tmp_path / "b"), "failed: out of memory")]
