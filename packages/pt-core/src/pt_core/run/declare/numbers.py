"""What counts as a number in files that people edit."""

from __future__ import annotations

import math
from typing import Any, TypeGuard


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def finite(value: Any) -> TypeGuard[float]:
    return is_number(value) and math.isfinite(value)
