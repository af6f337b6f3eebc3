"""Resumable checkpoints and committed stages of a run, both sealed folders of safetensors and JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pt_core.errors import ArtifactError
from pt_core.sealed import read_json, read_manifest, read_tensors, sweep, write_sealed

KEEP = 2
TENSORS, STATE = "tensors.safetensors", "state.json"


@dataclass(frozen=True)
class Snapshot:
    """Tensors and JSON-able state of a run at one moment."""

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


class Checkpoints:
    """The `checkpoints/` and `stages/` folders of a run."""

    def __init__(self, run: Path) -> None:
        self.folder = run / "checkpoints"
        self.stages = run / "stages"

    def sweep(self) -> None:
        sweep(self.folder)
        sweep(self.stages)

    def save(self, step: int, snapshot: Snapshot) -> None:
        """Write checkpoint `step` and prune all but the newest two."""
        write_sealed(self.folder / f"step-{step:08d}", _files(snapshot))
        for old in self.listed()[:-KEEP]:
            shutil.rmtree(old, ignore_errors=True)

    def listed(self) -> list[Path]:
        """Complete checkpoints, oldest first. A folder without a manifest was never finished and does not count."""
        return sorted(path for path in self.folder.glob("step-*") if (path / "manifest.json").is_file())

    def newest(self, name: str | None = None) -> Snapshot | None:
        """The newest checkpoint, or the one called `name`; None where there is none.

        Raises:
            ArtifactError: it is damaged; names the command that continues from the one before.
        """
        listed = self.listed()
        if name is not None:
            chosen = self.folder / name
            if chosen not in listed:
                known = ", ".join(path.name for path in listed) or "none"
                raise ArtifactError(f"the run has no checkpoint {name!r}; it has: {known}")
        elif not listed:
            return None
        else:
            chosen = listed[-1]
        try:
            return _read(chosen)
        except ArtifactError as error:
            others = [path.name for path in listed if path != chosen]
            advice = (
                f"continue from an older one with `resume RUN --checkpoint {others[-1]}`"
                if others
                else "no other is left"
            )
            raise ArtifactError(f"checkpoint {chosen.name} is damaged ({error}); {advice}") from None

    def commit(self, number: int, name: str, snapshot: Snapshot) -> None:
        """Write the state that a finished stage left."""
        write_sealed(self.stages / f"{number:02d}-{name}", _files(snapshot))

    def committed(self, number: int, name: str) -> Snapshot | None:
        """The state a finished stage left, or None.

        Raises:
            ArtifactError: damaged, or another stage is committed under this number (the run's code or data changed).
        """
        found = [path for path in self.stages.glob(f"{number:02d}-*") if (path / "manifest.json").is_file()]
        if not found:
            return None
        if found[0].name != f"{number:02d}-{name}":
            raise ArtifactError(
                f"stage {number} of this run was {found[0].name[3:]!r} and is now {name!r}; resume needs the same method and options"
            )
        return _read(found[0])


def check_resumable(snapshot: Snapshot, options: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose position is none, and one of a run with other options.

    Raises:
        ArtifactError: names the entry, or the options that differ.
    """
    state = snapshot.state
    for name, least in (("stage_number", 1), ("step", 0), ("processes", 1), ("since_best", 0), ("skipped", 0)):
        value = state.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**53:
            raise ArtifactError(
                f"the checkpoint has no valid {name!r} ({str(value)[:40]}); it is damaged or not of a run"
            )
    for name in ("numbers", "results"):
        if not isinstance(state.get(name), dict):
            raise ArtifactError(f"the checkpoint has no valid {name!r}; it is damaged or not of a run")
    stored = state.get("options")
    if not isinstance(stored, dict) or not stored or not options:
        return  # written before options were kept, or by a trainer without a configuration
    different = [name for name in sorted({*stored, *options}) if stored.get(name) != options.get(name)]
    if different:
        told = ", ".join(f"{name} {stored.get(name)!r}, now {options.get(name)!r}" for name in different[:5])
        raise ArtifactError(f"the checkpoint is of a run with other options ({told}); resume needs the same ones")


def _files(snapshot: Snapshot) -> dict[str, Any]:
    return {TENSORS: snapshot.tensors, STATE: json.dumps(snapshot.state)}


def _read(folder: Path) -> Snapshot:
    read_manifest(folder)
    return Snapshot(read_tensors(folder / TENSORS), read_json(folder / STATE))


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def unprefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
