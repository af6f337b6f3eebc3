"""Prompt tensors, kernels and the contracts that the pt packages share.

Names are loaded on first use, so that `import pt_core` is quick and command-line help does not wait for torch.
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.2.0"

# The public names and where they live are listed in __init__.pyi, which type checkers read too.
__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *_names]
