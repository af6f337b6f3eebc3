"""Options from several places, one over the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pt_core.run.declare.hosts import named_hosts


def stacked(
    hosts: Mapping[str, str],
    layers: Mapping[str, Mapping[str, Any]],
    note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """The options of all layers, of which higher ones count.

    A layer also takes back what it overrides under another name: `epochs` the `steps` of lower layers, and another host the options that
    lower layers give for the former one.

    Args:
        hosts: of a strategy, its HOSTS; else empty.
        layers: where options come from -> options, the lowest first.
        note: told which options of a former host are left out.
    """
    found: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for source, options in layers.items():
        if options.get("epochs") is not None and "steps" not in options:
            found.pop("steps", None)
        before, after = named_hosts(hosts, found), named_hosts(hosts, {**found, **options})
        for role in hosts:
            former, now = before[role].rpartition("/")[2], after[role].rpartition("/")[2]
            gone = [key for key in found if key.startswith(f"{role}.")] if former != now else []
            for key in gone:
                del found[key]
            if gone and note is not None:
                names = ", ".join(key.partition(".")[2] for key in gone)
                where = ", ".join(dict.fromkeys(origin[key] for key in gone))
                note(f"{role} is {now!r}: options of {former!r} in {where} are left out ({names})")
        for key, value in options.items():
            found.pop(key, None)  # what was said last stands last
            found[key] = value
            origin[key] = source
    return found
