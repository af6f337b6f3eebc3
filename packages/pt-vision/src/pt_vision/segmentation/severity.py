"""CoDA's severity: the share of dark pixels decides whether an image counts as easy or hard, without any training."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

DARK = 40 / 255
"""Grey values below this are dark."""
SHARE = 0.05
"""From this share of dark pixels on an image is of high severity."""
LUMA = (0.299, 0.587, 0.114)
OFFICIAL_MEAN, OFFICIAL_STD = 114.495 / 255, 57.63 / 255
"""The released code undoes the normalisation with one mean and one deviation for all channels."""


def dark_share(images: Tensor, preprocessing: Mapping[str, Any], official: bool = False) -> Tensor:
    """rho, (batch,) share of pixels whose luma is below 40/255.

    Args:
        images: (batch, 3, row, column), normalised by `preprocessing` (its mean and std).
        official: as released: one mean and deviation for all channels, and the luma weights of red and blue exchanged.
    """
    images = images.detach().float()
    weights = images.new_tensor(LUMA[::-1] if official else LUMA).view(3, 1, 1)
    if official:
        grey = ((images * OFFICIAL_STD + OFFICIAL_MEAN).clamp(0, 1) * weights).sum(1)
    else:
        mean, std = (images.new_tensor(preprocessing[key]).view(3, 1, 1) for key in ("mean", "std"))
        grey = ((images * std + mean).clamp(0, 1) * weights).sum(1)
    # Rounding of the normalisation must not move an 8-bit value over the threshold.
    return (grey < DARK - 1e-4).flatten(1).float().mean(1)


def high_severity(images: Tensor, preprocessing: Mapping[str, Any], official: bool = False) -> Tensor:
    """(batch,) True where rho >= 0.05."""
    return dark_share(images, preprocessing, official) >= SHARE


def split_by_severity(shares: Tensor) -> tuple[list[int], list[int]]:
    """Rows of easy and of hard images."""
    hard = shares >= SHARE
    return torch.nonzero(~hard).flatten().tolist(), torch.nonzero(hard).flatten().tolist()


EDGES = (0.0, 0.01, 0.025, SHARE, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
SHOWN = 12


def severity_panels(shares: Tensor, dataset: Any) -> list[dict[str, Any]]:
    """Report panels: how many images lie in each band of dark share, and pictures from the least to the most severe."""
    from pt_vision.segmentation.pictures import png

    bands: dict[str, int] = {}
    for number, (low, high) in enumerate(pairwise(EDGES)):
        last = number == len(EDGES) - 2
        inside = (shares >= low) & ((shares <= high) if last else (shares < high))
        side = "low" if high <= SHARE else "high"
        bands[f"{low:.1%} to {high:.1%}, {side}"] = int(inside.sum())
    order = shares.argsort().tolist()
    chosen = [
        order[round(n * (len(order) - 1) / max(1, min(SHOWN, len(order)) - 1))] for n in range(min(SHOWN, len(order)))
    ]
    items = [
        {"picture": png(dataset.picture(row)), "id": dataset.ids[row], "predicted": f"{float(shares[row]):.1%} dark"}
        for row in chosen
    ]
    hard = int((shares >= SHARE).sum())
    note = (
        f"Share of pixels darker than 40/255. From {SHARE:.0%} on an image is of high severity: {hard} of {len(shares)} target images are. "
        "Training routes every view by its own severity."
    )
    return [
        {"title": "Severity of the target images", "kind": "bars", "data": bands, "note": note},
        {
            "title": "Target images by severity",
            "kind": "images",
            "data": {"items": items},
            "note": "The least severe first.",
        },
    ]
