"""Prompt tuning of frozen point-cloud Transformers: IDPT, deep prompts, and exact point operators."""

from __future__ import annotations

__version__ = "0.1.0"
