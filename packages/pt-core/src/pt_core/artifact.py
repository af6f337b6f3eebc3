"""The artifact: what was tuned, as safetensors and JSON in one folder that can be shared, loaded, served and tuned on.

Layout: `weights.safetensors` (inference), `training/weights.safetensors` (what only further tuning needs), `card.json`, `README.md`,
`manifest.json`. Nothing read from an artifact reaches an import path, a loader flag or a path outside its folder: the method id and
the task name are looked up among installed methods and tasks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from pt_core import __version__
from pt_core.backbone import Backbone
from pt_core.errors import ArtifactError, BackboneMismatch
from pt_core.fingerprint import Fingerprint
from pt_core.sealed import MANIFEST, check_finite, inside, read_json, read_manifest, read_tensors

FORMAT_VERSION = 2
Card = dict[str, Any]
MIGRATIONS: dict[int, Callable[[Card], Card]] = {1: lambda card: {**card, "hosts": {}}}
"""Version n -> pure function from a card of version n to one of version n + 1."""

_REQUIRED = {"method": str, "config": dict, "task": dict, "backbones": dict, "hosts": dict}
WEIGHTS, TRAINING = "weights.safetensors", "training/weights.safetensors"


@dataclass(frozen=True)
class Artifact:
    """An artifact read from disk; nothing is built yet."""

    folder: Path
    card: Card
    tensors: Mapping[str, Tensor]
    training: Mapping[str, Tensor] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def method(self) -> str:
        return str(self.card["method"])

    def check_backbone(self, role: str, backbone: Backbone, allow_mismatch: bool = False) -> list[str]:
        """Compare a backbone with the one the artifact was tuned on.

        Returns:
            notes (a recast copy, an allowed mismatch) for the user.

        Raises:
            BackboneMismatch: other weights or other preprocessing; names both.
        """
        recorded = self.card["backbones"].get(role)
        if recorded is None:
            raise ArtifactError(
                f"{self.folder} names no backbone for role {role!r}; it has {sorted(self.card['backbones'])}"
            )
        problem, notes = None, []
        ours, theirs = json.loads(json.dumps(backbone.preprocessing)), recorded.get("preprocessing", {})
        if "parts" in recorded:  # of parts that are not loaded nothing is prepared
            ours, theirs = (
                {key: value for key, value in one.items() if key in ours and key in theirs} for one in (ours, theirs)
            )
        for part, found in backbone.fingerprints().items():
            stored = recorded.get("parts", {}).get(part) if part else recorded["fingerprint"]
            if stored is None:
                continue  # a part that the tuned method never saw
            known, name = Fingerprint.from_json(stored), f"{backbone.source}:{part}" if part else backbone.source
            match known.compare(found):
                case "different":
                    problem = (
                        f"it was tuned on {recorded['source']!r} ({known.exact[:12]}, {known.parameters:,} values), "
                        f"but {name!r} is {found.exact[:12]} ({found.parameters:,} values)"
                    )
                case "behaviour" if theirs == ours:  # an input of another size explains other features
                    problem = (
                        f"{name!r} has the weights of {recorded['source']!r}, which it was tuned on, in another network: features of a "
                        f"fixed probe differ by {known.distance(found):.2g} (activation, norm epsilon, pooling, mask or stride)"
                    )
                case "recast":
                    notes.append(f"backbone {name!r} is a {found.dtype} copy of the {known.dtype} one it was tuned on")
        if problem is None and theirs != ours:
            problem = f"it was tuned with preprocessing {theirs}, the backbone has {ours}"
        if problem is None:
            return notes
        if not allow_mismatch:
            raise BackboneMismatch(
                f"{self.folder} does not fit this backbone: {problem}; give the right --backbone/--weights, "
                "or --allow-backbone-mismatch if you know that it fits"
            )
        return [*notes, f"backbone mismatch allowed: {problem}"]


def read_artifact(folder: Path, training: bool = False) -> Artifact:
    """Read and verify an artifact; `folder` is a run folder or its `tuned/`. `training=True` also reads the training view.

    Raises:
        ArtifactError: damaged, incomplete, of a newer format, or not an artifact.
    """
    if (folder / "tuned" / "card.json").is_file():
        folder = folder / "tuned"
    if not (folder / MANIFEST).is_file():
        unfinished = " (the run has not finished: continue it with `resume`)" if (folder / "run.json").is_file() else ""
        raise ArtifactError(f"{folder} holds no tuned artifact{unfinished}")
    manifest = read_manifest(folder)
    for name in (WEIGHTS, "card.json"):
        if name not in manifest["files"]:
            raise ArtifactError(f"{folder / MANIFEST} does not list {name}; the folder is damaged")
    card = migrate(read_json(folder / "card.json"), str(folder))
    _check_card(card, folder / "card.json")
    tensors = read_tensors(inside(folder, WEIGHTS))
    check_finite(tensors, str(folder / WEIGHTS))
    extra = None
    if training:
        extra = read_tensors(inside(folder, TRAINING)) if TRAINING in manifest["files"] else {}
        check_finite(extra, str(folder / TRAINING))
    return Artifact(folder, card, tensors, extra)


def _check_card(card: Card, where: Path) -> None:
    """The shape of what other code reads without asking; methods and tasks judge their own parts."""

    def need(good: bool, key: str) -> None:
        if not good:
            raise ArtifactError(f"{where} has no valid {key!r}")

    for key, kind in _REQUIRED.items():
        need(isinstance(card.get(key), kind), key)
    count, metrics, notes = card.get("parameters"), card.get("metrics", {}), card.get("notes", [])
    need(_is_count(count), "parameters")
    need(isinstance(metrics, dict) and all(isinstance(value, (int, float)) for value in metrics.values()), "metrics")
    need(isinstance(notes, list) and all(isinstance(note, str) for note in notes), "notes")
    need(bool(card["backbones"]), "backbones")
    for role, host in card["hosts"].items():
        good = isinstance(host, dict) and isinstance(host.get("method"), str) and isinstance(host.get("config"), dict)
        need(good, f"hosts/{role}")
    for role, entry in card["backbones"].items():
        need(isinstance(entry, dict) and isinstance(entry.get("source"), str), f"backbones/{role}")
        need(isinstance(entry.get("preprocessing", {}), dict), f"backbones/{role}/preprocessing")
        parts = entry.get("parts", {})
        need(isinstance(parts, dict), f"backbones/{role}/parts")
        need(_is_fingerprint(entry.get("fingerprint")), f"backbones/{role}/fingerprint")
        for name, part in parts.items():
            need(_is_fingerprint(part), f"backbones/{role}/parts/{name}")


def _is_fingerprint(value: Any) -> bool:
    kinds = {"exact": str, "rounded": dict, "dtype": str, "probed": str}
    if not isinstance(value, dict):
        return False
    known = {"probed": "", **value}
    if not all(isinstance(known.get(name), kind) for name, kind in kinds.items()):
        return False
    seen = value.get("behaviour")
    numbers = seen is None or (isinstance(seen, list) and all(_is_size(number) for number in seen))
    return numbers and _is_count(value.get("parameters"))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def migrate(card: Card, where: str) -> Card:
    """Bring a card of an older format to the current one; the file on disk is not touched.

    Raises:
        ArtifactError: the format is newer than this version understands, or not a version number.
    """
    version = card.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ArtifactError(f"{where} has no valid format_version (found {version!r})")
    if version > FORMAT_VERSION:
        raise ArtifactError(
            f"{where} has format version {version}; this pt-core {__version__} reads up to {FORMAT_VERSION}: "
            "install a newer pt-core"
        )
    while version < FORMAT_VERSION:
        card = {**MIGRATIONS[version](card), "format_version": version + 1}
        version += 1
    return card


def _is_size(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e38
