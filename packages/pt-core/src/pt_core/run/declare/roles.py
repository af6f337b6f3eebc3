"""`ROLE=VALUE` on the command line, and paths among the values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pt_core.errors import ConfigError, nearest


def parse_roles(sources: tuple[str, ...]) -> dict[str, str]:
    """`("DIR",)` or `("train=DIR", "unlabeled=DIR2")` as role -> path; the unnamed one has role ``."""
    roles: dict[str, str] = {}
    problems: list[str] = []
    for source in sources:
        role, found, path = source.partition("=")
        role, path = (role, path) if found and role.isidentifier() else ("", source)
        if role in roles:
            problems.append(f"--data gives role {role or 'train'!r} twice")
        roles[role] = path
    if problems:
        raise ConfigError(problems)
    return roles


def by_role(flag: str, values: Sequence[str], roles: Sequence[str]) -> dict[str, str]:
    """`("SPEC",)` or `("ROLE=SPEC", ...)` as role -> spec; an unnamed one belongs to the only role there is.

    Raises:
        ConfigError: all unknown roles, those that are given twice, and values without a role where there are several.
    """
    chosen: dict[str, str] = {}
    problems: list[str] = []
    for value in values:
        role, found, spec = value.partition("=")
        if not (found and role.isidentifier()):
            if len(roles) > 1:
                problems.append(f"{flag} {value!r}: this method has the backbones {', '.join(roles)}; give ROLE=...")
                continue
            role, spec = roles[0], value
        if role not in roles:
            problems.append(f"{flag} names role {role!r}{nearest(role, roles)}; this method has: {', '.join(roles)}")
        elif role in chosen:
            problems.append(f"{flag} gives role {role!r} twice")
        chosen[role] = spec
    if problems:
        raise ConfigError(problems)
    return chosen


RUN = "run:"
"""Starts a --backbone that is the network of an earlier run."""


def located(value: str) -> str:
    """PATH, ROLE=PATH or run:PATH as it is stored: where the path is something that exists, it is made absolute, so that what is stored
    is found again from another folder. Names of other things stay as they are."""
    role, found, path = value.partition("=")
    if found and role.isidentifier():
        return f"{role}={located(path)}"
    if value.startswith(RUN):
        return RUN + located(value.removeprefix(RUN))
    try:
        return str(Path(value).absolute()) if value and Path(value).exists() else value
    except OSError:  # a text that is too long for a path
        return value
