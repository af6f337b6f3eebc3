"""The page of a run: complete for every state of it, readable for any content, and asking the network for nothing."""

import base64
import json
import math
import re
from html.parser import HTMLParser

import pytest
from pt_core.errors import ArtifactError, UserError
from pt_core.run.declare.panel import Panel
from pt_core.run.report import read_run, write_report
from pt_core.run.report.data import headline
from pt_core.run.report.page import MAX_CLASSES, MAX_ROWS
from pt_core.testing.html import external_requests

from tests.core.run.report import pages

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Reader(HTMLParser):
    """Text, tags and attributes of a page; `open` is what was never closed, `stray` what was closed without being open."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.open, self.stray = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.stray.append(tag)

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)


def page(run, tmp_path):
    """(text of the HTML, reader), after the checks that hold for every page."""
    write_report(tmp_path / "page.html", read_run(run))
    html = (tmp_path / "page.html").read_text()
    reader = Reader(html)
    assert external_requests(html) == []
    assert (reader.open, reader.stray) == ([], [])
    ids = [value for name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids)), "ids are unique on the page"
    return html, " ".join(" ".join(reader.text).split()), reader


def test_finished_run_shows_everything(tmp_path):
    _, text, reader = page(pages.rich_run(tmp_path / "run"), tmp_path)
    for part in ("75.0 % test accuracy", "80.0 % validation accuracy", "71 tuned parameters", "12.3 s training time"):
        assert part in text
    for head in (
        "Curves",
        "Results",
        "Parameters and time",
        "Run",
        "Configuration",
        "Command and environment",
        "Notes",
    ):
        assert head in text
    for panel in pages.every_kind(["ant", "bee", "cat", "dog"]):
        assert panel["title"] in text
    assert "Data: repeated samples in train: 2 (a = b)" in text
    assert "lr: 0.01" in text
    assert "pt-toy fit prompt --data photos" in text
    assert "macro F1 – 0.74" in text, "a metric that one part lacks leaves its cell empty"
    assert reader.tags.count("img") == 11, "12 samples, one without a picture"
    assert "This run" not in text
    assert reader.tags.count("svg") == 8, "5 curves, bars, heatmap, lines"


def test_wrong_predictions_come_first_and_name_the_truth(tmp_path):
    _, text, _ = page(pages.rich_run(tmp_path / "run"), tmp_path)
    first, last = text.rindex("✗ wrong"), text.index("✓ right")
    assert first < last
    assert re.search(r"✗ wrong bee 90.0 % true: ant photos/ant/0.jpg", text)


@pytest.mark.parametrize(
    ("state", "said", "kind"),
    [
        ("failed", "This run failed. loss is nan at step 7", "bad"),
        ("interrupted", "This run was interrupted. loss is nan at step 7", "warn"),
        ("running", "it is still at work, or was killed", "warn"),
        ("on fire", "This run has not finished.", "warn"),
    ],
)
def test_unfinished_run_says_so_and_shows_what_there_is(state, said, kind, tmp_path):
    run = pages.status(state=state, message="loss is nan at step 7")
    failure = {"stage": "train", "step": 7, "loss": "nan", "samples": ["v1-2", "<b>"]}
    html, text, _ = page(pages.write_run(tmp_path / "run", run, metrics=pages.lines(7), failure=failure), tmp_path)
    assert said in text
    assert f'class="message {kind}"' in html
    assert ("state at the failure" in text) == (state == "failed")
    assert ("v1-2" in text) == (state == "failed")
    assert "Loss" in text
    assert "test accuracy" not in text


def test_run_that_failed_before_its_first_step_has_a_page(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"status": "failed", "message": "no luck"}))
    _, text, _ = page(folder, tmp_path)
    assert "This run failed. no luck" in text
    assert "Curves" not in text


def test_without_a_confusion_matrix_and_without_metrics(tmp_path):
    run = pages.status(results={"test": {"rmse": 0.123}})
    _, text, reader = page(pages.write_run(tmp_path / "run", run), tmp_path)
    assert "0.123 test rmse" in text
    assert "Confusion" not in text
    assert "svg" not in reader.tags


def test_undefined_metric_is_shown_as_such(tmp_path):
    line = {"stage": "train", "stage_number": 1, "step": 21, "split": "val", "auroc": math.nan}
    _, text, _ = page(pages.write_run(tmp_path / "run", pages.status(), metrics=[*pages.lines(20), line]), tmp_path)
    assert "AUROC validation NaN at step 21" in text
    lines = [*pages.lines(20), line, {**line, "step": 22}]
    _, text, _ = page(pages.write_run(tmp_path / "twice", pages.status(), metrics=lines), tmp_path)
    assert "no finite values" in text


@pytest.mark.parametrize("count", [MAX_CLASSES, MAX_CLASSES + 1])
def test_many_classes_give_their_most_frequent_confusions_instead_of_a_matrix(count, tmp_path):
    names = [f"species {i}" for i in range(count)]
    run = pages.write_run(tmp_path / "run", pages.status(names), [pages.confusion(names)])
    html, text, _ = page(run, tmp_path)
    assert ('<table class="confusion small">' in html) == (count <= MAX_CLASSES)
    assert ("too many for a matrix" in text) == (count > MAX_CLASSES)
    assert f"of {count} pairs" in text
    assert len(html) < 400_000


def test_long_tables_are_cut_with_a_word(tmp_path):
    rows = [{"class": f"c{i}", "support": i} for i in range(MAX_ROWS + 5)]
    run = pages.write_run(tmp_path / "run", pages.status(), [{"kind": "table", "title": "T", "data": {"rows": rows}}])
    _, text, _ = page(run, tmp_path)
    assert "The first 1,000 of 1,005 rows." in text
    assert "c999 " in text
    assert "c1000 " not in text


def test_hostile_names_are_text_and_nothing_else(tmp_path):
    run = pages.rich_run(tmp_path / "run", pages.HOSTILE)
    lines = [{**line, pages.HOSTILE[1]: 1.0} for line in pages.lines(5, stages=(pages.HOSTILE[0],))]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = pages.status(pages.HOSTILE, state="failed", message=pages.HOSTILE[0], title=pages.HOSTILE[1])
    told |= {
        "notes": list(pages.HOSTILE),
        "command": ["pt-toy", *pages.HOSTILE],
        "environment": {"x": pages.HOSTILE[2]},
    }
    told["data"]["source"] = list(pages.HOSTILE)
    told["audit"]["warnings"] = list(pages.HOSTILE)
    (run / "run.json").write_text(json.dumps(told))
    html, text, reader = page(run, tmp_path)
    assert reader.tags.count("script") == 1, "the page's own"
    assert [name for name, _ in reader.attributes if name.startswith("on")] == []
    for name in pages.HOSTILE[:5]:
        assert " ".join(name.split()) in text
    assert "<script>document" not in html


def test_picture_that_is_none_is_left_out(tmp_path):
    svg = base64.b64encode(b"<svg onload=alert(1)>").decode()
    items = [{"id": "a", "picture": picture} for picture in (svg, "not base64!", 7, "", None)]
    run = pages.write_run(
        tmp_path / "run", pages.status(), [{"kind": "images", "title": "P", "data": {"items": items}}]
    )
    _, text, reader = page(run, tmp_path)
    assert "img" not in reader.tags
    assert text.count("no picture") == 5


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ("{", "report.json could not be read"),
        ("[1, 2]", "report.json could not be read"),
        (json.dumps({"panels": 7}), ""),
        (json.dumps({}), ""),
        (json.dumps({"panels": [7]}), "cannot be shown"),
        (json.dumps({"panels": [{"kind": "movie", "title": "M", "data": {}}]}), "unknown kind; known: table"),
        (json.dumps({"panels": [{"kind": "table", "title": "M", "data": {}}]}), "data lacks 'rows'"),
        (json.dumps({"panels": [{"kind": "table", "title": "M", "data": {"rows": [1]}}]}), "rows must be mappings"),
        (
            json.dumps({"panels": [{"kind": "heatmap", "title": "M", "data": {"values": [[1], [1, 2]]}}]}),
            "filled rectangle",
        ),
        (json.dumps({"panels": [{"kind": "bars", "title": "M", "data": {"a": "b"}}]}), "values must be numbers"),
        (
            json.dumps({"panels": [{"kind": "confusion", "title": "M", "data": {"labels": ["a"], "matrix": []}}]}),
            "1 x 1",
        ),
        (json.dumps({"panels": [{"kind": "lines", "title": "M", "data": {"series": {"a": [1]}}}]}), "another form"),
    ],
)
def test_malformed_report_still_gives_a_page_that_says_what_is_missing(stored, said, tmp_path):
    run = pages.write_run(tmp_path / "run", pages.status(), metrics=pages.lines(3))
    (run / "report.json").write_text(stored)
    _, text, _ = page(run, tmp_path)
    assert said in text
    assert "75.0 % test accuracy" in text


def test_damaged_config_and_a_cut_metric_line_are_said_or_ignored(tmp_path):
    run = pages.rich_run(tmp_path / "run")
    (run / "config.yaml").write_text("a: [")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "tr')
    _, text, _ = page(run, tmp_path)
    assert "config.yaml could not be read" in text


def test_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"run.json does not exist"):
        read_run(tmp_path)


def test_page_that_cannot_be_written_names_its_path(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*page.html"):
        write_report(tmp_path / "file" / "page.html", read_run(pages.write_run(tmp_path / "run", pages.status())))


def test_plots_between_wide_panels_share_a_row(tmp_path):
    html, _, _ = page(pages.rich_run(tmp_path / "run"), tmp_path)
    row = html[html.index('<div class="grid plots">') :]
    row = row[: row.index("Text of a method")]
    assert [title in row for title in ("Norm of the", "Attention to", "Lines of", "Per class")] == [
        True,
        True,
        True,
        False,
    ]


def test_stage_names_stand_where_there_is_room(tmp_path):
    run = pages.write_run(tmp_path / "run", pages.status(), metrics=pages.lines(10, stages=("warm", "a" * 50, "end")))
    _, text, _ = page(run, tmp_path)
    assert "warm" in text
    assert "a" * 50 not in text
    assert "aa…aa" in text


def test_what_was_logged_once_is_told_in_words(tmp_path):
    """There is nothing to draw a line through, and plots are most of what a short run waits for."""
    logged = [
        {"stage": "train", "stage_number": 1, "step": 1, "split": "train", "loss": 0.6931, "<blink>": 1234.5},
        {"stage": "train", "stage_number": 1, "step": 2, "split": "val", "loss": float("nan"), "accuracy": 0.25},
    ]
    html, text, reader = page(pages.write_run(tmp_path / "run", pages.status(), metrics=logged), tmp_path)
    assert "Loss training 0.693 at step 1, validation NaN at step 2" in text
    assert "Accuracy validation 25.0 % at step 2" in text
    assert "1 more curves" in text, "what is not known is folded away"
    assert "training 1,234" in text
    assert "<blink>" not in html
    assert "svg" not in reader.tags
    logged.append({**logged[1], "step": 3, "accuracy": 0.5})
    _, text, reader = page(pages.write_run(tmp_path / "twice", pages.status(), metrics=logged), tmp_path)
    assert reader.tags.count("svg") == 2, "loss and accuracy have two points now"


def test_long_curves_are_binned(tmp_path):
    sizes = []
    for steps in (2000, 20000):
        run = pages.write_run(tmp_path / f"run{steps}", pages.status(), metrics=pages.lines(steps, metrics=("nll",)))
        html, _, _ = page(run, tmp_path)
        sizes.append(len(html))
    assert sizes[1] < 1.3 * sizes[0], "the page does not grow with the number of steps"


@pytest.mark.parametrize(
    ("kind", "data"), [("movie", {}), ("text", {"text": 1}), ("images", {"items": [1]}), ("table", [1])]
)
def test_panel_of_the_wrong_form_is_refused_where_it_is_made(kind, data):
    with pytest.raises(ValueError, match="panel 'T' of kind"):
        Panel("T", kind, data)


def test_headline_has_only_what_the_run_has():
    assert headline({}) == {}
    assert headline({"results": {"val": {"kappa": 0.5}}, "parameters": {"tuned": 3}}) == {
        "validation kappa": 0.5,
        "tuned_parameters": 3,
    }
