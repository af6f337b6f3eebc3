"""Soft prompts for frozen language models: prompt tuning, prefix tuning, P-tuning, IAPT, CPT.

import pt_language
run = pt_language.fit("prompt_tuning", data="reviews.csv", out="runs/pt")
pt_language.load("runs/pt").predict(["a fine film"])
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.2.0"

# The public names and where they live are listed in __init__.pyi, which type checkers read too.
__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *_names]
