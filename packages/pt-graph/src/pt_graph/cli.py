"""`pt-graph`."""

from __future__ import annotations

from pt_core.run.command.cli import entry

main = entry("pt_graph.modality:Graph")
