"""From files to the parts of a run: labelled sources, and a target that is divided into shots, unlabelled windows and a test part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from pt_core.errors import DataError, nearest
from pt_core.run.data.sampling import few_shot, fewer_shots, short_classes

from pt_timeseries.data.dataset import WindowDataset, subset, windows_of
from pt_timeseries.data.division import divide, take
from pt_timeseries.data.domains import Domain, Domains
from pt_timeseries.data.sources import read
from pt_timeseries.options import DataOptions


def load_windows(spec: str, options: DataOptions, seed: int) -> dict[str, WindowDataset]:
    """The parts of a scenario: train and val (labelled sources), unlabeled and shots (target, for adaptation), test (target).

    Target labels are used for the shots and for the test, and for nothing else.

    Raises:
        DataError: no or an unknown target, sources that overlap with it, a source without labels, a target class that no source has, or
            fewer target windows of a class than shots where the number must be exact.
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
    handling = (options.normalise, options.unequal, options.missing)
    made = {role: windows_of(items, classes, *handling) for role, items in parts.items()}
    made = _with_shots(made, options, seed, spec, notes)
    made["train"] = replace(made["train"], notes=tuple(notes))
    return made


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


def _with_shots(
    made: dict[str, WindowDataset], options: DataOptions, seed: int, spec: str, notes: list[str]
) -> dict[str, WindowDataset]:
    """Draw the labelled shots from the target's adaptation part; what is left of it loses its labels."""
    adapt = made.pop("adapt")
    test = made.pop("test")
    shots, chosen = options.target_shots, list[int]()
    if shots and adapt.labels is None:
        raise DataError(f"the target of {spec} has no labels to draw shots from; use --target-shots 0")
    if shots and adapt.labels is not None:
        short = short_classes(adapt.labels, shots, adapt.classes)
        if short and options.exact_target_shots:
            raise DataError(
                f"--target-shots {shots} is more than the target's adaptation part has: {', '.join(short)}; "
                "lower --target-shots or --target-test-fraction, or leave out --exact-target-shots"
            )
        note = fewer_shots(adapt.labels, shots, adapt.classes, "target-shots")
        notes += [] if note is None else [note]
        chosen = few_shot(adapt.labels, shots, seed)
    rest = sorted(set(range(len(adapt))) - set(chosen))
    if not rest:
        notes.append("every window of the target's adaptation part is a shot: they serve as its unlabelled windows too")
        rest = chosen
    made["unlabeled"] = replace(subset(adapt, rest), labels=None)
    if chosen:
        made["shots"] = subset(adapt, chosen)
    if test.labels is not None and len(test):
        made["test"] = test
    return {role: dataset for role, dataset in made.items() if len(dataset)}
