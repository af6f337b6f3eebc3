"""Prompt tuning of frozen time-series encoders for multi-source domain adaptation."""

from __future__ import annotations

__version__ = "0.1.0"
