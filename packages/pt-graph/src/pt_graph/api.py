"""The Python API: the same runs as the command line."""

from __future__ import annotations

from pt_core.run.command.api import Api, Run

_api = Api("pt_graph.modality:Graph")
fit, load, load_many, study, wrap = _api.fit, _api.load, _api.load_many, _api.study, _api.wrap

__all__ = ["Run", "fit", "load", "load_many", "study", "wrap"]
