"""The Python API: the same runs as the command line."""

from __future__ import annotations

from pt_core.run.command.api import Api, Run

from pt_language.wrapping import wrap

_api = Api("pt_language.modality:Language")
fit, load, load_many, study = _api.fit, _api.load, _api.load_many, _api.study

__all__ = ["Run", "fit", "load", "load_many", "study", "wrap"]
