"""The study file: methods x options x data x seeds, and from which cells others start. All that is wrong with it is told at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pt_core.errors import ConfigError, nearest
from pt_core.run.declare.roles import located
from pt_core.run.declare.spec import PATHS
from pt_core.run.study.draws import distribution_problem, drawn

BLOCK = ("options", "grid", "list", "random", "recipe")
"""What may be said for all methods of a group, and below each method."""
GROUP = ("methods", "data", "seeds", "init_from", *BLOCK)
TOP = ("methods", "data", "seeds", "groups", "cells", *BLOCK)
CELL = ("name", "method", "data", "options", "recipe", "seed", "init_from")
ELSEWHERE = {"seed": "seeds", "data": "data"}
"""Options with a key of their own."""
MAX_CELLS = 10_000


@dataclass(frozen=True)
class Declared:
    """One cell as the file describes it, not yet checked against methods and options."""

    method: str
    seed: int
    data: str = ""
    """Name of the data, for names and tables."""
    sources: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    point: Mapping[str, Any] = field(default_factory=dict)
    """The options that the file varies, with this cell's values."""
    recipe: str | None = None
    group: str = ""
    name: str = ""
    """As the file gives it; empty where it gives none."""
    starts: tuple[tuple[str, int], ...] = ()
    """(role, place of the cell it starts from among all cells)."""


def read_study(path: Path) -> dict[str, Any]:
    """The content of a study file, with absolute paths.

    Raises:
        ConfigError: it is missing or no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"study file {path} does not exist") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"study file {path} is not readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"study file {path} must hold a mapping: methods, data, options, grid, seeds ...")
    found: dict[str, Any] = absolute(content)
    return found


def absolute(value: Any, path: bool = False) -> Any:
    """The content with paths made absolute, wherever a key says that its values may be paths."""
    if isinstance(value, Mapping):
        return {key: absolute(item, path or key in PATHS) for key, item in value.items()}
    if isinstance(value, list):
        return [absolute(item, path) for item in value]
    return located(value) if path and isinstance(value, str) else value


def declared(content: Mapping[str, Any]) -> list[Declared]:
    """All cells of a study, those that others start from first.

    Raises:
        ConfigError: everything that is wrong with the file's form.
    """
    problems = _unknown(content, TOP, "")
    groups = content.get("groups")
    cells: list[Declared] = []
    if groups is not None and not (isinstance(groups, Mapping) and groups):
        problems.append("groups must be a mapping of names to methods, data, options ...")
    elif groups is not None:
        shared = {key: value for key, value in content.items() if key not in ("groups", "cells")}
        for name, given in groups.items():
            problems += _unknown(given, GROUP, f"groups.{name}.")
            if isinstance(given, Mapping):
                merged = {**shared, **given}
                for key in ("options", "grid"):
                    if isinstance(shared.get(key), Mapping) and isinstance(given.get(key), Mapping):
                        merged[key] = {**shared[key], **given[key]}
                cells += _group(str(name), merged, cells, problems)
    elif "cells" not in content or "methods" in content:
        cells += _group("", content, cells, problems)
    cells += _explicit(content.get("cells"), len(cells), problems)
    if len(cells) > MAX_CELLS:
        problems.append(f"the study has {len(cells):,} cells, more than {MAX_CELLS:,}")
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    if not cells:
        raise ConfigError("the study has no cells: name methods")
    return cells


def _group(name: str, given: Mapping[str, Any], before: Sequence[Declared], problems: list[str]) -> list[Declared]:
    where = f"groups.{name}." if name else ""
    methods = _methods(given.get("methods"), where, problems)
    data = _data(given.get("data"), f"{where}data", problems)
    seeds = _seeds(given.get("seeds", 1), where, problems)
    common = _points(given, where, problems)
    starts = _starts(given.get("init_from"), where, before, problems)
    cells: list[Declared] = []
    for method, own in methods.items():
        block = f"{where}methods.{method}."
        problems += _unknown(own, BLOCK, block)
        if not isinstance(own, Mapping):
            continue
        options = {**_options(given, where, problems), **_options(own, block, problems)}
        points = [{**a, **b} for a, b in itertools.product(common, _points(own, block, problems))]
        recipe = _recipe(own, block, problems) or _recipe(given, where, problems)
        for (label, sources), point, seed in itertools.product(data.items(), points, seeds):
            cell = Declared(method, seed, label, sources, {**options, **point}, point, recipe, name)
            chosen = [[(role, at) for at in _matching(before, group, cell, role)] for role, group in starts]
            for role_and_group, found in zip(starts, chosen, strict=True):
                if not found:
                    role, group = role_and_group
                    which = f"seed {seed}" if role else f"method {method!r} and seed {seed}"
                    problems.append(f"{where}init_from: group {group!r} has no cell of {which}")
            for combination in itertools.product(*chosen):
                cells.append(Declared(**{**vars(cell), "starts": tuple(combination)}))
    return cells


def _matching(before: Sequence[Declared], group: str, cell: Declared, role: str) -> list[int]:
    """Cells of a group that a cell starts from, one after the other: those of its seed and, where no role is named, its method."""
    return [
        at
        for at, one in enumerate(before)
        if one.group == group and one.seed == cell.seed and (role or one.method == cell.method)
    ]


def _starts(given: Any, where: str, before: Sequence[Declared], problems: list[str]) -> list[tuple[str, str]]:
    if given is None:
        return []
    named = {"": given} if isinstance(given, str) else given
    known = list(dict.fromkeys(cell.group for cell in before))
    if not isinstance(named, Mapping):
        problems.append(f"{where}init_from must name an earlier group, or be a mapping ROLE: GROUP")
        return []
    found = []
    for role, group in named.items():
        if group not in known:
            names = ", ".join(known) or "none"
            problems.append(f"{where}init_from: no group {group!r} above{nearest(str(group), known)}; known: {names}")
        else:
            found.append((str(role), str(group)))
    return found


def _methods(given: Any, where: str, problems: list[str]) -> dict[str, Any]:
    if isinstance(given, str):
        given = [given]
    if isinstance(given, list) and given and all(isinstance(name, str) for name in given):
        twice = sorted({name for name in given if given.count(name) > 1})
        problems += [f"{where}methods names {name!r} twice" for name in twice]
        return {name: {} for name in given}
    if isinstance(given, Mapping) and given:
        return {str(name): own or {} for name, own in given.items()}
    problems.append(f"{where}methods is missing: a list of methods, or a mapping METHOD: {{options: ..., grid: ...}}")
    return {}


def _data(given: Any, where: str, problems: list[str]) -> dict[str, tuple[str, ...]]:
    """Name -> `--data` values."""
    if given is None:
        return {"": ()}
    if isinstance(given, str):
        given = [given]
    if isinstance(given, list) and given and all(isinstance(one, str) for one in given):
        names = _labels(given)
        return {names[i]: (one,) for i, one in enumerate(given)}
    if not isinstance(given, Mapping) or not given:
        problems.append(
            f"{where} must be a source, a list of sources, or a mapping NAME: SOURCE or NAME: {{ROLE: SOURCE}}"
        )
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for name, source in given.items():
        if isinstance(source, str):
            found[str(name)] = (source,)
        elif isinstance(source, Mapping) and source and all(isinstance(one, str) for one in source.values()):
            found[str(name)] = tuple(f"{role}={one}" for role, one in source.items())
        else:
            problems.append(f"{where}.{name} must be a source, or a mapping ROLE: SOURCE")
    return found


def _labels(sources: Sequence[str]) -> list[str]:
    """Short names of sources: the last part of each, where that tells them apart."""
    short = [source.rstrip("/").rpartition("/")[2].rpartition(":")[2] or source for source in sources]
    return list(sources) if len(set(short)) < len(short) else short


def _seeds(given: Any, where: str, problems: list[str]) -> list[int]:
    seeds = list(range(given)) if isinstance(given, int) and not isinstance(given, bool) and given > 0 else given
    good = isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not good:
        problems.append(f"{where}seeds must be a number of seeds, or a list of whole numbers from 0 up, not {given!r}")
        return [0]
    if len(set(seeds)) < len(seeds):
        problems.append(f"{where}seeds names a seed twice")
    return list(dict.fromkeys(seeds))


def _options(given: Mapping[str, Any], where: str, problems: list[str]) -> dict[str, Any]:
    options = given.get("options") or {}
    if not isinstance(options, Mapping):
        problems.append(f"{where}options must be a mapping NAME: VALUE")
        return {}
    _refuse_elsewhere(options, f"{where}options", problems)
    return _plain(options)


def _points(given: Mapping[str, Any], where: str, problems: list[str]) -> list[dict[str, Any]]:
    """Every combination of `grid`, with every entry of `list`, with every draw of `random`."""
    grid, listed = given.get("grid") or {}, given.get("list")
    if not isinstance(grid, Mapping) or not all(isinstance(values, list) and values for values in grid.values()):
        problems.append(f"{where}grid must be a mapping NAME: [VALUE, ...]")
        grid = {}
    rows = [{}] if listed is None else listed
    if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) for row in rows):
        problems.append(f"{where}list must be a list of mappings NAME: VALUE")
        rows = [{}]
    draws = _draws(given.get("random"), f"{where}random", problems)
    for names, place in ((grid, "grid"), *((row, "list") for row in rows), *((row, "random") for row in draws[:1])):
        _refuse_elsewhere(names, f"{where}{place}", problems)
    both = sorted({name for row in (*rows, *draws[:1]) for name in row if name in grid} & set(grid))
    problems += [f"{where}grid names {name!r}, and list or random names it too" for name in both]
    axes = _plain(grid)
    corners = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    return [{**corner, **_plain(row), **draw} for corner, row, draw in itertools.product(corners, rows, draws)]


def _draws(given: Any, where: str, problems: list[str]) -> list[dict[str, Any]]:
    if given is None:
        return [{}]
    problems += _unknown(given, ("draws", "seed", "space"), f"{where}.")
    if not isinstance(given, Mapping):
        return [{}]
    count: Any = given.get("draws")
    space: Any = given.get("space")
    seed = given.get("seed", 0)
    found = len(problems)
    if type(count) is not int or count < 1:
        problems.append(f"{where}.draws must be a whole number from 1 up, not {count!r}")
    if type(seed) is not int:
        problems.append(f"{where}.seed must be a whole number, not {seed!r}")
    if not isinstance(space, Mapping) or not space:
        problems.append(f"{where}.space must be a mapping NAME: {{log: [LOW, HIGH]}} ...")
    else:
        told = (distribution_problem(str(name), values) for name, values in space.items())
        problems += [f"{where.removesuffix('random')}{text}" for text in told if text]
    if len(problems) > found:
        return [{}]
    names = _plain(space)
    return [{name: drawn(names[name], seed, number, name) for name in names} for number in range(count)]


def _recipe(given: Mapping[str, Any], where: str, problems: list[str]) -> str | None:
    recipe = given.get("recipe")
    if recipe is not None and not isinstance(recipe, str):
        problems.append(f"{where}recipe must be a name or a YAML file, not {recipe!r}")
        return None
    return recipe


def _explicit(given: Any, count: int, problems: list[str]) -> list[Declared]:
    """The cells under `cells`, which are named one by one; `init_from` is the name of a cell above, or ROLE: NAME."""
    if given is None:
        return []
    if not isinstance(given, list) or not given:
        problems.append("cells must be a list of mappings: method, data, options, seed, name, init_from")
        return []
    cells: list[Declared] = []
    places: dict[str, int] = {}
    for number, one in enumerate(given):
        where = f"cells[{number}]."
        problems += _unknown(one, CELL, where)
        if not isinstance(one, Mapping):
            continue
        name, method, seed = one.get("name", ""), one.get("method"), one.get("seed", 0)
        if not isinstance(method, str):
            problems.append(f"{where}method is missing")
        if not isinstance(name, str) or (name and name in places):
            problems.append(
                f"{where}name {name!r} is given twice" if isinstance(name, str) else f"{where}name must be a text"
            )
            name = ""
        (seed,) = _seeds([seed], where, problems)
        data = _data(one.get("data"), f"{where}data", problems)
        if isinstance(one.get("data"), Mapping):  # roles of the one source there is
            data = {"": tuple(f"{role}={source}" for role, source in one["data"].items())}
        label, sources = next(iter(data.items()), ("", ()))
        starts: list[tuple[str, int]] = []
        start = one.get("init_from") or {}
        if not isinstance(start, (str, Mapping)):
            problems.append(f"{where}init_from must name a cell above, or be a mapping ROLE: NAME")
            start = {}
        for role, wanted in ({"": start} if isinstance(start, str) else start).items():
            if wanted in places:
                starts.append((str(role), places[wanted]))
            else:
                problems.append(f"{where}init_from: no cell {wanted!r} above{nearest(str(wanted), places)}")
        options = _options(one, where, problems)
        recipe = _recipe(one, where, problems)
        places |= {name: count + len(cells)} if name else {}
        cells.append(Declared(str(method), seed, label, sources, options, {}, recipe, "", name, tuple(starts)))
    return cells


def _unknown(given: Any, known: Iterable[str], where: str) -> list[str]:
    known = list(known)
    if not isinstance(given, Mapping):
        return [f"{where.rstrip('.')} must be a mapping of {', '.join(known)}"]
    return [
        f"unknown key {where}{key}{nearest(str(key), known)}; known: {', '.join(known)}"
        for key in given
        if key not in known
    ]


def _refuse_elsewhere(names: Iterable[Any], where: str, problems: list[str]) -> None:
    problems += [f"{where}.{name}: give it as `{ELSEWHERE[name]}`" for name in names if name in ELSEWHERE]


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Names as options have them: `prompt-length` is `prompt_length`."""
    return {str(name).replace("-", "_"): value for name, value in options.items()}
