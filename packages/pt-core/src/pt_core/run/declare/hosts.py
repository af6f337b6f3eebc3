"""A strategy's hosts among the options: which methods they are, and their options as they were typed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pt_core.errors import ConfigError
from pt_core.run.declare.options import hints, is_flag, is_sequence

_SHARED = "="
"""Starts a default in HOSTS that names another role whose method and options it shares."""


class Words(tuple[str | None, ...]):
    """What followed each mention of a host's option on the command line; None where nothing did. What that means is known only with the
    host's options (`typed`)."""


def shared_role(default: str) -> str | None:
    """The role that a default in HOSTS names, if it names one."""
    return default.removeprefix(_SHARED) if default.startswith(_SHARED) else None


def named_hosts(hosts: Mapping[str, str], options: Mapping[str, Any]) -> dict[str, str]:
    """Host role -> method id as the options say, or by the default in HOSTS."""
    named: dict[str, str] = {}
    for role, default in hosts.items():
        shared = shared_role(default)
        named[role] = str(options.get(role) or (named[shared] if shared else default))
    return named


def host_options(role: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of one host, by their own names."""
    return {key.partition(".")[2]: value for key, value in options.items() if key.startswith(f"{role}.")}


def typed(role: str, cls: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """A host's options with what was typed on the command line read as other flags are: the last mention counts, one that takes several
    values collects them, a switch takes none and is turned off by `--ROLE.no-NAME` (or `--no-ROLE.NAME`).

    Raises:
        ConfigError: options without the value they need; all of them.
    """
    types = hints(cls)
    read: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in options.items():
        positive = name.removeprefix("no_")
        if not isinstance(value, Words):
            read[name] = value
        elif name not in types and positive in types and value[-1] is None:
            read[positive] = False
            if not is_flag(types[positive]):
                problems.append(
                    f"--{role}.{_flag(name)}: {positive!r} is no switch; give --{role}.{_flag(positive)} VALUE"
                )
        elif name not in types:
            read[name] = value[-1]
        elif is_flag(types[name]):
            read[name] = True if value[-1] is None else value[-1]
        elif None in value:
            problems.append(f"option '--{role}.{_flag(name)}' requires an argument")
        elif is_sequence(types[name]):
            read[name] = tuple(part for word in value if word for part in word.split(",") if part)
        else:
            read[name] = value[-1]
    if problems:
        raise ConfigError(problems)
    return read


def _flag(name: str) -> str:
    return name.replace("_", "-")
