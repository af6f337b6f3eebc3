"""`pt-vision`."""

from __future__ import annotations

from pt_core.run.command.cli import entry

main = entry("pt_vision.modality:Vision")
