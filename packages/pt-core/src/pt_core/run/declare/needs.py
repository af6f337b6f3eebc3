"""What a run needs to be told: its data roles, class names, and libraries. Checked by name alone, before anything is read."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pt_core.errors import ConfigError, UserError, nearest, problem_of
from pt_core.run.declare.class_names import read_class_names
from pt_core.run.declare.class_words import FLAG, FORM
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.registry import MethodInfo
from pt_core.run.declare.roles import parse_roles

EVALUATED = ("val", "test")
"""Roles that every run may have; `train` is another name for the unnamed --data."""
TRACKERS = {"tensorboard": "run", "wandb": "wandb"}
"""Tracker -> the extra that installs it."""
NO_DATA = "--data is missing: give a folder, a table, or a builtin: name"
TRAINED_NAMES = "--class-names: the classes of this method are those of its data; leave it out"


def needs_of(modality: Modality, method: str, values: Mapping[str, Any]) -> MethodInfo | None:
    """The method with what its hosts need; None where a host is unknown, which `resolve` tells."""
    registry = modality.registry
    try:
        return registry.joined(method, registry.hosts_of(method, values))
    except UserError:
        return None


def needs_problems(modality: Modality, method: str, values: Mapping[str, Any], trains: bool = True) -> list[str]:
    """What is missing or too much among --data, --class-names and --trackers; `trains` tells whether the command will need them."""
    problems: list[str] = []
    info = needs_of(modality, method, values)
    given = texts(values.get("data"))
    try:
        roles: Mapping[str, str] | None = parse_roles(given)
    except ConfigError:
        roles = None  # `check_sources` says what is wrong with them
    if info is not None and roles is not None:
        problems += role_problems(info, roles, trains)
    names = values.get("class_names")
    if names is not None:
        if info is not None and is_trained(info) and modality.class_texts:
            if not Path(str(names)).is_file():
                problems.append(f"{FLAG} {str(names)[:100]}: no such file; give {FORM}")
        else:
            problems.append(problem_of(read_class_names, str(names)) or "")
            if info is not None and is_trained(info):
                problems.append(TRAINED_NAMES)
    elif trains and info is not None and not is_trained(info):
        problems.append(no_class_names(info.id))
    if trains:
        problems += [missing_tracker(name) or "" for text in texts(values.get("trackers")) for name in text.split(",")]
    return [problem for problem in problems if problem]


def role_problems(info: MethodInfo, given: Iterable[str], trains: bool = True) -> list[str]:
    """Data roles that a method does not know, or where there are none of these, those that it lacks."""
    given = list(given)
    known = list(dict.fromkeys(("train", *info.roles, *EVALUATED)))
    unknown = [role for role in given if role and role not in known]
    if unknown or not trains:
        return [
            f"--data names role {role!r}{nearest(role, known)}; this method has: {', '.join(known)}" for role in unknown
        ]
    required = {role for role, need in info.roles.items() if not need.optional}
    if not given:
        return [NO_DATA] if required else []
    if "" in given or "train" in given:  # what is behind it may have parts
        return []
    return [missing_role(info, role) for role in sorted(required - set(given))]


def is_trained(info: MethodInfo) -> bool:
    """Whether a method needs data, which then say what the classes are."""
    return any(not need.optional for need in info.roles.values())


def missing_role(info: MethodInfo, role: str) -> str:
    return f"method {info.id!r} needs data role {role!r} ({info.needs[role]}): give --data {role}=PATH"


def no_class_names(method: str) -> str:
    return f"{method} needs no data, but the names of the classes: give --class-names FILE or a,b,c"


def missing_tracker(name: str) -> str | None:
    """The command that installs a tracker, where it is known and not there; it is not imported."""
    if name not in TRACKERS or importlib.util.find_spec(name) is not None:
        return None
    return f"{name!r} is not installed; run: pip install 'pt-core[{TRACKERS[name]}]'"


def texts(given: Any) -> tuple[str, ...]:
    """An option that may be given several times, in a file also as one text."""
    return (given,) if isinstance(given, str) else tuple(map(str, given or ()))
