"""Both pages in headless Chromium at desktop and phone width: no error, no request, nothing that scrolls sideways."""

import io

import pytest
from pt_core.run.report import compare, read_run, write_report

from tests.browser import Browser, find_browser
from tests.core.run.report import pages
from tests.core.run.report.test_compare import run

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium"),
]
WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """name -> page of a finished run, one with hostile names, one of many classes, a failed one, and a comparison."""
    folder = tmp_path_factory.mktemp("pages")
    many = [f"species {i}" for i in range(40)]
    runs = {
        "finished": pages.rich_run(folder / "finished"),
        "hostile": pages.rich_run(folder / "hostile", pages.HOSTILE),
        "many": pages.write_run(folder / "many", pages.status(many), [pages.confusion(many)]),
        "failed": pages.write_run(folder / "failed", pages.status(state="failed", message="w" * 300)),
    }
    for name, path in runs.items():
        write_report(folder / f"{name}.html", read_run(path))
    members = [
        run(folder, f"{name}-{seed}", 0.6 + seed / 50, seed, tuned, f"pt-toy/{name}")
        for name, tuned in (("linear", 40), ("prompt", 71), ("a-method-of-a-rather-long-name", 900))
        for seed in range(2)
    ]
    compare(members, folder / "compare.html")
    return {name: folder / f"{name}.html" for name in (*runs, "compare")}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["finished", "hostile", "many", "failed", "compare"])
def test_page_opens_cleanly_at_every_width(name, width, browser, files):
    opened = browser.open(files[name], width, ("document.title", "document.body.innerText.length"))
    assert opened.problems == []
    assert opened.requests == []
    assert opened.width == width, "nothing scrolls sideways"
    assert opened.values[0] != "x", "no script of a label has run"
    assert opened.values[1] > 100


def test_the_dark_theme_is_another_picture(browser, files):
    from PIL import Image

    def brightness(dark):
        picture = browser.open(files["finished"], 390, dark=dark).picture
        return Image.open(io.BytesIO(picture)).convert("L").resize((1, 1)).getpixel((0, 0))

    assert brightness(dark=False) > 200 > 80 > brightness(dark=True)


def test_a_heading_sorts_its_column_by_value(browser, files):
    cells = "[...document.querySelectorAll('table.sortable tbody')][2].rows"
    column = f"JSON.stringify([...{cells}].map(row => row.cells[2].textContent))"
    press = "document.querySelectorAll('table.sortable')[2].tHead.rows[0].cells[2].firstElementChild.click()"
    opened = browser.open(files["finished"], 1280, (column, press, column, press, column))
    before, _, down, _, up = opened.values
    assert before == '["0.500","0.510","0.520","0.530"]'
    assert down == '["0.530","0.520","0.510","0.500"]'
    assert up == before


def test_names_of_points_stay_inside_the_plot(browser, files):
    script = """JSON.stringify([...document.querySelectorAll('svg.plot')].filter(s => s.clientWidth).flatMap(svg => {
        const box = svg.getBoundingClientRect();
        return [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()])
            .filter(([_, t]) => t.left < box.left - 1 || t.right > box.right + 1 || t.top < box.top - 1 || t.bottom > box.bottom + 1)
            .map(([name]) => name);
    }))"""
    for name in ("finished", "compare"):
        for width in WIDTHS:
            assert browser.open(files[name], width, (script,)).values == ["[]"], (name, width)


def test_a_script_error_and_a_request_would_be_seen(browser, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><img src='http://example.org/x.png'><script>nothing()</script><div style='width:2000px'>x</div>"
    )
    opened = browser.open(page, 390)
    assert any("nothing" in problem for problem in opened.problems)
    assert opened.requests == ["http://example.org/x.png"]
    assert opened.width > 390
