"""A look at the data before training: copies, class balance, near-empty classes, groups on both sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pt_core.data import Dataset

IMBALANCE = 5.0
"""Largest over smallest class of the training part from which on a warning is given."""
NEAR_EMPTY = 5
"""A class with fewer training samples is called nearly empty."""
SHOWN = 12
"""Classes that the table shows; of more, the largest and the smallest."""


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        counts: role -> class -> samples (class "" for unlabelled data); every named class is listed.
        duplicates: "a/b" -> samples of b whose content is also in a; "a" -> samples that repeat an earlier one of a.
        examples: the same keys -> up to three pairs of sample ids.
        conflicts: pairs (id, id) of equal content and different class.
        shared_groups: "a/b" -> groups that lie in both parts.
        imbalance: role -> largest over smallest non-empty class.
        warnings: one sentence per finding.
    """

    counts: Mapping[str, Mapping[str, int]]
    duplicates: Mapping[str, int]
    examples: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    conflicts: Sequence[tuple[str, str]] = ()
    shared_groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    imbalance: Mapping[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Samples per class and part as a short text table."""
        total = Counter[str]()
        for part in self.counts.values():
            total.update(dict.fromkeys(part, 0) | dict(part))
        classes = list(total)
        if len(classes) > SHOWN:
            by_size = sorted(classes, key=lambda label: -total[label])
            shown = {*by_size[: SHOWN // 2], *by_size[-(SHOWN // 2) :]}
            classes = [label for label in classes if label in shown]
        rows = [["class", *self.counts]]
        rows += [
            [label or "(no class)", *(f"{part.get(label, 0):,}" for part in self.counts.values())] for label in classes
        ]
        if len(total) > len(classes):
            rows.append([f"... {len(total) - len(classes)} more", *("" for _ in self.counts)])
        rows.append(["all", *(f"{sum(part.values()):,}" for part in self.counts.values())])
        if self.imbalance:
            ratios = (f"{self.imbalance[role]:.1f}" if role in self.imbalance else "" for role in self.counts)
            rows.append(["largest/smallest", *ratios])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join(
            "  ".join(
                [
                    f"{row[0]:<{widths[0]}}",
                    *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)),
                ]
            )
            for row in rows
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "counts": {role: dict(part) for role, part in self.counts.items()},
            "duplicates": dict(self.duplicates),
            "examples": {key: [list(pair) for pair in pairs] for key, pairs in self.examples.items()},
            "conflicts": [list(pair) for pair in self.conflicts],
            "shared_groups": {key: list(groups) for key, groups in self.shared_groups.items()},
            "imbalance": dict(self.imbalance),
            "warnings": list(self.warnings),
        }


def audit(roles: Mapping[str, Dataset]) -> Audit:
    """Audit data roles.

    Beyond the contract a dataset may offer `classes` (names), `groups` (one per sample) and `digests()` (one content
    digest per sample); what it lacks is not looked at.
    """
    counts = {role: _counts(dataset) for role, dataset in roles.items()}
    filled = {role: [n for n in part.values() if n] for role, part in counts.items() if "" not in part}
    imbalance = {role: max(sizes) / min(sizes) for role, sizes in filled.items() if sizes}
    duplicates, examples, conflicts = _copies(roles)
    shared = _shared_groups(roles)
    warnings = [*_balance_warnings(counts, imbalance), *_copy_warnings(duplicates, examples, conflicts)]
    for key, groups in shared.items():
        left, right = key.split("/")
        warnings.append(
            f"groups in both {left} and {right}: {len(groups)} ({groups[0]!r} ...); results on {right} are optimistic"
        )
    return Audit(counts, duplicates, examples, conflicts, shared, imbalance, warnings)


def _counts(dataset: Dataset) -> dict[str, int]:
    if dataset.labels is None:
        return {"": len(dataset)}
    tally = Counter(int(label) for label in dataset.labels)
    names: Sequence[str] = getattr(dataset, "classes", None) or ()
    known = {name: tally[index] for index, name in enumerate(names)}
    return known | {str(label): n for label, n in sorted(tally.items()) if not 0 <= label < len(names)}


def _copies(
    roles: Mapping[str, Dataset],
) -> tuple[dict[str, int], dict[str, list[tuple[str, str]]], list[tuple[str, str]]]:
    """Every sample is compared with the first one of the same content in each part, itself excepted."""
    duplicates: dict[str, int] = {}
    examples: dict[str, list[tuple[str, str]]] = {}
    conflicts: list[tuple[str, str]] = []
    first: dict[str, dict[str, tuple[str, int | None]]] = {}
    for role, dataset in roles.items():
        digests = getattr(dataset, "digests", None)
        if digests is None:
            continue
        own = first.setdefault(role, {})
        for index, digest in enumerate(digests()):
            label = None if dataset.labels is None else int(dataset.labels[index])
            here = (dataset.ids[index], label)
            for other, known in first.items():
                if digest not in known:
                    continue
                name, their = known[digest]
                key = role if other == role else f"{other}/{role}"
                duplicates[key] = duplicates.get(key, 0) + 1
                if len(examples.setdefault(key, [])) < 3:
                    examples[key].append((name, here[0]))
                if None not in (label, their) and label != their:
                    conflicts.append((name, here[0]))
            own.setdefault(digest, here)
    return duplicates, examples, conflicts


def _shared_groups(roles: Mapping[str, Dataset]) -> dict[str, list[str]]:
    groups = {
        role: set(found) for role, dataset in roles.items() if (found := getattr(dataset, "groups", None)) is not None
    }
    names = list(groups)
    pairs = ((left, right) for number, left in enumerate(names) for right in names[number + 1 :])
    return {f"{left}/{right}": sorted(both) for left, right in pairs if (both := groups[left] & groups[right])}


def _balance_warnings(counts: Mapping[str, Mapping[str, int]], imbalance: Mapping[str, float]) -> list[str]:
    warnings = []
    train = counts.get("train", {})
    if imbalance.get("train", 1.0) > IMBALANCE:
        sizes = [n for n in train.values() if n]
        warnings.append(
            f"training classes are imbalanced ({max(sizes)} to {min(sizes)}): consider --class-weights or --balanced"
        )
    few = [f"{label} ({n})" for label, n in train.items() if label and n < NEAR_EMPTY]
    if few:
        warnings.append(f"classes with fewer than {NEAR_EMPTY} training samples: {_listed(few)}")
    for role, part in counts.items():
        absent = [label for label, n in part.items() if label and n == 0 and train.get(label, 0)]
        if role != "train" and absent:
            warnings.append(f"classes that {role} has no sample of, so that it says nothing of them: {_listed(absent)}")
    return warnings


def _copy_warnings(
    duplicates: Mapping[str, int],
    examples: Mapping[str, Sequence[tuple[str, str]]],
    conflicts: Sequence[tuple[str, str]],
) -> list[str]:
    warnings = []
    for key, number in duplicates.items():
        left, _, right = key.partition("/")
        pair = " = ".join(examples[key][0])
        if right:
            warnings.append(
                f"samples of {left} that are also in {right}: {number} ({pair}); results on {right} are optimistic"
            )
        else:
            warnings.append(f"repeated samples in {left}: {number} ({pair})")
    if conflicts:
        pair = " = ".join(conflicts[0])
        warnings.append(f"pairs of equal content and different class: {len(conflicts)} (such as {pair})")
    return warnings


def _listed(items: Sequence[str], most: int = 5) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
