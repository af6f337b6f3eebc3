"""The endless stream of drawn pictures with labels, and a page of them to look at."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pt_vision.data import augment
from pt_vision.data.augment import Warp
from pt_vision.glyphs.characters import GLYPHS, glyph_masks
from pt_vision.glyphs.colours import HUES, hue_colours, two_colours
from pt_vision.glyphs.scrawls import Scrawls
from pt_vision.glyphs.shapes import SHAPES, draw_shape
from pt_vision.glyphs.textures import TEXTURES, draw_texture

SCRAWLS = 40
VARIANTS = 96
"""Stored drawings per shape."""

GLYPH_WARP = Warp(rotate=18, scale=(0.65, 1.35), aspect=0.5, shear=0.3, shift=0.16, elastic=0.12)
SHARES = {"glyph": 0.62, "scrawl": 0.18, "shape": 0.07, "texture": 0.13}


class GlyphSource:
    """An endless stream of drawn pictures with labels.

    Attributes:
        class_names: one name per class, `family:name`.
        size: rows and columns of the pictures.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        masks = glyph_masks() + [[draw_shape(kind, rng) for _ in range(VARIANTS)] for kind in SHAPES]
        self.size, self.seed = size, seed
        self.masks = torch.from_numpy(np.stack([np.asarray(mask) for row in masks for mask in row])).unsqueeze(1)
        self.count = torch.tensor([len(row) for row in masks])
        self.first = self.count.cumsum(0) - self.count
        self.scrawls = Scrawls(SCRAWLS, rng)
        families = {
            "glyph": GLYPHS,
            "shape": SHAPES,
            "scrawl": tuple(f"{i:02d}" for i in range(SCRAWLS)),
            "texture": tuple(f"{kind}-{hue}" for kind in TEXTURES for hue in HUES),
        }
        self.class_names = tuple(f"{family}:{name}" for family, names in families.items() for name in names)
        self.families = {family: len(names) for family, names in families.items()}

    def batch(self, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """`size` pictures (batch, 3, row, column) in [0, 1] and their labels (batch,), a function of `rng` alone.

        The families have fixed shares of every batch (SHARES); inside a family the classes are drawn with equal probability.
        """
        sizes = {family: int(SHARES[family] * size) for family in self.families}
        sizes["glyph"] += size - sum(sizes.values())
        local = {f: torch.randint(self.families[f], (sizes[f],), generator=rng) for f in self.families}
        starts = dict(zip(self.families, np.cumsum([0, *self.families.values()]).tolist(), strict=False))
        stored = torch.cat([local["glyph"], local["shape"] + starts["shape"]])
        pick = self.first[stored] + (torch.rand(len(stored), generator=rng) * self.count[stored]).long()
        masks = torch.cat([self.masks[pick].float() / 255, self.scrawls.draw(local["scrawl"], rng)])
        drawn = torch.cat([self._dress(masks, rng), self._texture(local["texture"], rng)])
        labels = torch.cat([local[f] + starts[f] for f in ("glyph", "shape", "scrawl", "texture")])
        order = torch.randperm(size, generator=rng)
        return drawn[order], labels[order]

    def held_out(self, count: int = 2048) -> Iterator[tuple[Tensor, Tensor]]:
        """`count` pictures in batches, from a generator of their own: new draws of the same fonts, shapes and hands."""
        rng = torch.Generator().manual_seed(2**62 + self.seed)
        for done in range(0, count, 256):
            yield self.batch(min(256, count - done), rng)

    def _dress(self, masks: Tensor, rng: torch.Generator) -> Tensor:
        """Masks (batch, 1, CANVAS, CANVAS) -> coloured, bent, worn pictures (batch, 3, size, size)."""
        masks = augment.sometimes(masks, 0.35, rng, augment.thicken)
        masks = augment.sometimes(masks, 0.15, rng, augment.thicken)
        masks = augment.sometimes(masks, 0.25, rng, augment.thin)
        masks = augment.warp(masks, self.size, GLYPH_WARP, rng)
        masks = augment.sometimes(masks, 0.3, rng, augment.blur)
        for _ in range(2):  # two groups, so that a batch holds two resolutions
            masks = augment.sometimes(masks, 0.25, rng, lambda part: augment.low_resolution(part, rng))
        batch = len(masks)
        ink, paper = two_colours(batch, rng)
        shade = augment.uniform(batch, -0.15, 0.15, rng).clamp(min=0).view(-1, 1, 1, 1)
        pictures = paper + (ink - paper) * masks + shade * augment.smooth_noise(batch, 3, 4, self.size, rng)
        return augment.sometimes(pictures.clamp(0, 1), 0.4, rng, lambda part: augment.noise(part, rng))

    def _texture(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """labels: (batch,) kind * len(HUES) + hue -> pictures (batch, 3, size, size)."""
        coloured, grey = hue_colours(labels % len(HUES), rng)
        amount = draw_texture(labels // len(HUES), self.size, rng)
        pictures = grey + (coloured - grey) * amount
        return augment.sometimes(pictures.clamp(0, 1), 0.4, rng, lambda part: augment.noise(part, rng, 0.06))


def example_sheet(source: GlyphSource, columns: int = 16, rows: int = 12, seed: int = 0) -> Image.Image:
    """A page of pictures as training sees them, for looking at."""
    images, _ = source.batch(columns * rows, torch.Generator().manual_seed(seed))
    grid = F.pad(images, (1, 1, 1, 1)).unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    return Image.fromarray((grid * 255).round().byte().numpy())
