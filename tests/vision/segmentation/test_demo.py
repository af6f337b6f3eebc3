"""The demonstrations of segmentation print what they promise."""

from __future__ import annotations

from pathlib import Path

import pytest
from pt_core.testing.html import external_requests

from tests.command import good


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rows"),
    [("coda", ["source only", "self-training", "coda"]), ("masks", ["linear_seg", "dvpt_seg", "full"])],
)
def test_the_short_demos(name: str, rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = good("demo", name, "--fast")
    head, *lines = said.out.splitlines()
    assert "test miou" in head
    for line, row in zip(lines, rows, strict=False):
        assert line.startswith(row)
        values = line.removeprefix(row).split()
        assert 0.0 < float(values[2]) < 1.0
    if name == "coda":
        assert head.split()[-5:-1] == ["miou/fog", "miou/night", "miou/rain", "miou/snow"]
    assert lines[-1].startswith("next: pt-vision fit ")
    (folder,) = Path("runs").glob(f"demo-{name}-*")
    for page in (folder / "compare.html", *folder.glob("*/seed-0/report.html")):
        assert external_requests(page.read_text(encoding="utf-8")) == [], page
