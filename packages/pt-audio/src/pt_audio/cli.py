"""`pt-audio`: see `pt_core.run.cli`."""

from __future__ import annotations

from pt_core.run import cli


def main() -> None:
    """Console entry point."""
    from pt_audio.modality import Audio

    cli.main(Audio)
