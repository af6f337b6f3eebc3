"""`pt-vision`: see `pt_core.run.cli`."""

from __future__ import annotations

from pt_core.run import cli


def main() -> None:
    """Console entry point."""
    from pt_vision.modality import Vision

    cli.main(Vision)
