"""Tuned methods to artifacts and back: the card, both views of the tensors, and what a reader needs to know."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch

from pt_core import __version__
from pt_core.artifact import FORMAT_VERSION, TRAINING, WEIGHTS, Artifact, Card
from pt_core.backbone import Backbone
from pt_core.errors import UserError
from pt_core.method import Method
from pt_core.sealed import check_finite, write_sealed
from pt_core.strategy import Strategy


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
                **_parts(backbone),
                "preprocessing": dict(backbone.preprocessing),
                "needed_for": (needed_for or {}).get(role, "fit, predict"),
                **({"weights": backbone.weights} if backbone.weights else {}),
            }
            for role, backbone in method.backbones.items()
        },
        "hosts": {
            role: {"method": host.method_id, "config": asdict(host.config)}
            for role, host in (method.by_role() if isinstance(method, Strategy) else {}).items()
        },
        "parameters": method.parameter_count(),
        "versions": {"pt-core": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    for key, value in (extra or {}).items():
        card[key] = {**card[key], **value} if isinstance(card.get(key), dict) and isinstance(value, Mapping) else value
    return card


def _parts(backbone: Backbone) -> dict[str, Any]:
    parts = {name: print_.to_json() for name, print_ in backbone.fingerprints().items() if name}
    return {"parts": parts} if parts else {}


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
