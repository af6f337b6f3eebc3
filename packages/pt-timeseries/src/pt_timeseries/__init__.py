"""Prompt tuning of frozen time-series encoders for multi-source domain adaptation.

import pt_timeseries
run = pt_timeseries.fit("pond", data="sensors.npz", target="subject7", backbone="file:encoder.safetensors", out="runs/pond")
pt_timeseries.load("runs/pond").predict([window])  # (channel, step)
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.2.0"

# The public names and where they live are listed in __init__.pyi, which type checkers read too.
__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *_names]
