"""Real images that a library ships."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pt_core.errors import DataError

from pt_vision.data.parts import Found, Part


def read_digits(wanted: Sequence[str]) -> Found:
    """`builtin:digits`: scikit-learn's 1,797 scanned digits, enlarged from 8 to 32 pixels, in fixed parts of 60/15/25 %."""
    if wanted:
        raise DataError("builtin:digits has no columns; leave out --where and --group-column")
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits: Any = load_digits()
    small = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = [np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC)) for one in small]
    rest, test = train_test_split(np.arange(len(images)), test_size=0.25, stratify=digits.target, random_state=0)
    train, val = train_test_split(rest, test_size=0.2, stratify=digits.target[rest], random_state=0)
    parts = {}
    for role, rows in (("train", np.sort(train)), ("val", np.sort(val)), ("test", np.sort(test))):
        labels = [str(digits.target[row]) for row in rows]
        parts[role] = Part([images[row] for row in rows], [f"digit-{row}" for row in rows], labels)
    return Found(parts, [str(number) for number in range(10)])
