"""Prompt tuning of frozen vision backbones.

import pt_vision
run = pt_vision.fit("vpt", data="photos/", shots=16, out="runs/vpt")
pt_vision.load("runs/vpt").predict(["photo.jpg"])
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.2.0"

# The public names and where they live are listed in __init__.pyi, which type checkers read too.
__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *_names]
