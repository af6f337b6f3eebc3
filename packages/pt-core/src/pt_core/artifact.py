"""The artifact: what was tuned, as safetensors and JSON in one folder that can be shared, loaded, served and tuned on.

Layout: `weights.safetensors` (inference), `training/weights.safetensors` (what only further tuning needs), `card.json`, `README.md`,
`manifest.json`. Nothing read from an artifact reaches an import path, a loader flag or a path outside its folder: the method id and
the task name are looked up among installed methods and tasks.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pt_core import __version__
from pt_core.backbone import Backbone
from pt_core.errors import ArtifactError, BackboneMismatch, UserError
from pt_core.fingerprint import Fingerprint
from pt_core.method import Method
from pt_core.sealed import MANIFEST, check_finite, inside, read_json, read_manifest, read_tensors, write_sealed

FORMAT_VERSION = 1
Card = dict[str, Any]
MIGRATIONS: dict[int, Callable[[Card], Card]] = {}
"""Version n -> pure function from a card of version n to one of version n + 1."""

_REQUIRED = {"method": str, "config": dict, "task": dict, "backbones": dict}
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
        known, found = Fingerprint.from_json(recorded["fingerprint"]), backbone.fingerprint()
        problem, notes = None, []
        match known.compare(found):
            case "different":
                problem = (
                    f"it was tuned on {recorded['source']!r} ({known.exact[:12]}, {known.parameters:,} values), "
                    f"but {backbone.source!r} is {found.exact[:12]} ({found.parameters:,} values)"
                )
            case "recast":
                notes.append(
                    f"backbone {backbone.source!r} is a {found.dtype} copy of the {known.dtype} one it was tuned on"
                )
        ours = json.loads(json.dumps(backbone.preprocessing))
        if problem is None and recorded.get("preprocessing", {}) != ours:
            problem = f"it was tuned with preprocessing {recorded.get('preprocessing')}, the backbone has {ours}"
        if problem is None:
            return notes
        if not allow_mismatch:
            raise BackboneMismatch(
                f"{self.folder} does not fit this backbone: {problem}; give the right --backbone/--weights, "
                "or --allow-backbone-mismatch if you know that it fits"
            )
        return [*notes, f"backbone mismatch allowed: {problem}"]


def card_of(
    method: Method,
    method_id: str,
    extra: Mapping[str, Any] | None = None,
    needed_for: Mapping[str, str] | None = None,
) -> Card:
    """The card of a tuned method.

    Args:
        method_id: `pt-vision/vpt`.
        extra: data summary, metrics, notes and package versions to add.
        needed_for: backbone role -> `fit`, `predict` or both (default both).
    """
    config = asdict(method.config) if is_dataclass(method.config) and not isinstance(method.config, type) else {}
    card: Card = {
        "format_version": FORMAT_VERSION,
        "method": method_id,
        "config": config,
        "task": {"name": method.task.name, **method.task.to_json()},
        "backbones": {
            role: {
                "source": backbone.source,
                "fingerprint": backbone.fingerprint().to_json(),
                "preprocessing": dict(backbone.preprocessing),
                "needed_for": (needed_for or {}).get(role, "fit, predict"),
            }
            for role, backbone in method.backbones.items()
        },
        "parameters": method.parameter_count(),
        "versions": {"pt-core": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    for key, value in (extra or {}).items():
        card[key] = {**card[key], **value} if isinstance(card.get(key), dict) and isinstance(value, Mapping) else value
    return card


def save_artifact(folder: Path, method: Method, card: Card, inference_only: bool = False) -> None:
    """Write the artifact of a tuned method.

    Raises:
        ArtifactError: a tensor is not finite, or the folder cannot be written.
    """
    tensors = method.export("predict")
    check_finite(tensors, "the method")
    files: dict[str, Any] = {WEIGHTS: tensors, "card.json": json.dumps(card, indent=1), "README.md": _readme(card)}
    training = {} if inference_only else method.export("train")
    if training:
        check_finite(training, "the method's training view")
        files[TRAINING] = training
    write_sealed(folder, files)


def restore_for_training(method: Method, artifact: Artifact) -> None:
    """Load both views of an artifact.

    Raises:
        UserError: its training view was left out.
    """
    if method.export("train") and not artifact.training:
        raise UserError(f"{artifact.folder} was exported with --inference-only: it cannot be tuned further")
    method.restore("predict", artifact.tensors)
    method.restore("train", artifact.training or {})


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
    for role, entry in card["backbones"].items():
        need(isinstance(entry, dict) and isinstance(entry.get("source"), str), f"backbones/{role}")
        need(isinstance(entry.get("preprocessing", {}), dict), f"backbones/{role}/preprocessing")
        print_, parts = entry.get("fingerprint"), {"exact": str, "rounded": dict, "dtype": str}
        good = isinstance(print_, dict) and all(isinstance(print_.get(name), kind) for name, kind in parts.items())
        need(good and _is_count(print_.get("parameters")), f"backbones/{role}/fingerprint")


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


def _readme(card: Card) -> str:
    backbones = "\n".join(
        f"- {role}: `{entry['source']}`, fingerprint `{entry['fingerprint']['exact'][:16]}`"
        for role, entry in card["backbones"].items()
    )
    metrics = "\n".join(f"- {name}: {value:.4g}" for name, value in card.get("metrics", {}).items())
    package, _, name = str(card["method"]).partition("/")
    return (
        f"# {name} on a frozen backbone\n\n"
        f"{card['parameters']:,} tuned values of method `{card['method']}`. They work with this backbone only:\n\n{backbones}\n\n"
        f"```\n{package} predict FOLDER INPUT...\n```\n\n"
        + (f"Metrics on the test part:\n\n{metrics}\n\n" if metrics else "")
        + "The folder holds safetensors and JSON, no code. `card.json` has configuration, labels and versions.\n"
    )
