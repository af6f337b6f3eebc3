"""Kernels that two packages use: a slow reference, fast paths that agree with it, one dispatching function each."""

from pt_core.kernels._mode import fast_paths_enabled, reference_kernels
from pt_core.kernels.flops import FLASH_FLOP_FORMULAS, flop_counter
from pt_core.kernels.prompt_attention import prompt_attention

__all__ = ["FLASH_FLOP_FORMULAS", "fast_paths_enabled", "flop_counter", "prompt_attention", "reference_kernels"]
