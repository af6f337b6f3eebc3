"""Kernels that two packages use: each has a slow reference, fast paths that agree with it, and one dispatching function."""

from pt_core.kernels._mode import fast_paths_enabled, reference_kernels
from pt_core.kernels.flops import FLASH_FLOP_FORMULAS, flop_counter
from pt_core.kernels.prompt_attention import prompt_attention

__all__ = ["FLASH_FLOP_FORMULAS", "fast_paths_enabled", "flop_counter", "prompt_attention", "reference_kernels"]
