"""From a path or a name to the parts of a run, or to those of a few-shot episode."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pt_core.data import generator
from pt_core.errors import DataError

from pt_pointcloud.data.dataset import PointDataset
from pt_pointcloud.data.found import Found, listed, sort_names
from pt_pointcloud.data.sources import read
from pt_pointcloud.options import DataOptions


def load_clouds(spec: str, options: DataOptions | None = None, seed: int = 0) -> dict[str, PointDataset]:
    """The parts train, val and test (where there are such) behind a path or `builtin:shapes`; all share one list of classes.

    Raises:
        DataError: unusable files or arrays, or classes of a part that training lacks.
    """
    options = options or DataOptions()
    found = read(spec, options)
    roles = _datasets(found, spec)
    return _episode(roles, options, seed) if options.ways is not None else roles


def _datasets(found: Found, spec: str) -> dict[str, PointDataset]:
    base = found.roles.get("train") or next(iter(found.roles.values()))
    present = set(base.labels)
    classes = [name for name in found.classes if name in present] if found.classes else sort_names(base.labels)
    position = {name: index for index, name in enumerate(classes)}
    names = found.part_names
    if names is None and base.parts is not None:
        every = (int(p.max()) for part in found.roles.values() for p in part.parts or ())
        names = [str(n) for n in range(max(every) + 1)]
    result: dict[str, PointDataset] = {}
    for role, part in found.roles.items():
        unknown = [name for name in sort_names(part.labels) if name not in position]
        if unknown:
            raise DataError(f"the {role} part of {spec} has classes that the training part lacks: {listed(unknown)}")
        labels = [position[name] for name in part.labels]
        notes = tuple(found.notes) if not result else ()
        result[role] = PointDataset(part.clouds, part.ids, labels, classes, part.parts, names or (), notes)
    return result


def _episode(roles: Mapping[str, PointDataset], options: DataOptions, seed: int) -> dict[str, PointDataset]:
    """A few-shot episode: `ways` classes; per class `queries` test clouds and the rest for training (`--shots` draws from them).

    Raises:
        DataError: fewer classes than ways, or a class with too few clouds.
    """
    assert options.ways is not None
    whole = [(role, row) for role, data in roles.items() for row in range(len(data))]
    first = next(iter(roles.values()))
    classes = list(first.classes)
    if options.ways > len(classes):
        raise DataError(f"--ways {options.ways} is more than the {len(classes)} classes of the data")
    rng = generator(seed, "episode", options.episode)
    chosen = sorted(torch.randperm(len(classes), generator=rng)[: options.ways].tolist())
    rows: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for label in chosen:
        own = [(role, row) for role, row in whole if (roles[role].labels or [])[row] == label]
        if len(own) <= options.queries:
            raise DataError(
                f"class {classes[label]!r} has {len(own)} clouds, --queries {options.queries} leaves none to train on"
            )
        order = [own[n] for n in torch.randperm(len(own), generator=rng).tolist()]
        rows["test"] += order[: options.queries]
        rows["train"] += order[options.queries :]
    names = [classes[label] for label in chosen]
    result = {}
    for role, picked in rows.items():
        parts = [roles[source].subset([row]) for source, row in picked]
        labels = [names.index(classes[(part.labels or [0])[0]]) for part in parts]
        result[role] = PointDataset(
            [part.clouds[0] for part in parts],
            [f"{source}:{part.ids[0]}" for (source, _), part in zip(picked, parts, strict=True)],
            labels,
            names,
        )
    return result
