"""From options to a run that may start: all that is wrong with them is told at once, before data or weights are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pt_core.errors import ConfigError
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.needs import needs_problems
from pt_core.run.declare.resolve import Layers, Note, check_sources, layered, resolve
from pt_core.run.declare.spec import RunSpec
from pt_core.run.train.world import device_problems


def settled(
    modality: Modality,
    method: str,
    values: Mapping[str, Any],
    recipe: str | None,
    below: Layers | None = None,
    problems: Sequence[str] = (),
    loads: bool = True,
    trains: bool = True,
    loaded: bool = False,
    note: Note | None = None,
) -> tuple[RunSpec | None, list[str]]:
    """(the run that options describe, `problems` and all that is wrong with them); the run is None where they do not resolve.

    Args:
        loads: whether the command will read weights.
        trains: whether it will train, and so needs data and a device.
        loaded: tells that its backbones are at hand.
    """
    layers = layered(modality, method, values, recipe, below)[0]
    named = {key: value for key, value in layers.items() if not loaded or key not in ("backbone", "weights")}
    found = [
        *problems,
        *check_sources(modality, method, named, loads),
        *needs_problems(modality, method, layers, trains),
    ]
    if trains:
        found += device_problems(str(layers.get("device", "auto")), str(layers.get("precision", "fp32")))
    spec = None
    try:
        spec = resolve(modality, method, values, recipe, below, note)
    except ConfigError as error:
        found += error.problems
    return spec, found
