"""What self-training does to images and labels: ClassMix, shared colour jitter and blur, masks of blocks, weights of pseudo-labels.

What is drawn for single images takes their keys (`pt_core.randomness`), what holds for a whole batch a generator of the step: neither
depends on how a batch is cut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pt_core.randomness import uniform
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as T

from pt_vision.segmentation.data.masks import IGNORE


def class_masks(labels: Tensor, keys: Tensor, among: Tensor | None = None) -> Tensor:
    """(batch, row, column) bool: True on ceil(n / 2) of n classes, drawn for each image.

    Args:
        labels: (batch, row, column).
        keys: (batch,) of the images.
        among: the n classes; by default those present in each image, ignored pixels apart. As released they are those of the whole batch,
            the ignore value among them.
    """
    masks = []
    for own, lots in zip(labels, uniform(keys, (IGNORE + 1,), "classmix"), strict=True):
        present = own.unique() if among is None else among
        present = present if among is not None else present[present != IGNORE]
        chosen = lots[present].argsort()[: math.ceil(len(present) / 2)]
        masks.append(torch.isin(own, present[chosen]))
    return torch.stack(masks)


def mix(source: Tensor, target: Tensor, masks: Tensor) -> Tensor:
    """M source + (1 - M) target, for images (batch, 3, row, column) or labels and weights (batch, row, column)."""
    return torch.where(masks[:, None] if source.ndim == 4 else masks, source, target)


def colour_and_blur(
    images: Tensor, preprocessing: Mapping[str, Any], rng: torch.Generator, keys: Tensor, strength: float = 0.2
) -> Tensor:
    """Colour jitter with probability 0.8 and Gaussian blur, sigma in 0.15..1.15, with probability 0.5. Normalised images in, normalised
    images out.

    Whether, the order of the four changes and sigma are drawn once for the batch, the factors for every image (as kornia's ColorJitter
    does): 1 +- strength for brightness, contrast and saturation, and a turn of the hue circle by up to +-strength. The changes are
    torchvision's, which scales brightness where kornia 0.5 shifts it.

    Args:
        rng: of the step.
        keys: (batch,) of the images.
    """
    draws, order = torch.rand(3, generator=rng).tolist(), torch.randperm(4, generator=rng).tolist()
    mean, std = (images.new_tensor(preprocessing[key]).view(3, 1, 1) for key in ("mean", "std"))
    if draws[0] > 0.2:
        turns = strength * (2 * uniform(keys, (4,), "colour") - 1)
        colours = (images * std + mean).clamp(0, 1)
        jittered = []
        for image, turn in zip(colours, turns.tolist(), strict=True):
            for which in order:
                change = (T.adjust_brightness, T.adjust_contrast, T.adjust_saturation, T.adjust_hue)[which]
                image = change(image, turn[which] if change is T.adjust_hue else 1 + turn[which])
            jittered.append(image)
        images = (torch.stack(jittered) - mean) / std
    if draws[1] > 0.5:
        sigma = 0.15 + draws[2]
        width = 2 * math.ceil(3 * sigma) + 1
        images = T.gaussian_blur(images, [width, width], [sigma, sigma])
    return images


def block_mask(images: Tensor, block: int, ratio: float, keys: Tensor) -> Tensor:
    """(batch, 1, row, column) of 0 and 1: each block of pixels is 0 with probability `ratio` (masked image consistency)."""
    rows, columns = images.shape[2:]
    cells = uniform(keys, (1, math.ceil(rows / block), math.ceil(columns / block)), "blocks") > ratio
    whole = cells.to(images).repeat_interleave(block, 2).repeat_interleave(block, 3)
    return whole[:, :, :rows, :columns]


def inside_margins(box: Tensor, shape: tuple[int, int], margins: Sequence[float]) -> Tensor:
    """(batch, row, column) of 0 and 1: 0 on the margins of the frames that the crops were cut from.

    Args:
        box: (batch, 4) corner of the crop and size of its frame.
        shape: of the crops.
        margins: shares of the frame's rows at the top and at the bottom, and of its columns at each side.
    """
    rows = torch.arange(shape[0], device=box.device) + 0.5
    columns = torch.arange(shape[1], device=box.device) + 0.5
    top, left, high, wide = (box[:, n : n + 1].float() for n in range(4))
    down, right = (rows + top) / high, (columns + left) / wide
    good_rows = (down >= margins[0]) & (down < 1 - margins[1])
    good_columns = (right >= margins[2]) & (right < 1 - margins[2])
    return (good_rows[:, :, None] & good_columns[:, None, :]).float()


def pseudo_labels(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """(labels (batch, row, column), sure (batch,)): argmax, and the share of each image's pixels whose largest probability is at least tau.
    The published weight q is the share in the WHOLE batch: the mean of `sure` over all images of a step."""
    confidence, labels = logits.float().softmax(1).max(1)
    return labels, (confidence >= threshold).float().mean((1, 2))


def weighted_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy averaged over ALL pixels: ignored ones count as 0, weights multiply single pixels."""
    losses = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")
    return (losses if weights is None else losses * weights).mean()


def majority_mask(labels: Tensor, scale: int, share: float, things: Sequence[int], classes: int) -> Tensor:
    """(batch, row / scale, column / scale) bool: one thing class covers at least `share` of the cell."""
    onehot = F.one_hot(torch.where(labels == IGNORE, classes, labels), classes + 1).permute(0, 3, 1, 2).float()
    covered, winner = F.avg_pool2d(onehot, scale).max(1)
    return (covered >= share) & torch.isin(winner, torch.tensor(list(things), device=labels.device))


def feature_distance(features: Tensor, reference: Tensor, mask: Tensor, cells: Tensor | float | None = None) -> Tensor:
    """Mean over masked positions of the Euclidean distance over channels; 0, with a graph, where the mask is empty.

    Args:
        cells: masked positions that the sum is divided by, where these images are a part of them.
    """
    distance = (features.float() - reference.float() + 1e-12).pow(2).sum(1).clamp(min=1e-24).sqrt()
    count = mask.sum() if cells is None else torch.as_tensor(cells)
    return (distance * mask).sum() / count.clamp(min=1)


def dice_loss(logits: Tensor, labels: Tensor, smooth: float = 1e-5) -> Tensor:
    """1 - mean over classes of (2 sum p y + smooth) / (sum p^2 + sum y^2 + smooth), over the labelled pixels of the whole batch."""
    keep = (labels != IGNORE)[:, None].float()
    p = logits.float().softmax(1) * keep
    y = (labels[:, None] == torch.arange(logits.shape[1], device=labels.device).view(-1, 1, 1)).float()
    both, sizes = (p * y).sum((0, 2, 3)), (p * p).sum((0, 2, 3)) + (y * y).sum((0, 2, 3))
    return 1 - ((2 * both + smooth) / (sizes + smooth)).mean()
