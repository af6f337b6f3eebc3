"""Windows of several domains, as the readers hand them over: checked once, the same for every file format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from pt_core.errors import DataError

from pt_timeseries.data.gaps import Floats, filled, lengths
from pt_timeseries.options import DataOptions


@dataclass(frozen=True)
class Domain:
    """Windows of one domain, in the order of their file.

    Attributes:
        name: of the domain (subject, device, load ...).
        values: (window, channel, step) float32; behind the end of a series that is shorter than others stands NaN.
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
    items: Sequence[Domain],
    source: str,
    classes: Sequence[str] | None = None,
    notes: Sequence[str] = (),
    options: DataOptions | None = None,
    length: int | None = None,
) -> Domains:
    """Check domains against each other, and treat missing values and unequal lengths as the options say (None: refuse them).

    Args:
        length: steps to pad or crop to, where an earlier run has settled them.

    Raises:
        DataError: no window, a domain with another number of channels or steps than most, values that are not finite,
            or a name that occurs twice; names the domain.
    """
    options, told = options or DataOptions(), list(notes)
    items = [domain for domain in items if len(domain)]
    if not items:
        why = f" ({'; '.join(notes)}); --window, --unequal pad and --missing say how series are cut" if notes else ""
        raise DataError(f"{source} holds no window{why}")
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
    items = _whole(items, source, options, told)
    items = _equal(items, source, options, length, told)
    if classes is None:
        found = {label for domain in items if domain.labels is not None for label in domain.labels}
        _check_classes(found, sum(map(len, items)), source)
        classes = sort_names(found)
    return Domains(items, tuple(classes), tuple(told))


def _whole(items: Sequence[Domain], source: str, options: DataOptions, notes: list[str]) -> list[Domain]:
    """Domains without missing values: NaN stands behind the ends of series and nowhere else."""
    found = []
    for domain in items:
        ends = lengths(domain.values)
        inside = np.arange(domain.values.shape[2]) < ends[:, None]
        nothing = ends == 0
        bad = np.isinf(domain.values).any((1, 2)) | (nothing & (options.missing != "drop"))
        if bad.any():
            raise DataError(
                f"domain {domain.name!r} of {source} has {int(bad.sum())} windows with infinite values or none at all "
                f"(first: window {int(np.argmax(bad))}); fill or remove them"
            )
        gaps = (np.isnan(domain.values) & inside[:, None]).any((1, 2)) | nothing
        if gaps.any() and options.missing == "error":
            raise DataError(
                f"domain {domain.name!r} of {source} has {int(gaps.sum())} windows with NaN (missing values; first: window "
                f"{int(np.argmax(gaps))}); fill them in, or say --missing interpolate or drop"
            )
        if gaps.any() and options.missing == "drop":
            notes.append(
                f"{int(gaps.sum())} of {len(domain)} windows of {domain.name!r} have missing values and are left out"
            )
            domain = chosen(domain, np.flatnonzero(~gaps).tolist())
        elif gaps.any():
            values = domain.values.copy()
            for row in np.flatnonzero(gaps):
                where = f"domain {domain.name!r} of {source}, window {row},"
                values[row, :, : ends[row]] = filled(values[row, :, : ends[row]].T, "interpolate", where).T
            notes.append(f"missing values in {int(gaps.sum())} windows of {domain.name!r} are interpolated")
            domain = replace(domain, values=values)
        found.append(domain)
    if not any(len(domain) for domain in found):
        raise DataError(f"{source} holds no window without missing values; say --missing interpolate")
    return [domain for domain in found if len(domain)]


def _equal(
    items: Sequence[Domain], source: str, options: DataOptions, length: int | None, notes: list[str]
) -> list[Domain]:
    """Domains of equal channels and steps."""
    counts = [domain.values.shape[1] for domain in items]
    usual = max(counts, key=counts.count)
    for domain, count in zip(items, counts, strict=True):
        if count != usual:
            raise DataError(
                f"domain {domain.name!r} of {source} has {count} channels, the others have {usual}; all domains need the same"
            )
    ends = [lengths(domain.values) for domain in items]
    low, high = min(int(found.min()) for found in ends), max(int(found.max()) for found in ends)
    if options.unequal == "error":
        sizes = [int(found[0]) for found in ends]
        usual = max(sizes, key=sizes.count)
        for domain, found in zip(items, ends, strict=True):
            other = found[found != usual]
            if len(other):
                said = (
                    f"{other[0]} steps"
                    if len(other) == len(found)
                    else f"series of {found.min()} to {found.max()} steps"
                )
                raise DataError(
                    f"domain {domain.name!r} of {source} has {said}, the others have {usual}; all domains need the same: cut them, or say "
                    "--unequal pad or crop"
                )
        return [replace(domain, values=domain.values[:, :, :high]) for domain in items]
    if options.unequal == "crop":
        wanted = length or low
        if low < wanted:
            raise DataError(
                f"{source} has a series of {low} steps; {wanted} are read: leave out series that are shorter"
            )
        if high > wanted:
            notes.append(f"series of {low} to {high} steps are cropped to their first {wanted}")
        return [replace(domain, values=domain.values[:, :, :wanted]) for domain in items]
    if length is not None and high > length:
        raise DataError(f"{source} has a series of {high} steps; at most {length} are read: cut it")
    if low < high:
        notes.append(f"series of {low} to {high} steps are padded to {high}, behind a mask")
    return [replace(domain, values=_padded(domain.values[:, :, :high], high)) for domain in items]


def _padded(values: Floats, steps: int) -> Floats:
    missing = steps - values.shape[2]
    return np.pad(values, ((0, 0), (0, 0), (0, missing)), constant_values=np.nan) if missing else values


def _check_classes(names: set[str], windows: int, source: str) -> None:
    """Refuse what is a number to predict, not a class: more than half of the windows have one of their own."""
    if len(names) > max(20, windows // 2) and all(_is_number(name) for name in names):
        raise DataError(
            f"{source} has {len(names)} different numbers as labels of {windows} windows; classes are predicted here, not numbers"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def chosen(domain: Domain, rows: Sequence[int]) -> Domain:
    """Some windows of a domain."""
    labels, groups, parts = (
        None if found is None else [found[row] for row in rows]
        for found in (domain.labels, domain.groups, domain.parts)
    )
    return Domain(domain.name, domain.values[list(rows)], labels, groups, parts)


def sort_names(names: set[str] | Sequence[str]) -> list[str]:
    """Distinct names in order: numerically if all are whole numbers, else by their characters."""
    distinct = set(names)
    if all(name.isascii() and name.isdecimal() for name in distinct):
        return sorted(distinct, key=lambda name: (int(name), name))
    return sorted(distinct)
