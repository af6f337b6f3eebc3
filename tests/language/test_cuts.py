"""The promise of --accumulate, kept by the package's own `fit` with the default options of every method, and with dropout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pt_language
import pytest
from pt_core.artifact import read_artifact
from torch import Tensor

RUN: dict[str, Any] = {
    "data": "builtin:words", "limit": 40, "shots": 5, "steps": 3, "batch_size": 10, "val_fraction": 0.1, "test_fraction": 0.1,
    "device": "cpu", "quiet": True,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "prompt_tuning": ("prompt_tuning", {}),
    "prefix": ("prefix", {}),
    "prefix with dropout": ("prefix", {"dropout": 0.2}),
    "p_tuning": ("p_tuning", {}),
    "iapt": ("iapt", {"bottleneck": 16}),
    "cpt": ("cpt", {"examples": 4}),
    # B starts at zero, where Adam turns the rounding of its smallest gradients into steps.
    "lora": ("lora", {"optimizer": "sgd"}),
    "lora with dropout": ("lora", {"optimizer": "sgd", "dropout": 0.2}),
}
SLOW = ("prefix", "p_tuning", "cpt", "lora")


def tuned(folder: Path, name: str, **options: Any) -> Mapping[str, Tensor]:
    method, own = CASES[name]
    return read_artifact(pt_language.fit(method, out=folder, **{**RUN, **own, **options}).path).tensors


def distance(have: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> float:
    """Largest difference of a tensor, relative to its size."""
    return max(float((have[name] - want[name]).float().norm() / want[name].float().norm()) for name in want)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in CASES])
def test_micro_batches_change_nothing(name: str, tmp_path: Path) -> None:
    whole = tuned(tmp_path / "whole", name)
    for parts in (2, 3):
        assert distance(tuned(tmp_path / f"cut-{parts}", name, accumulate=parts), whole) < 1e-5


@pytest.mark.parametrize("name", ["prefix with dropout", "lora with dropout"])
def test_dropout_is_on_in_these_runs(name: str, tmp_path: Path) -> None:
    assert distance(tuned(tmp_path / "with", name), tuned(tmp_path / "without", name, dropout=0.0)) > 1e-4


def test_a_network_that_draws_for_whole_batches_says_so() -> None:
    from tests.language.common import make

    cls = pt_language.FullFineTuning
    assert make(cls, stochastic=True).coupled
    assert not make(cls).coupled
