"""Kernels of this package."""

from pt_language.kernels.rational import rational, rational_reference

__all__ = ["rational", "rational_reference"]
