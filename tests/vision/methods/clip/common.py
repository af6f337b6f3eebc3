"""Methods on two towers, and cases for the conformance suite."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import pytest
from pt_core import Method
from pt_core.randomness import seeded
from pt_core.run.declare.options import TrainOptions, build_all
from pt_core.run.tasks.classification import Classification
from pt_core.testing import CHECKS, SLOW_CHECKS, MethodCase

from tests.vision.clip.networks import nano
from tests.vision.methods.classification.common import LABELS, Pictures

DATA = {"train": Pictures(21, 1), "val": Pictures(9, 2)}
OPTIONS = TrainOptions(steps=4, batch_size=8, lr=0.05, optimizer="sgd", eval_every=2, device="cpu")


def make(method: type[Method], kind: str = "clip", names: list[str] | None = None, **options: Any) -> Any:
    config = build_all({"config": method.Config}, options)["config"]
    return method(config, {"backbone": nano(kind=kind)}, Classification(names or LABELS))


def seeded_make(method: type[Method], kind: str = "clip", **options: Any) -> Any:
    with seeded(0, "init"):
        return make(method, kind, **options)


def case(method: type[Method], kind: str, parameters: int, **options: Any) -> MethodCase:
    return MethodCase(
        make=partial(make, method, kind, **options),
        data=DATA,
        options=OPTIONS,
        parameters=parameters,
        method_id=f"pt-vision/{sys.modules[method.__module__].ID}",
        other_backbone=partial(nano, 5, kind),
    )


def conformance(cases: dict[str, MethodCase]) -> list[Any]:
    """All checks of all cases; those that start processes are slow."""
    return [
        pytest.param(
            one, run, id=f"{name}-{check}", marks=[pytest.mark.slow] if check in (*SLOW_CHECKS, "reload") else []
        )
        for name, one in cases.items()
        for check, run in {**CHECKS, **SLOW_CHECKS}.items()
    ]
