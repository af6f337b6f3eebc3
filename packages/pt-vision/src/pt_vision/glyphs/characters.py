"""Letters and symbols of many scripts, drawn as masks in the fonts that matplotlib ships."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

CANVAS = 48
"""Rows and columns of the stored masks, in pixels."""
INK = 34
"""Longer side of a glyph on the canvas, in pixels; the rest is room for rotation and growth."""


LATIN = [
    *("A", "B", "Cc", "D", "E", "F", "G", "H", "J", "Kk", "L", "M", "N"),
    *("Pp", "Q", "R", "Ss", "T", "Uu", "Vv", "Ww", "Xx", "Y", "Zz"),
    *("a", "b", "d", "e", "f", "g", "h", "i", "j", "m", "n", "q", "r", "t", "y"),
]
GREEK = [
    *("ΓГ", "Δ", "Θθ", "Λ", "Ξ", "ΠП", "Σ", "Φφ", "Ψψ", "Ω"),
    *("α", "β", "γ", "δ", "ε", "ζ", "η", "λ", "μ", "ξ", "π", "ρ", "σ", "τ", "ω"),
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
