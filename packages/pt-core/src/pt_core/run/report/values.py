"""Numbers as people read them: thousands separators, three significant digits, percent, durations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pt_core.run.declare.numbers import finite, is_number


def number(value: Any) -> str:
    """A value of any kind as short text: 12345 -> `12,345`, 0.00012345 -> `0.000123`, None -> `–`."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    size = abs(value)
    if size >= 1e15 or 0 < size < 1e-4:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.3g}"


def percent(share: float) -> str:
    """0.9342 -> `93.4 %`; shares below 10 % keep two significant digits: 0.00042 -> `0.042 %`."""
    if not math.isfinite(share):
        return number(share)
    value = 100 * share
    if value == 0 or abs(value) >= 9.95:
        return f"{value:.1f} %"
    return f"{value:.2g} %" if abs(value) >= 1e-4 else f"{number(value)} %"


def duration(seconds: float) -> str:
    """0.0384 -> `38 ms`, 192 -> `3 min 12 s`, 3900 -> `1 h 05 min`."""
    if not math.isfinite(seconds):
        return number(seconds)
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 99.95:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def compact(value: float) -> str:
    """For axis ticks: 0.5 -> `0.5`, 1500 -> `1.5k`, 86e6 -> `86M`."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def is_percentage(key: str) -> bool:
    return "accuracy" in key or key.split("/")[-1] in ("share", "score")


def named(key: str, value: Any) -> str:
    """A value in the unit its name implies: accuracies and shares in percent, `*_seconds` as a duration."""
    if is_number(value):
        if "seconds" in key:
            return duration(value)
        if is_percentage(key):
            return percent(value)
    return number(value)


def label(key: str) -> str:
    """`fit_seconds` -> `fit time`, `macro_f1` -> `macro F1`, `miou/fog` -> `mIoU / fog`."""
    words = key.replace("_seconds", " time").replace("_", " ").replace("/", " / ").split()
    return " ".join(_ACRONYMS.get(word, word) for word in words)


_ACRONYMS = {
    "f1": "F1",
    "nll": "NLL",
    "ece": "ECE",
    "auroc": "AUROC",
    "lr": "learning rate",
    "miou": "mIoU",
    "iou": "IoU",
}


def mean_std(key: str, mean: float, std: float, scale: float | None = None) -> str:
    """`93.4 ± 0.6 %`; without the second part where the standard deviation is not defined (one run).

    Args:
        scale: size of the numbers in the same column, which then have as many decimals; default: the mean's own.
    """
    if not math.isfinite(mean):
        return "–"
    if is_percentage(key) or "seconds" in key:
        if not math.isfinite(std):
            return named(key, mean)
        return f"{100 * mean:.1f} ± {100 * std:.1f} %" if is_percentage(key) else f"{duration(mean)} ± {duration(std)}"
    size = abs(mean) if scale is None else scale
    if size and not 1e-4 <= size < 1e6:
        return number(mean) if not math.isfinite(std) else f"{number(mean)} ± {number(std)}"
    digits = 3 if not size or 0.1 <= size < 10 else 2 if 10 <= size < 1000 else max(0, 2 - math.floor(math.log10(size)))
    return f"{mean:,.{digits}f}" + (f" ± {std:,.{digits}f}" if math.isfinite(std) else "")


def column(key: str, values: Iterable[Any]) -> list[str]:
    """A table's column; numbers share one form, so that they line up."""
    cells = list(values)
    numbers = [cell for cell in cells if finite(cell)]
    if any(isinstance(cell, float) for cell in numbers) and not is_percentage(key) and "seconds" not in key:
        if all(0 <= cell <= 1 for cell in numbers):
            return [f"{cell:.3f}" if finite(cell) else number(cell) for cell in cells]
        if all(1e-2 <= abs(cell) < 1e6 or cell == 0 for cell in numbers):
            return [f"{cell:,.2f}" if finite(cell) else number(cell) for cell in cells]
    return [named(key, cell) for cell in cells]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as `a.b` -> value; lists of scalars become one text."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        elif isinstance(value, (list, tuple)):
            flat[name] = ", ".join(number(part) for part in value)
        else:
            flat[name] = value
    return flat


def mapping(value: Any) -> Mapping[str, Any]:
    """`value` if it is a mapping, else an empty one: pages of failed or edited runs must still be readable."""
    return value if isinstance(value, Mapping) else {}


def texts(value: Any) -> list[str]:
    """A list of texts, whatever was stored."""
    if value is None:
        return []
    return [str(part) for part in value] if isinstance(value, (list, tuple)) else [str(value)]
