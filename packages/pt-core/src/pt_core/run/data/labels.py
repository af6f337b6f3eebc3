"""Class indices into other names."""

from __future__ import annotations

from collections.abc import Sequence

from pt_core.errors import DataError, nearest

SHOWN = 8
"""Unknown classes that a message names."""


def relabelled(
    labels: Sequence[int],
    classes: Sequence[str],
    names: Sequence[str],
    problem: str = "the data have classes that are not among the known ones: {}",
) -> list[int]:
    """The same labels as indices into another list of names, such as that of a stored artifact; classes without samples do not count.

    Args:
        problem: what is said of classes that have samples and are not in the list.

    Raises:
        DataError: there are such classes.
    """
    position = {name: index for index, name in enumerate(names)}
    present = [classes[label] for label in sorted(set(labels))]
    unknown = [f"{name!r}{nearest(name, names)}" for name in present if name not in position]
    if unknown:
        raise DataError(problem.format(", ".join(unknown[:SHOWN])))
    return [position[classes[label]] for label in labels]
