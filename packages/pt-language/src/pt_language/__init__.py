"""Soft prompts for frozen language models: prompt tuning, prefix tuning, P-tuning, IAPT, CPT."""

from __future__ import annotations

__version__ = "0.1.0"
