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
