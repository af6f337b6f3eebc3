"""From a path or a name to data sets: read, filter, check every image, and give all parts the same classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from pt_core.errors import DataError, nearest

from pt_vision.data.checks import bad_images, check, check_all
from pt_vision.data.dataset import ImageDataset
from pt_vision.data.images import colour
from pt_vision.data.parts import Found, Part, Rows
from pt_vision.data.readers import read
from pt_vision.options import DataOptions


def load_images(spec: str, options: DataOptions | None = None) -> dict[str, ImageDataset]:
    """The parts train, val and test (where there are such) behind a path, `hub:NAME` or `builtin:NAME`.

    All parts share one list of classes: the data's own, or the sorted names in the training part (numerically, if all
    are whole numbers). Undivided data are the single part train.

    Raises:
        DataError: unreadable images (all are listed), a missing column, or classes of a part that training lacks.
        UserError: the path does not exist, is of no known kind, or the hub cannot be reached.
    """
    options = options or DataOptions()
    background = colour(options.background)
    conditions = [_condition(text) for text in options.where]
    group = options.group_column
    found = read(spec, options, list(dict.fromkeys([name for name, _, _ in conditions] + ([group] if group else []))))
    _filter(found, conditions, spec)
    return _datasets(found, options, background, group, spec)


def _condition(text: str) -> tuple[str, bool, list[str]]:
    """(column, whether the values are wanted, values)."""
    name, equal, values = text.partition("=")
    if not equal or not name.strip("! "):
        raise DataError(f"--where {text!r} is not of the form COLUMN=VALUE or COLUMN!=VALUE")
    return name.removesuffix("!").strip(), not name.endswith("!"), [value.strip() for value in values.split("|")]


def _filter(found: Found, conditions: Sequence[tuple[str, bool, list[str]]], spec: str) -> None:
    for name, _, values in conditions:
        known = sorted({value for part in found.parts.values() for value in part.columns[name]})
        unknown = [f"{value!r}{nearest(value, known)}" for value in values if value not in known]
        if unknown:
            raise DataError(
                f"column {name!r} of {spec} never is {', '.join(unknown)}; it holds {', '.join(known[:12])}"
            )
    for name, wanted, values in conditions:
        for role, part in list(found.parts.items()):
            rows = [row for row, value in enumerate(part.columns[name]) if (value in values) == wanted]
            found.parts[role] = _take(part, rows)
            if not rows:
                del found.parts[role]
                found.notes.append(f"no row of the {role} part of {spec} passes --where")
    if not found.parts:
        raise DataError(f"no row of {spec} passes all --where conditions")


def _take(part: Part, rows: Sequence[int]) -> Part:
    columns = {name: [values[row] for row in rows] for name, values in part.columns.items()}
    return Part(Rows(part.sources, rows), [part.ids[row] for row in rows], [part.labels[row] for row in rows], columns)


def _datasets(
    found: Found, options: DataOptions, background: tuple[int, int, int], group: str | None, spec: str
) -> dict[str, ImageDataset]:
    """Check all images of all parts, then give every part the common classes."""
    looks = {role: check_all(part.sources, partial(check, background=background)) for role, part in found.parts.items()}
    bad = [
        (part.ids[row], look.problem)
        for role, part in found.parts.items()
        for row, look in enumerate(looks[role])
        if look.problem is not None
    ]
    total = sum(len(part.ids) for part in found.parts.values())
    if bad and (not options.skip_bad or len(bad) == total):
        raise bad_images(bad, total, "mend or remove them, or leave them out with --skip-bad")
    if bad:
        found.notes.append(f"{len(bad)} of {total} images of {spec} cannot be read and are left out")
    result: dict[str, ImageDataset] = {}
    classes = found.classes
    for role, part in found.parts.items():
        rows = [row for row, look in enumerate(looks[role]) if look.problem is None]
        good = _take(part, rows)
        skipped = tuple(part.ids[row] for row, look in enumerate(looks[role]) if look.problem is not None)
        if not rows:
            continue
        if classes is None:  # the first part is train, where there is one
            classes = sort_names(good.labels)
        position = {name: index for index, name in enumerate(classes)}
        unknown = [name for name in sort_names(good.labels) if name not in position]
        if unknown:
            names = ", ".join(f"{name!r}{nearest(name, classes)}" for name in unknown[:8])
            raise DataError(f"the {role} part of {spec} has classes that the training part lacks: {names}")
        groups = None if group is None else good.columns[group]
        if groups is not None and not all(groups):
            raise DataError(f"{sum(not name for name in groups)} images of the {role} part of {spec} have no {group!r}")
        result[role] = ImageDataset(
            good.sources,
            good.ids,
            [position[name] for name in good.labels],
            classes,
            groups,
            skipped,
            background=background,
            checked=[looks[role][row] for row in rows],
        )
    first = next(iter(result))
    result[first] = replace(result[first], notes=tuple(found.notes))
    return result


def sort_names(names: Sequence[str]) -> list[str]:
    """Distinct names in order: numerically if all are whole numbers, else by their characters."""
    distinct = set(names)
    if all(name.isascii() and name.isdecimal() for name in distinct):
        return sorted(distinct, key=lambda name: (int(name), name))
    return sorted(distinct)
