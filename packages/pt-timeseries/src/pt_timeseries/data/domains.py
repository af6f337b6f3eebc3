"""Windows of several domains, as the readers hand them over: checked once, the same for every file format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pt_core.errors import DataError

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Domain:
    """Windows of one domain, in the order of their file.

    Attributes:
        name: of the domain (subject, device, load ...).
        values: (window, channel, step) float32.
        labels: class name per window, or None.
        groups: recording per window, or None; splits keep a recording on one side.
        parts: `train` or `test` per window where the file divides them, or None.
    """

    name: str
    values: Floats
    labels: Sequence[str] | None
    groups: Sequence[str] | None = None
    parts: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Domains:
    """All domains of a data set.

    Attributes:
        items: one entry per domain, names distinct.
        classes: class names in order, or empty for unlabelled data.
        notes: sentences on how the data were read.
    """

    items: Sequence[Domain]
    classes: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def names(self) -> list[str]:
        return [domain.name for domain in self.items]


def collect(
    items: Sequence[Domain], source: str, classes: Sequence[str] | None = None, notes: Sequence[str] = ()
) -> Domains:
    """Check domains against each other.

    Raises:
        DataError: no window, a domain with another number of channels or steps than most, values that are not finite,
            or a name that occurs twice; names the domain.
    """
    items = [domain for domain in items if len(domain)]
    if not items:
        raise DataError(f"{source} holds no window")
    seen: set[str] = set()
    for domain in items:
        if domain.name in seen:
            raise DataError(f"{source} has two domains named {domain.name!r}; rename one")
        seen.add(domain.name)
        if domain.values.ndim != 3:
            raise DataError(
                f"domain {domain.name!r} of {source} has an array of shape {domain.values.shape}; "
                "expected (window, channel, step)"
            )
        if domain.labels is not None and len(domain.labels) != len(domain):
            raise DataError(
                f"domain {domain.name!r} of {source} has {len(domain)} windows and {len(domain.labels)} labels"
            )
    shapes = [domain.values.shape[1:] for domain in items]
    usual = max(shapes, key=shapes.count)
    for domain, shape in zip(items, shapes, strict=True):
        for axis, what in ((0, "channels"), (1, "steps")):
            if shape[axis] != usual[axis]:
                raise DataError(
                    f"domain {domain.name!r} of {source} has {shape[axis]} {what}, the others have {usual[axis]}; "
                    "all domains need the same"
                )
        finite = np.isfinite(domain.values).all(axis=(1, 2))
        if not finite.all():
            raise DataError(
                f"domain {domain.name!r} of {source} has {int((~finite).sum())} windows with NaN or infinite values "
                f"(first: window {int(np.argmin(finite))}); fill or remove them"
            )
    if classes is None:
        found = {label for domain in items if domain.labels is not None for label in domain.labels}
        classes = sort_names(found)
    return Domains(items, tuple(classes), tuple(notes))


def sort_names(names: set[str] | Sequence[str]) -> list[str]:
    """Distinct names in order: numerically if all are whole numbers, else by their characters."""
    distinct = set(names)
    if all(name.isascii() and name.isdecimal() for name in distinct):
        return sorted(distinct, key=lambda name: (int(name), name))
    return sorted(distinct)
