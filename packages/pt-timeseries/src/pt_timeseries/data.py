"""From files to the parts of a run: labelled sources, and a target that is divided into shots, unlabelled windows and a test part."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from pt_core.data import Batch, Dataset, generator
from pt_core.errors import DataError, nearest
from torch import Tensor

from pt_timeseries.domains import Domain, Domains
from pt_timeseries.options import DataOptions
from pt_timeseries.sources import read

SMALLEST_STD = 1e-6
"""Floor of a channel's standard deviation: a constant channel stays constant."""
TRIES = 16
"""Shuffles of whole recordings tried for a split that keeps every class."""


@dataclass(eq=False)
class WindowDataset:
    """Windows with class indices and domains. Its methods give new data sets and change none.

    Attributes:
        values: (sample, channel, step) float32.
        ids: `domain/number` of each window.
        labels: class index per window, or None.
        classes: class names, which `labels` index.
        domains: domain name per window.
        normalise: how the run normalises (see `DataOptions`).
        known: source names, which `extra["domain"]` of a batch indexes; -1 stands for any other domain. Set by `bind`.
        notes: sentences on how the data were read.
    """

    values: Tensor
    ids: Sequence[str]
    labels: Sequence[int] | None
    classes: Sequence[str]
    domains: Sequence[str]
    normalise: str = "train"
    known: Sequence[str] | None = None
    notes: tuple[str, ...] = ()

    augmented = False

    def __post_init__(self) -> None:
        position = {name: index for index, name in enumerate(self.known or ())}
        self.domain_index = torch.tensor([position.get(name, -1) for name in self.domains], dtype=torch.long)
        self.targets = None if self.labels is None else torch.tensor(list(self.labels), dtype=torch.long)

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, index: int, *, epoch: int | None, seed: int) -> Tensor:
        """(channel, step)."""
        return self.values[index]

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        """inputs (batch, channel, step), target (batch,) or None, extra: domain (batch,)."""
        rows = torch.as_tensor(list(index), dtype=torch.long)
        target = None if self.targets is None else self.targets[rows]
        extra = {"domain": self.domain_index[rows]}
        return Batch(torch.stack(list(samples)), target, rows, [self.ids[i] for i in index], extra)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """(channel,) mean and standard deviation, the latter at least 1e-6."""
        values = self.values.double()
        mean, std = values.mean((0, 2)), values.std((0, 2), correction=0)
        return mean.float(), std.float().clamp(min=SMALLEST_STD)

    def scaled(self, mean: Tensor, std: Tensor) -> WindowDataset:
        """The windows as z-scores under these statistics.

        Raises:
            DataError: another number of channels.
        """
        if len(mean) != self.values.shape[1]:
            raise DataError(
                f"the windows have {self.values.shape[1]} channels, the run was normalised with {len(mean)}"
            )
        return replace(self, values=(self.values - mean[:, None]) / std[:, None])

    def bind(self, task: Any) -> WindowDataset:
        """Normalised as the task says, with domains indexed by its sources."""
        scaled = self.scaled(*task.statistics) if task.statistics is not None else self
        return replace(scaled, known=task.sources)

    def relabel(self, classes: Sequence[str]) -> WindowDataset:
        """The same windows with class indices into another list of names.

        Raises:
            DataError: a window's class is not in the list.
        """
        if self.labels is None:
            return replace(self, classes=list(classes))
        position = {name: index for index, name in enumerate(classes)}
        present = [self.classes[label] for label in sorted(set(self.labels))]
        unknown = [f"{name!r}{nearest(name, classes)}" for name in present if name not in position]
        if unknown:
            raise DataError(
                f"the data have classes that no source has: {', '.join(unknown[:8])} (closed-set adaptation)"
            )
        return replace(self, classes=list(classes), labels=[position[self.classes[label]] for label in self.labels])

    def digests(self) -> list[str]:
        """One digest per window."""
        return [hashlib.sha256(window.numpy().tobytes()).hexdigest()[:24] for window in self.values]

    def identity(self) -> str:
        """Digest of values, labels, classes, domains and normalisation, in order."""
        total = hashlib.sha256(self.values.numpy().tobytes())
        total.update(repr((list(self.labels or ()), list(self.classes), list(self.domains), self.normalise)).encode())
        return total.hexdigest()


def domains_of(dataset: Dataset) -> list[str]:
    """Domain name per sample, also of a subset or of cached features."""
    if isinstance(dataset, WindowDataset):
        return list(dataset.domains)
    base = domains_of(dataset.base)  # type: ignore[attr-defined]
    rows = getattr(dataset, "indices", None)
    return base if rows is None else [base[row] for row in rows]


def load_windows(spec: str, options: DataOptions, seed: int) -> dict[str, WindowDataset]:
    """The parts of a scenario: train and val (labelled sources), unlabeled and shots (target, for adaptation), test (target).

    Target labels are used for the shots and for the test, and for nothing else.

    Raises:
        DataError: no or an unknown target, sources that overlap with it, a source without labels, a target class that no source has, or
            fewer target windows of a class than shots.
    """
    found = read(spec, options, seed)
    targets, sources = choose(found, spec, options)
    notes = list(found.notes)
    known = {label for domain in sources for label in domain.labels or ()}
    classes = [name for name in found.classes if name in known]
    for domain in sources:
        if domain.labels is None:
            raise DataError(f"source {domain.name!r} of {spec} has no labels")
        lost = [name for name in classes if name not in set(domain.labels)]
        if lost:
            notes.append(f"source {domain.name!r} has no window of {', '.join(lost)}")
    for domain in targets:
        foreign = sorted(set(domain.labels or ()) - known)
        if foreign:
            raise DataError(
                f"target {domain.name!r} of {spec} has the class {foreign[0]!r}, which no source has (closed-set adaptation)"
            )
    if len(sources) == 1:
        notes.append(f"{sources[0].name!r} is the only source: no discrimination between sources, nothing to select")
    train = [divide(domain, options.val_fraction, seed) for domain in sources]
    adapt = [divide(domain, options.target_test_fraction, seed) for domain in targets]
    parts = {
        "train": [take(d, kept) for d, (kept, _) in zip(sources, train, strict=True)],
        "val": [take(d, held) for d, (_, held) in zip(sources, train, strict=True)],
        "adapt": [take(d, kept) for d, (kept, _) in zip(targets, adapt, strict=True)],
        "test": [take(d, held) for d, (_, held) in zip(targets, adapt, strict=True)],
    }
    made = {role: _dataset(items, classes, options.normalise) for role, items in parts.items()}
    made["train"] = replace(made["train"], notes=tuple(notes))
    return _with_shots(made, options.target_shots, seed, spec)


def choose(found: Domains, spec: str, options: DataOptions) -> tuple[list[Domain], list[Domain]]:
    """(targets, sources) as the options name them."""
    if not options.target:
        if spec.startswith("builtin:"):
            options = replace(options, target=("t",))
        else:
            raise DataError(f"name the target domain with --target; {spec} has: {', '.join(found.names[:20])}")
    targets = _matching(found, options.target, "--target", spec)
    sources = _matching(found, options.sources, "--sources", spec) if options.sources else None
    both = [domain.name for domain in sources or () if domain in targets]
    if both:
        raise DataError(f"domain {both[0]!r} is both source and target; leave it out of --sources or --target")
    chosen = sources if sources is not None else [domain for domain in found.items if domain not in targets]
    if not chosen:
        raise DataError(f"{spec} has no domain besides the target {options.target[0]!r}: there is no source")
    return targets, chosen


def _matching(found: Domains, patterns: Sequence[str], flag: str, spec: str) -> list[Domain]:
    chosen: list[Domain] = []
    for pattern in patterns:
        matched = [domain for domain in found.items if fnmatchcase(domain.name, pattern)]
        if not matched:
            known = ", ".join(found.names[:20])
            raise DataError(
                f"{flag} {pattern!r}: {spec} has no such domain{nearest(pattern, found.names)}; it has: {known}"
            )
        chosen += [domain for domain in matched if domain not in chosen]
    return chosen


def divide(domain: Domain, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """(kept, held out) rows: by the file's own division, else whole recordings, else the last windows of every class.

    Windows of one recording overlap or follow each other, so they never lie on both sides where recordings are known; where they are
    not, the parts are cut in time, not at random.
    """
    rows = range(len(domain))
    if domain.parts is not None:
        return [r for r in rows if domain.parts[r] == "train"], [r for r in rows if domain.parts[r] != "train"]
    labels = list(domain.labels) if domain.labels is not None else [""] * len(domain)
    groups = domain.groups
    if groups is not None and len(set(groups)) > 1:
        held_groups = _hold_groups(groups, labels, fraction, seed, domain.name)
        return [r for r in rows if groups[r] not in held_groups], [r for r in rows if groups[r] in held_groups]
    held: list[int] = []
    for label in sorted(set(labels)):
        members = [row for row in rows if labels[row] == label]
        count = min(len(members) - 1, max(1, round(fraction * len(members))))
        held += members[len(members) - count :]
    return [row for row in rows if row not in set(held)], sorted(held)


def _hold_groups(groups: Sequence[str], labels: Sequence[str], fraction: float, seed: int, name: str) -> set[str]:
    """Whole recordings of about `fraction` of the windows; of some shuffles the one that loses fewest classes on either side."""
    sizes = Counter(groups)
    order = sorted(sizes)
    best: tuple[tuple[int, float], set[str]] | None = None
    for attempt in range(TRIES):
        mixed = torch.randperm(len(order), generator=generator(seed, "divide", name, attempt)).tolist()
        held: set[str] = set()
        count = 0
        for position in mixed[:-1]:
            if held and count + sizes[order[position]] / 2 > fraction * len(groups):
                break
            held.add(order[position])
            count += sizes[order[position]]
        kept_classes = {label for label, group in zip(labels, groups, strict=True) if group not in held}
        held_classes = {label for label, group in zip(labels, groups, strict=True) if group in held}
        lost = 2 * len(set(labels)) - len(kept_classes) - len(held_classes)
        score = (lost, abs(count / len(groups) - fraction))
        if best is None or score < best[0]:
            best = (score, held)
    assert best is not None
    return best[1]


def take(domain: Domain, rows: Sequence[int]) -> Domain:
    """Some windows of a domain; groups become the positions they had, for ids."""
    labels = None if domain.labels is None else [domain.labels[row] for row in rows]
    return Domain(domain.name, domain.values[list(rows)], labels, [str(row) for row in rows])


def _dataset(items: Sequence[Domain], classes: Sequence[str], normalise: str) -> WindowDataset:
    position = {name: index for index, name in enumerate(classes)}
    labelled = all(domain.labels is not None for domain in items)
    blocks = [domain.values for domain in items]
    if normalise == "domain":
        blocks = [_own_scores(block) for block in blocks]
    return WindowDataset(
        torch.from_numpy(np.concatenate(blocks).astype(np.float32)),
        [f"{domain.name}/{row}" for domain in items for row in domain.groups or ()],
        [position[label] for domain in items for label in domain.labels or ()] if labelled else None,
        list(classes),
        [domain.name for domain in items for _ in range(len(domain))],
        normalise,
    )


def _own_scores(values: Any) -> Any:
    if not len(values):
        return values
    mean, std = values.mean((0, 2), keepdims=True), values.std((0, 2), keepdims=True)
    return (values - mean) / np.maximum(std, SMALLEST_STD)


def _with_shots(made: dict[str, WindowDataset], shots: int, seed: int, spec: str) -> dict[str, WindowDataset]:
    """Draw the labelled shots from the target's adaptation part; what is left of it loses its labels."""
    from pt_core.run.data.sampling import few_shot

    adapt = made.pop("adapt")
    test = made.pop("test")
    chosen: list[int] = []
    if shots and adapt.labels is None:
        raise DataError(f"the target of {spec} has no labels to draw shots from; use --target-shots 0")
    if shots and adapt.labels is not None:
        counts = Counter(adapt.labels)
        short = [f"{adapt.classes[label]} has {count}" for label, count in sorted(counts.items()) if count < shots]
        if short:
            raise DataError(
                f"--target-shots {shots} is more than the target's adaptation part has: {', '.join(short)}; "
                "lower --target-shots or --target-test-fraction"
            )
        chosen = few_shot(adapt.labels, shots, seed)
    rest = sorted(set(range(len(adapt))) - set(chosen))
    made["unlabeled"] = replace(subset(adapt, rest), labels=None)
    if chosen:
        made["shots"] = subset(adapt, chosen)
    if test.labels is not None and len(test):
        made["test"] = test
    return {role: dataset for role, dataset in made.items() if len(dataset)}


def subset(dataset: WindowDataset, rows: Sequence[int]) -> WindowDataset:
    return replace(
        dataset,
        values=dataset.values[list(rows)],
        ids=[dataset.ids[row] for row in rows],
        labels=None if dataset.labels is None else [dataset.labels[row] for row in rows],
        domains=[dataset.domains[row] for row in rows],
    )
