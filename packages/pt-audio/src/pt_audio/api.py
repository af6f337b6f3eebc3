"""The Python API: the same runs as the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pt_core.run import api
from pt_core.run.api import Run
from pt_core.run.predict import MixedPredictor, Predictor

from pt_audio.modality import Audio


def fit(method: str, *, data: str | Sequence[str], **options: Any) -> Run:
    """Tune a method on audio; see `pt_core.run.api.fit`. `options` are the flags of `pt-audio fit METHOD`.

    Raises:
        UserError: as on the command line; nothing is written then.
    """
    return api.fit(Audio(), method, data=data, **options)


def load(run: str | Path | Run, **options: Any) -> Predictor:
    """Load a run or its `tuned/` folder; see `pt_core.run.predict.load` for the options."""
    return api.load(Audio(), run, **options)


def load_many(runs: Sequence[str | Path | Run] | Mapping[str, str | Path], **options: Any) -> MixedPredictor:
    """Load several runs over the same backbone objects for mixed batches."""
    return api.load_many(Audio(), runs, **options)


__all__ = ["Run", "fit", "load", "load_many"]
