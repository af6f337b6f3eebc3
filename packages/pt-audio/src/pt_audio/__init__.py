"""Acoustic prompt tuning: audio as soft prompts for a frozen language model.

import pt_audio
run = pt_audio.fit("acoustic_apt", data="clips/", out="runs/apt")
pt_audio.load("runs/apt").predict(["clip.wav"], ask=("what are the sound events?",))
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.2.0"

# The public names and where they live are listed in __init__.pyi, which type checkers read too.
__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *_names]
