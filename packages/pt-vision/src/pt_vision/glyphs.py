"""Pictures that are drawn here, for pretraining the built-in backbone: glyphs, invented characters, shapes and textures.

The fonts are those inside the matplotlib wheel (DejaVu, STIX, Computer Modern), so no system font is read and the pictures depend
only on the seed and on the versions of matplotlib, Pillow and torch.

Four families of classes:

========== ======================================================================================================
glyph      letters (Latin, Greek, Cyrillic, Georgian, Armenian) and symbols; capitals and small letters of one form are
           one class
scrawl     invented characters of a few curved strokes, drawn each time by a slightly different hand
shape      filled and outlined geometric figures
texture    a pattern times a hue: here, and only here, the colour belongs to the class
========== ======================================================================================================

The ten digits are left out on purpose, and so are the characters drawn like 0, 1 and 3 in many fonts (O, I, l, З, Э), so that digit data
stay a transfer task: new classes for a backbone that has never been shown them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pt_vision import augment
from pt_vision.augment import Warp

CANVAS = 48
"""Rows and columns of the stored masks, in pixels."""
INK = 34
"""Longer side of a glyph on the canvas, in pixels; the rest is room for rotation and growth."""

LATIN = [
    "A",
    "B",
    "Cc",
    "D",
    "E",
    "F",
    "G",
    "H",
    "J",
    "Kk",
    "L",
    "M",
    "N",
    "Pp",
    "Q",
    "R",
    "Ss",
    "T",
    "Uu",
    "Vv",
    "Ww",
    "Xx",
    "Y",
    "Zz",
    "a",
    "b",
    "d",
    "e",
    "f",
    "g",
    "h",
    "i",
    "j",
    "m",
    "n",
    "q",
    "r",
    "t",
    "y",
]
GREEK = [
    "ΓГ",
    "Δ",
    "Θθ",
    "Λ",
    "Ξ",
    "ΠП",
    "Σ",
    "Φφ",
    "Ψψ",
    "Ω",
    "α",
    "β",
    "γ",
    "δ",
    "ε",
    "ζ",
    "η",
    "λ",
    "μ",
    "ξ",
    "π",
    "ρ",
    "σ",
    "τ",
    "ω",
]
CYRILLIC = ["Б", "Дд", "Жж", "Ии", "Лл", "Цц", "Шш", "Щщ", "Ъъ", "Ыы", "Ьь", "Юю", "Яя"]
GEORGIAN = list("ბგდზთლმნრტფქყშცძჭხჯ")
ARMENIAN = list("ԱԲԴԸԹԺԽԾՃՄՇՔՖ")
SYMBOLS = list("&@#$%?!*+=<>()[]{}~§¶©€£¥∞→↑↔⇒√∂∇∈∀∃∅⊂⊕⊗≠≤≈≡±÷∩⊥∠∫")
GLYPHS = tuple(LATIN + GREEK + CYRILLIC + GEORGIAN + ARMENIAN + SYMBOLS)

# Computer Modern's encodings agree with Unicode for Latin letters only; cmsy10 has script capitals.
LATIN_FONTS = ("cmr10", "cmb10", "cmss10", "cmtt10", "cmti10", "cmmi10")
FONTS = (
    *("DejaVuSans" + style for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *("DejaVuSerif" + style for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *("DejaVuSansMono" + style for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *("STIXGeneral" + style for style in ("", "Bol", "Italic", "BolIta")),
    *LATIN_FONTS,
)

SHAPES = (
    *("disc", "ring", "square", "frame", "triangle", "pentagon", "star", "cross", "half-disc", "crescent", "cells"),
    *("ellipse", "rhombus", "blob"),
)
TEXTURES = ("stripes", "checks", "dots", "rings", "grain", "clouds", "patches", "gradient")
HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")
SCRAWLS = 40
VARIANTS = 96
"""Stored drawings per shape."""

GLYPH_WARP = Warp(rotate=18, scale=(0.65, 1.35), aspect=0.5, shear=0.3, shift=0.16, elastic=0.12)
SHARES = {"glyph": 0.62, "scrawl": 0.18, "shape": 0.07, "texture": 0.13}


def font_folder() -> Path:
    """Where matplotlib keeps the fonts it ships."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def covered(font: str) -> set[str]:
    """The characters that `font` (a file name without suffix) draws as Unicode names them."""
    from matplotlib.ft2font import FT2Font

    known = {chr(code) for code in FT2Font(str(font_folder() / f"{font}.ttf")).get_charmap()}
    return {c for c in known if c.isascii() and c.isalpha()} if font in LATIN_FONTS else known


def draw_glyph(character: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """One character as a white mask on a CANVAS x CANVAS square, centred by its ink, longer side INK pixels."""
    left, top, right, bottom = font.getbbox(character)
    ink = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4))
    ImageDraw.Draw(ink).text((2 - left, 2 - top), character, fill=255, font=font)
    ink = ink.crop(ink.getbbox())
    ratio = INK / max(ink.size)
    ink = ink.resize((max(1, round(ink.width * ratio)), max(1, round(ink.height * ratio))), Image.Resampling.LANCZOS)
    canvas = Image.new("L", (CANVAS, CANVAS))
    canvas.paste(ink, ((CANVAS - ink.width) // 2, (CANVAS - ink.height) // 2))
    return canvas


def glyph_masks() -> list[list[Image.Image]]:
    """For each class of GLYPHS, its characters in every font that has them."""
    masks: list[list[Image.Image]] = [[] for _ in GLYPHS]
    for name in FONTS:
        font = ImageFont.truetype(str(font_folder() / f"{name}.ttf"), 96, layout_engine=ImageFont.Layout.BASIC)
        known = covered(name)
        for row, characters in zip(masks, GLYPHS, strict=True):
            row.extend(draw_glyph(c, font) for c in characters if c in known)
    return masks


def _polygon(corners: int, radii: tuple[float, ...]) -> list[tuple[float, float]]:
    centre, steps = CANVAS / 2, corners * len(radii)
    return [
        (centre + radii[i % len(radii)] * math.sin(2 * math.pi * i / steps),
         centre - radii[i % len(radii)] * math.cos(2 * math.pi * i / steps))
        for i in range(steps)
    ]  # fmt: skip


def draw_shape(kind: str, rng: np.random.Generator) -> Image.Image:
    """One figure of SHAPES as a white mask on a CANVAS x CANVAS square, in random proportions."""
    image = Image.new("L", (CANVAS, CANVAS))
    pen = ImageDraw.Draw(image)
    centre, radius, width = CANVAS / 2, INK / 2, int(rng.integers(2, 6))

    def box(rx: float, ry: float, dx: float = 0.0, dy: float = 0.0) -> tuple[float, float, float, float]:
        return (centre + dx - rx, centre + dy - ry, centre + dx + rx, centre + dy + ry)

    if kind == "disc":
        pen.ellipse(box(radius, radius), fill=255)
    elif kind == "ellipse":
        pen.ellipse(box(radius, radius * rng.uniform(0.4, 0.65)), fill=255)
    elif kind == "ring":
        pen.ellipse(box(radius, radius), outline=255, width=width)
    elif kind == "square":
        pen.rectangle(box(radius * 0.85, radius * 0.85), fill=255)
    elif kind == "frame":
        pen.rectangle(box(radius * 0.85, radius * 0.85), outline=255, width=width)
    elif kind in ("triangle", "rhombus", "pentagon"):
        pen.polygon(_polygon({"triangle": 3, "rhombus": 4, "pentagon": 5}[kind], (radius,)), fill=255)
    elif kind == "star":
        pen.polygon(_polygon(5, (radius, radius * rng.uniform(0.35, 0.5))), fill=255)
    elif kind == "cross":
        arm = radius * rng.uniform(0.2, 0.4)
        pen.rectangle(box(radius, arm), fill=255)
        pen.rectangle(box(arm, radius), fill=255)
    elif kind == "half-disc":
        start = 90 * int(rng.integers(4))
        pen.pieslice(box(radius, radius), start, start + 180, fill=255)
    elif kind == "crescent":
        angle, cut = rng.uniform(0, 2 * math.pi), radius * rng.uniform(0.4, 0.6)
        pen.ellipse(box(radius, radius), fill=255)
        pen.ellipse(box(radius * 0.9, radius * 0.9, cut * math.cos(angle), cut * math.sin(angle)), fill=0)
    elif kind == "cells":
        for _ in range(int(rng.integers(4, 9))):
            size, (dx, dy) = rng.uniform(2, 6), rng.uniform(-radius, radius, 2)
            pen.ellipse(box(size, size * rng.uniform(0.7, 1.3), dx, dy), fill=int(rng.integers(150, 256)))
    elif kind == "blob":
        angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        lobes = np.ones(64)
        for k in (2, 3, 4, 5):
            lobes += rng.normal(0, 0.25 / k) * np.sin(k * angles + rng.uniform(0, 6.3))
        scale = radius / np.max(np.abs(lobes))
        pen.polygon(
            [
                (centre + scale * r * math.cos(a), centre + scale * r * math.sin(a))
                for r, a in zip(lobes, angles, strict=True)
            ],
            fill=255,
        )
    else:
        raise ValueError(f"unknown shape {kind!r}")
    return image


class Scrawls:
    """Invented characters: each class is one to three strokes, a stroke is a smooth curve through four random points.

    `draw` moves the points a little and takes another pen each time, as another hand would.
    """

    def __init__(self, classes: int, rng: np.random.Generator) -> None:
        self.points = torch.zeros(classes, 3, 4, 2)  # (class, stroke, point, xy) in [-1, 1]
        for c in range(classes):
            strokes = int(rng.integers(1, 4))
            points = torch.from_numpy(rng.uniform(-0.62, 0.62, (3, 4, 2))).float()
            # Further strokes start where the one before passes, so that the character hangs together.
            for s in range(1, 3):
                points[s] = points[s - 1].roll(1, 0) if s >= strokes else points[s]
                points[s, 0] = points[s - 1, int(rng.integers(1, 4))]
            for s in range(strokes, 3):
                points[s] = points[0]
            self.points[c] = points
        u = torch.linspace(0, 1, 14)
        # Cubic Lagrange basis at the nodes 0, 1/3, 2/3, 1: the curve goes through the points.
        nodes = torch.tensor([0, 1 / 3, 2 / 3, 1])
        self.basis = torch.stack(
            [
                torch.stack([(u - nodes[j]) / (nodes[i] - nodes[j]) for j in range(4) if j != i]).prod(0)
                for i in range(4)
            ]
        )

    def draw(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """labels: (batch,) class numbers -> masks (batch, 1, CANVAS, CANVAS) in [0, 1]."""
        batch = len(labels)
        points = self.points[labels] + 0.05 * torch.randn(batch, 3, 4, 2, generator=rng)
        curve = torch.einsum("bspx,pu->bsux", points, self.basis).flatten(1, 2)  # (batch, 42, xy)
        axis = (torch.arange(CANVAS) + 0.5) / CANVAS * 2 - 1
        dx = (axis.view(1, 1, -1) - curve[..., :1]).square()
        dy = (axis.view(1, 1, -1) - curve[..., 1:]).square()
        distance = (dy.unsqueeze(-1) + dx.unsqueeze(-2)).amin(1).sqrt()  # (batch, row, column)
        pen = augment.uniform(batch, 0.05, 0.13, rng).view(-1, 1, 1)
        return ((pen - distance) * (CANVAS / 2) + 0.5).clamp(0, 1).unsqueeze(1)


def draw_texture(kinds: Tensor, size: int, rng: torch.Generator) -> Tensor:
    """kinds: (batch,) positions in TEXTURES -> (batch, 1, size, size) in [0, 1], how much of the second colour is seen."""
    batch = len(kinds)
    axis = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")

    def draw(low: float, high: float) -> Tensor:
        return augment.uniform(batch, low, high, rng).view(-1, 1, 1)

    angle, frequency, phase, other = draw(0, math.pi), draw(5, 16), draw(0, 6.3), draw(0, 6.3)
    along = x * angle.cos() + y * angle.sin()
    across = y * angle.cos() - x * angle.sin()
    waves = (frequency * along + phase).sin(), (frequency * across + other).sin()
    radius = ((x - draw(-0.6, 0.6)).square() + (y - draw(-0.6, 0.6)).square()).sqrt()
    clouds = augment.smooth_noise(batch, 1, 5, size, rng).squeeze(1)
    sharp = draw(2, 8)
    patterns = (
        sharp * waves[0],
        sharp * waves[0] * waves[1] * 2,
        sharp * (waves[0] + waves[1] - 1),
        sharp * (frequency * radius + phase).sin(),
        2 * torch.randn(batch, size, size, generator=rng),
        1.2 * clouds,
        sharp * 2 * (clouds - 0.2),
        2.5 * along,
    )
    stacked = torch.stack([p.expand(batch, size, size) for p in patterns], 1)
    return stacked[torch.arange(batch), kinds].sigmoid().unsqueeze(1)


def two_colours(batch: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ink and paper, each (batch, 3, 1, 1), with a visible difference; a third is plain white on black or black on white."""
    paper, ink = torch.rand(batch, 3, generator=rng), torch.rand(batch, 3, generator=rng)
    grey = (torch.rand(batch, generator=rng) < 0.25).view(-1, 1)
    paper, ink = (torch.where(grey, c.mean(1, keepdim=True), c) for c in (paper, ink))
    darkness, lightness = paper.mean(1, keepdim=True), ink.mean(1, keepdim=True)
    far = torch.where(darkness < 0.5, 0.7 + 0.3 * ink, 0.3 * ink)
    ink = torch.where((darkness - lightness).abs() < 0.3, far, ink)
    plain = torch.rand(batch, 1, generator=rng)
    paper = torch.where(plain < 0.33, (plain < 0.11).float(), paper)
    ink = torch.where(plain < 0.33, (plain >= 0.11).float(), ink)
    return ink.view(-1, 3, 1, 1), paper.view(-1, 3, 1, 1)


def hue_colours(hues: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """hues: (batch,) positions in HUES -> the coloured and the grey part, each (batch, 3, 1, 1)."""
    batch = len(hues)
    position = hues / len(HUES) + augment.uniform(batch, -0.05, 0.05, rng)
    wheel = (6 * position.view(-1, 1) + torch.tensor([0.0, 4.0, 2.0])) % 6
    pure = ((wheel - 3).abs() - 1).clamp(0, 1)
    saturation, value = augment.uniform(batch, 0.45, 1, rng), augment.uniform(batch, 0.4, 1, rng)
    coloured = value.view(-1, 1) * (1 - saturation.view(-1, 1) * (1 - pure))
    grey = torch.rand(batch, 1, generator=rng).expand(-1, 3)
    return coloured.view(-1, 3, 1, 1), grey.reshape(-1, 3, 1, 1)


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
