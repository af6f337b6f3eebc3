"""A study from its file to its tables and page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pt_core.errors import ConfigError, UserError, nearest
from pt_core.run.declare.modality import Modality
from pt_core.run.study.cells import Cell, plan
from pt_core.run.study.folder import Record, StudyFolder, looked_up
from pt_core.run.study.outcome import Study
from pt_core.run.study.page import write_results
from pt_core.run.study.space import absolute, read_study

Say = Callable[[str], None]


def content_of(source: Path | Mapping[str, Any]) -> dict[str, Any]:
    """The content of a study file, of a study's folder, or of a mapping in the file's form.

    Raises:
        ConfigError: there is none.
    """
    if isinstance(source, Mapping):
        found: dict[str, Any] = absolute(source)
        return found
    if source.is_dir():
        study = StudyFolder(source)
        if not study.exists():
            raise ConfigError(f"{source} holds no study (no study.yaml); give a study file and --out")
        return study.content()
    return read_study(source)


def opened(modality: Modality, path: Path, content: Mapping[str, Any] | None = None) -> Study:
    """A study as it lies on disk, without looking at data: what was recorded of each cell."""
    study = StudyFolder(path)
    cells = plan(modality, study.content() if content is None else content)
    return Study(path, cells, looked_up(cells, study.records()))


def run_study(
    modality: Modality,
    source: Path | Mapping[str, Any],
    out: Path,
    *,
    jobs: int = 1,
    only: Sequence[str] = (),
    retry_failed: bool = False,
    say: Say = lambda text: None,
) -> Study:
    """Run the cells that are not finished, one after the other or in `jobs` processes, then write tables and page.

    Args:
        only: patterns such as `vpt-*`; cells whose names match one, and those that they start from.
        say: told a line per cell.

    Raises:
        ConfigError: all that is wrong with the study; nothing is written then.
        Interrupted: a signal arrived; the same call continues.
    """
    from pt_core.run.study.work import ordered

    content = content_of(source)
    cells = plan(modality, content)
    todo = ordered(cells, chosen(cells, only))
    study = StudyFolder(out)
    check_out(study)
    with study.held():
        study.write_content(content)
        before = looked_up(cells, study.records())
        records = dict(before)
        total = len(todo)

        def done(cell: Cell, record: Record) -> None:
            records[cell.name] = record
            number = sum(one.name in finished for one in todo) + 1
            finished.add(cell.name)
            what = f": {record.message}" if record.message else ""
            say(f"[{number}/{total}] {cell.name}  {record.status}{what}")

        finished: set[str] = set()
        try:
            if jobs > 1:
                from pt_core.run.study.local import Processes

                Processes(modality, study, jobs).run(todo, before, retry_failed, done)
            else:
                from pt_core.run.study.local import in_process
                from pt_core.run.study.work import Bench

                in_process(Bench(modality, study, lambda text: None), todo, before, retry_failed, done)
        finally:
            found = Study(out, cells, looked_up(cells, study.records()))
            write_results(found)
    return found


def chosen(cells: Sequence[Cell], only: Sequence[str]) -> set[str]:
    """Names of the cells that patterns match; all where there are none.

    Raises:
        ConfigError: patterns that match nothing.
    """
    names = [cell.name for cell in cells]
    if not only:
        return set(names)
    found: set[str] = set()
    problems = []
    for pattern in only:
        matching = {name for name in names if name == pattern or fnmatchcase(name, pattern)}
        if not matching:
            problems.append(f"--only {pattern!r} matches no cell{nearest(pattern, names)}; `--status` lists them")
        found |= matching
    if problems:
        raise ConfigError(problems)
    return found


def check_out(study: StudyFolder) -> None:
    """Refuse a place that is no study and not empty.

    Raises:
        UserError: it is a file, a run, or a folder with other things.
    """
    path = study.path
    if path.exists() and not path.is_dir():
        raise UserError(f"--out {path} is a file; name a folder")
    if (path / "run.json").exists():
        raise UserError(f"--out {path} holds a run, not a study; choose another --out")
    others = [one.name for one in path.iterdir() if one.name != ".lock"] if path.is_dir() else []
    if others and not study.exists():
        raise UserError(f"--out {path} is not empty and holds no study; choose another --out")
