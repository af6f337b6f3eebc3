"""Studies end to end on the toy modality: equal bytes, continuing, failing cells, chains, processes, the command."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import yaml
from pt_core.errors import ConfigError, UserError
from pt_core.run.command.api import Api
from pt_core.run.study import work
from pt_core.testing.html import external_requests

from tests.command import called
from tests.core.run import toy

API = Api(toy.Toy)
ROOT = Path(__file__).parents[4]
GRID = {"methods": ["prompt"], "data": "vectors:40", "options": {"epochs": 2}, "grid": {"lr": [0.1, 0.01]}, "seeds": 2}
TUNED = Path("tuned") / "weights.safetensors"


def run(content, out, **options):
    return API.study(content, out, quiet=True, **options)


def tuned(study, cell):
    return (study.run(cell) / TUNED).read_bytes()


@pytest.fixture
def worked(monkeypatch):
    """Names of the folders that cells were really run in."""
    found = []
    execute = work.execute

    def noted(modality, prepared, out, *arguments, **options):
        found.append(out.name)
        return execute(modality, prepared, out, *arguments, **options)

    monkeypatch.setattr(work, "execute", noted)
    return found


def test_cells_tune_the_bytes_of_single_fits(tmp_path):
    study = run(GRID, tmp_path / "study")
    assert study.summary() == "4 cells: 4 finished"
    for cell in study.cells:
        told = {"lr": cell.told.point["lr"], "seed": cell.told.seed, "epochs": 2}
        single = API.fit("prompt", data="vectors:40", out=tmp_path / cell.name, quiet=True, **told)
        assert tuned(study, cell.name) == (single.path / TUNED).read_bytes()
        row = next(row for row in study.rows if row["cell"] == cell.name)
        assert row["test/accuracy"] == single.metrics["accuracy"]
        for name in ("config.yaml", "report.html"):
            assert (study.run(cell.name) / name).is_file()
        assert (study.run(cell.name) / "config.yaml").read_text() == (single.path / "config.yaml").read_text()


def test_tables_and_page(tmp_path):
    study = run(GRID, tmp_path / "study")
    table = pandas.read_csv(study.path / "results.csv")
    assert list(table["cell"]) == [cell.name for cell in study.cells]
    assert set(table["status"]) == {"finished"}
    assert table["val/accuracy"].notna().all()
    assert len(pandas.read_parquet(study.path / "results.parquet")) == 4
    page = (study.path / "study.html").read_text()
    assert all(name in page for name in ("prompt lr=0.1", "2 of 2", "95.0 % interval"))
    assert not external_requests(page)


def test_finished_cells_are_not_run_again_and_a_study_may_grow(tmp_path, worked):
    run(GRID, tmp_path / "study")
    assert len(worked) == 4
    run(GRID, tmp_path / "study")
    assert len(worked) == 4
    study = run({**GRID, "seeds": 3}, tmp_path / "study")
    assert worked[4:] == ["prompt-lr=0.1-seed=2", "prompt-lr=0.01-seed=2"]
    assert study.count("finished") == 6


def test_cells_are_recognised_by_content_wherever_the_data_lie(tmp_path, worked):
    toy.write_table(tmp_path / "a.csv", toy.vectors(40))
    shutil.copy(tmp_path / "a.csv", tmp_path / "b.csv")
    content = {**GRID, "seeds": 1, "grid": {}}
    run({**content, "data": str(tmp_path / "a.csv")}, tmp_path / "study")
    study = run({**content, "data": str(tmp_path / "b.csv")}, tmp_path / "study")
    assert len(worked) == 1
    assert study.count("finished") == 1
    toy.write_table(tmp_path / "b.csv", toy.vectors(36))
    study = run({**content, "data": str(tmp_path / "b.csv")}, tmp_path / "study")
    assert worked == ["prompt-seed=0", "prompt-seed=0-2"], "other content is another run; the first stays"
    assert study.rows[0]["folder"] == "cells/prompt-seed=0-2"


def test_a_failing_cell_is_recorded_and_the_others_go_on(tmp_path, worked):
    content = {**GRID, "data": {"good": "vectors:40", "bad": "vectors:x"}, "grid": {"lr": [0.1, 1e30]}, "seeds": 1}
    study = run(content, tmp_path / "study")
    told = {row["cell"]: (row["status"], row["message"]) for row in study.rows}
    assert told["prompt-good-lr=0.1-seed=0"] == ("finished", "")
    assert told["prompt-good-lr=1e_30-seed=0".replace("_", "+")][0] == "failed"
    assert told["prompt-bad-lr=0.1-seed=0"][1].startswith("ValueError: invalid literal")
    assert all("\n" not in message for _, message in told.values())
    count = len(worked)
    again = run(content, tmp_path / "study")
    assert len(worked) == count, "failed cells wait for --retry-failed"
    assert again.summary() == study.summary()
    run(content, tmp_path / "study", retry_failed=True)
    assert worked[count:] == ["prompt-good-lr=1e+30-seed=0"]


def test_matrix_of_starts_and_what_follows_a_failed_start(tmp_path):
    data = {"a": "vectors:24", "b": "vectors:32"}
    groups = {"source": {"data": {**data, "bad": "vectors:x"}}, "target": {"data": data, "init_from": "source"}}
    study = run({"methods": ["prompt"], "options": {"epochs": 1}, "groups": groups}, tmp_path / "study")
    assert (study.count("finished"), study.count("failed")) == (2 + 4, 1 + 2)
    assert {row["message"] for row in study.rows if "from=bad" in row["cell"]} == {
        "it starts from source-prompt-bad-seed=0, which did not finish"
    }
    start = study.run("source-prompt-a-seed=0")
    single = API.fit("prompt", data="vectors:32", epochs=1, init_from=(str(start),), out=tmp_path / "one", quiet=True)
    assert tuned(study, "target-prompt-b-seed=0-from=a") == (single.path / TUNED).read_bytes()
    assert tuned(study, "target-prompt-b-seed=0-from=a") != tuned(study, "target-prompt-b-seed=0-from=b")
    assert "start" in (study.path / "study.html").read_text()


def test_a_killed_study_continues_to_the_same_bytes(tmp_path, monkeypatch):
    whole = run(GRID, tmp_path / "whole")
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(GRID))
    words = [
        sys.executable,
        "-m",
        "tests.core.run.toy",
        "study",
        str(tmp_path / "grid.yaml"),
        "--out",
        str(tmp_path / "cut"),
    ]
    monkeypatch.setenv("PT_TOY_DIES", "None:5")  # in the second epoch, behind a checkpoint
    assert subprocess.run(words, cwd=ROOT, check=False, capture_output=True).returncode == 9
    monkeypatch.delenv("PT_TOY_DIES")
    first = tmp_path / "cut" / "cells" / "prompt-lr=0.1-seed=0"
    assert json.loads((first.parent / f"{first.name}.json").read_text())["status"] == "running"
    assert list((first / "checkpoints").iterdir()), "it was under way"
    cut = run(tmp_path / "cut", tmp_path / "cut")
    assert cut.count("finished") == 4
    for cell in whole.cells:
        assert tuned(whole, cell.name) == tuned(cut, cell.name)


def test_processes_give_the_same_bytes_also_where_one_dies(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    whole = run(GRID, tmp_path / "whole")
    monkeypatch.setenv("PT_TOY_DIES", "None:5")
    study = run(GRID, tmp_path / "jobs", jobs=2)
    assert study.summary() == "4 cells: 4 finished"
    for cell in whole.cells:
        assert tuned(whole, cell.name) == tuned(study, cell.name)


def test_a_cell_that_kills_every_process_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("PT_TOY_DIES", "None:1")
    study = run({**GRID, "grid": {}, "seeds": 1}, tmp_path / "jobs", jobs=2)
    assert study.rows[0]["message"] == "its process died 2 times (exit status 9; out of memory?)"


def pt(*words):
    return called(toy.main, *words)


def test_command(tmp_path, monkeypatch):
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(GRID))
    file, out = tmp_path / "grid.yaml", tmp_path / "study"
    assert "--out is missing" in pt("study", file).err
    status, text, _ = pt("study", file, "--dry-run")
    assert status == 0
    assert not out.exists()
    assert "4 cells" in text
    status, text, told = pt("study", file, "--out", out, "--only", "*lr=0.1-*")
    assert status == 0
    assert "[2/2] prompt-lr=0.1-seed=1  finished" in told
    assert text.startswith("4 cells: 2 finished, 2 waiting")
    status, text, _ = pt("study", out, "--status")
    assert status == 0
    assert text.count("\nwaiting") + text.startswith("waiting") == 2
    assert pt("study", out, "--only", "nothing*").errors[0].startswith("--only 'nothing*' matches no cell")
    status, text, _ = pt("study", out, "--json")
    assert [row["status"] for row in json.loads(text)] == ["finished"] * 4


def test_places_are_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other").touch()
    with pytest.raises(UserError, match="is a file"):
        run(GRID, tmp_path / "file")
    with pytest.raises(UserError, match="not empty and holds no study"):
        run(GRID, tmp_path / "full")
    with pytest.raises(ConfigError, match="holds no study"):
        run(tmp_path / "full", tmp_path / "new")
    with pytest.raises(ConfigError, match="unknown option"):
        run({**GRID, "options": {"nothing": 1}}, tmp_path / "new")
    assert not (tmp_path / "new").exists(), "nothing is written before everything was checked"
