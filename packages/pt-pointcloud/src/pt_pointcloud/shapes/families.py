"""Families of generated shapes, y up. Every draw has its own proportions and variants; part names mean the same throughout a family.

`TARGETS` are the classes of `builtin:shapes`. The built-in backbone is pretrained on `OTHERS` and on random assemblies: no target among
them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pt_pointcloud.shapes.primitives import Kind, Primitive, turn

Rng = np.random.Generator
Shape = list[Primitive]
KINDS: tuple[Kind, ...] = ("box", "frustum", "ellipsoid", "torus")


def _legs(rng: Rng, x: float, z: float, height: float, top: float, part: str = "legs") -> Shape:
    """Four legs below y = top at the corners of 2x by 2z: square or round, upright or splayed; or one column with a foot."""
    if rng.random() < 0.3:
        foot = 0.6 * min(x, z) + 0.1
        return [
            Primitive("frustum", (0.05, 0.05, height), part, (0, top - height / 2, 0)),
            Primitive("frustum", (foot, 0.7 * foot, 0.05), part, (0, top - height, 0)),
        ]
    radius, splay, round_ = rng.uniform(0.025, 0.07), rng.uniform(0, 12), rng.random() < 0.5
    legs: Shape = []
    for sx in (-1, 1):
        for sz in (-1, 1):
            rotation = turn("z", sx * splay) @ turn("x", -sz * splay)
            sizes = (radius, radius, height) if round_ else (2 * radius, height, 2 * radius)
            at = (sx * (x - radius), top - height / 2, sz * (z - radius))
            legs.append(Primitive("frustum" if round_ else "box", sizes, part, at, rotation))
    return legs


def _plate(rng: Rng, x: float, z: float, thick: float, y: float, part: str) -> Primitive:
    if rng.random() < 0.4:
        return Primitive("frustum", (0.5 * (x + z), 0.5 * (x + z), thick), part, (0, y, 0))
    return Primitive("box", (2 * x, thick, 2 * z), part, (0, y, 0))


def table(rng: Rng) -> Shape:
    x, z, height = rng.uniform(0.6, 1.2), rng.uniform(0.4, 0.7), rng.uniform(0.5, 0.9)
    return [_plate(rng, x, z, rng.uniform(0.04, 0.1), 0, "top"), *_legs(rng, x, z, height, 0)]


def stool(rng: Rng) -> Shape:
    x, height = rng.uniform(0.3, 0.45), rng.uniform(0.7, 1.2)
    parts = [_plate(rng, x, x, rng.uniform(0.05, 0.15), 0, "seat"), *_legs(rng, x, x, height, 0)]
    if rng.random() < 0.5:
        parts.append(Primitive("torus", (0.8 * x, 0.03, 360), "legs", (0, -0.6 * height, 0), turn("x", 90)))
    return parts


def chair(rng: Rng) -> Shape:
    x, z, height = rng.uniform(0.35, 0.5), rng.uniform(0.35, 0.5), rng.uniform(0.4, 0.6)
    back, lean = rng.uniform(0.5, 0.9), turn("x", rng.uniform(-15, 0))
    parts = [_plate(rng, x, z, rng.uniform(0.05, 0.12), 0, "seat"), *_legs(rng, x, z, height, 0)]
    if rng.random() < 0.5:
        parts.append(Primitive("box", (2 * x, back, 0.06), "back", (0, back / 2, -z), lean))
    else:
        bars = int(rng.integers(3, 6))
        parts += [
            Primitive("box", (0.06, back, 0.05), "back", (s, back / 2, -z), lean) for s in np.linspace(-x, x, bars)
        ]
        parts.append(Primitive("box", (2 * x, 0.12, 0.06), "back", (0, back, -z), lean))
    if rng.random() < 0.4:
        for s in (-1, 1):
            parts.append(Primitive("box", (0.07, 0.05, 1.6 * z), "arms", (s * x, 0.25, 0)))
            parts.append(Primitive("box", (0.06, 0.25, 0.06), "arms", (s * x, 0.12, 0.7 * z)))
    return parts


def bench(rng: Rng) -> Shape:
    x, z, height = rng.uniform(0.8, 1.3), rng.uniform(0.22, 0.35), rng.uniform(0.3, 0.5)
    parts = [Primitive("box", (2 * x, 0.08, 2 * z), "seat")]
    parts += [
        Primitive("box", (rng.uniform(0.06, 0.12), height, 1.8 * z), "legs", (s * 0.85 * x, -height / 2, 0))
        for s in (-1, 1)
    ]
    if rng.random() < 0.6:
        rows = int(rng.integers(1, 4))
        parts += [Primitive("box", (2 * x, 0.1, 0.05), "back", (0, 0.2 + 0.17 * row, -z)) for row in range(rows)]
        parts += [
            Primitive("box", (0.06, 0.2 + 0.17 * rows, 0.05), "back", (s * 0.8 * x, 0.1 + 0.08 * rows, -z))
            for s in (-1, 1)
        ]
    return parts


def lamp(rng: Rng) -> Shape:
    height, top = rng.uniform(0.7, 1.4), rng.uniform(0.12, 0.25)
    base = Primitive("frustum", (rng.uniform(0.2, 0.35), rng.uniform(0.1, 0.2), 0.08), "base")
    if rng.random() < 0.5:
        shade = Primitive(
            "frustum", (top + rng.uniform(0.1, 0.25), top, rng.uniform(0.25, 0.4)), "shade", (0, height, 0)
        )
        return [base, Primitive("frustum", (0.03, 0.03, height), "pole", (0, height / 2, 0)), shade]
    bend, reach = rng.uniform(20, 60), rng.uniform(0.3, 0.5)
    arm = turn("z", -bend) @ np.array([0, reach, 0])
    head = np.array([0, 0.6 * height, 0]) + arm
    return [
        base,
        Primitive("frustum", (0.03, 0.03, 0.6 * height), "pole", (0, 0.3 * height, 0)),
        Primitive("frustum", (0.03, 0.03, reach), "pole", tuple(head - arm / 2), turn("z", -bend)),
        Primitive("frustum", (0.2, 0.06, 0.2), "shade", tuple(head), turn("z", rng.uniform(-60, 20))),
    ]


def mug(rng: Rng) -> Shape:
    low, height = rng.uniform(0.25, 0.4), rng.uniform(0.5, 0.9)
    high = low * rng.uniform(0.9, 1.3)
    ring = rng.uniform(0.15, 0.28) * height / 0.7
    handle = Primitive(
        "torus", (ring, rng.uniform(0.03, 0.06), 180), "handle", ((low + high) / 2, 0, 0), turn("z", -90)
    )
    return [Primitive("frustum", (low, high, height), "body"), handle]


def bottle(rng: Rng) -> Shape:
    radius, height, neck = rng.uniform(0.2, 0.32), rng.uniform(0.6, 1.0), rng.uniform(0.06, 0.1)
    length, shoulder = rng.uniform(0.15, 0.4), rng.uniform(0.08, 0.3)
    top = height / 2 + shoulder
    parts = [
        Primitive("frustum", (radius, radius * rng.uniform(0.9, 1.05), height), "body"),
        Primitive("frustum", (radius, neck, shoulder), "body", (0, height / 2 + shoulder / 2, 0)),
        Primitive("frustum", (neck, neck, length), "neck", (0, top + length / 2, 0)),
    ]
    if rng.random() < 0.6:
        parts.append(Primitive("frustum", (1.3 * neck, 1.3 * neck, 0.1), "cap", (0, top + length, 0)))
    return parts


def airplane(rng: Rng) -> Shape:
    length, width = rng.uniform(0.8, 1.1), rng.uniform(0.09, 0.15)
    span, sweep = rng.uniform(0.6, 1.1), rng.uniform(0, 35)
    parts = [Primitive("ellipsoid", (length, width, width), "body")]
    for s in (-1, 1):
        wing = turn("y", s * sweep)
        middle = wing @ np.array([0, 0, s * span / 2])
        parts.append(Primitive("box", (rng.uniform(0.2, 0.3), 0.03, span), "wings", (middle[0], 0, middle[2]), wing))
        parts.append(Primitive("box", (0.14, 0.02, 0.3), "tail", (-0.88 * length, 0.05, s * 0.15), wing))
        if rng.random() < 0.6:
            parts.append(Primitive("frustum", (0.05, 0.05, 0.22), "engines", (0, -0.08, s * span / 2), turn("z", 90)))
    parts.append(Primitive("box", (0.18, rng.uniform(0.2, 0.32), 0.03), "tail", (-0.88 * length, 0.15, 0)))
    return parts


def rocket(rng: Rng) -> Shape:
    radius, height, nose = rng.uniform(0.12, 0.2), rng.uniform(0.8, 1.3), rng.uniform(0.25, 0.5)
    parts = [
        Primitive("frustum", (radius, radius, height), "body"),
        Primitive("frustum", (radius, 0.01, nose), "nose", (0, (height + nose) / 2, 0)),
    ]
    fins, size, y = int(rng.integers(3, 5)), rng.uniform(0.15, 0.35), rng.uniform(-0.5, -0.35) * height
    for angle in np.arange(fins) * 360 / fins:
        spin = turn("y", angle)
        at = spin @ np.array([radius + size / 2, y, 0])
        parts.append(Primitive("box", (size, rng.uniform(0.2, 0.35), 0.03), "fins", tuple(at), spin))
    return parts


def hammer(rng: Rng) -> Shape:
    length, head = rng.uniform(0.9, 1.4), rng.uniform(0.35, 0.6)
    handle = Primitive("frustum", (rng.uniform(0.05, 0.08), rng.uniform(0.04, 0.06), length), "handle")
    top, size = length / 2, rng.uniform(0.08, 0.13)
    if rng.random() < 0.5:
        return [handle, Primitive("frustum", (size, size, head), "head", (0, top, 0), turn("z", 90))]
    claw = Primitive("frustum", (0.02, size, 0.6 * head), "head", (0.45 * head, top - 0.03, 0), turn("z", 75))
    return [handle, Primitive("box", (0.6 * head, 1.8 * size, 1.8 * size), "head", (-0.2 * head, top, 0)), claw]


def car(rng: Rng) -> Shape:
    x, height, z = rng.uniform(0.8, 1.1), rng.uniform(0.2, 0.35), rng.uniform(0.35, 0.45)
    cabin, radius = rng.uniform(0.4, 0.7) * x, rng.uniform(0.13, 0.22)
    shift = rng.uniform(-0.3, 0.2)
    parts = [
        Primitive("box", (2 * x, height, 2 * z), "body"),
        Primitive("box", (2 * cabin, rng.uniform(0.2, 0.35), 1.8 * z), "cabin", (shift, 0.5 * height + 0.13, 0)),
    ]
    return parts + [
        Primitive("frustum", (radius, radius, 0.12), "wheels", (sx * 0.6 * x, -height / 2, sz * z), turn("x", 90))
        for sx in (-1, 1)
        for sz in (-1, 1)
    ]


def plant(rng: Rng) -> Shape:
    pot, stem = rng.uniform(0.18, 0.3), rng.uniform(0.3, 0.8)
    parts = [
        Primitive("frustum", (0.75 * pot, pot, 0.35), "pot"),
        Primitive("frustum", (0.03, 0.03, stem), "stem", (0, 0.17 + stem / 2, 0)),
    ]
    for _ in range(int(rng.integers(3, 8))):
        tilt = turn("y", rng.uniform(0, 360)) @ turn("z", rng.uniform(20, 80))
        length = rng.uniform(0.2, 0.4)
        at = tilt @ np.array([0, length, 0]) + np.array([0, 0.17 + stem * rng.uniform(0.4, 1), 0])
        parts.append(Primitive("ellipsoid", (0.1, length, 0.03), "leaves", tuple(at), tilt))
    return parts


# ---- families for pretraining only ------------------------------------------------------------------------------------------


def bed(rng: Rng) -> Shape:
    x, z = rng.uniform(0.9, 1.2), rng.uniform(0.45, 0.8)
    ends = [Primitive("box", (0.06, rng.uniform(0.3, 0.8), 2 * z), "ends", (s * x, 0.2, 0)) for s in (-1, 1)]
    pillow = Primitive("ellipsoid", (0.15, 0.08, 0.6 * z), "pillow", (-0.75 * x, 0.2, 0))
    return [Primitive("box", (2 * x, 0.25, 2 * z), "mattress"), *ends, pillow]


def shelf(rng: Rng) -> Shape:
    x, height, z, boards = rng.uniform(0.3, 0.7), rng.uniform(0.8, 1.4), rng.uniform(0.12, 0.3), int(rng.integers(3, 7))
    sides = [Primitive("box", (0.04, height, 2 * z), "sides", (s * x, 0, 0)) for s in (-1, 1)]
    rows = np.linspace(-height / 2, height / 2, boards)
    return sides + [Primitive("box", (2 * x, 0.04, 2 * z), "boards", (0, y, 0)) for y in rows]


def ladder(rng: Rng) -> Shape:
    x, height, rungs = rng.uniform(0.2, 0.35), rng.uniform(1.2, 1.8), int(rng.integers(4, 9))
    rails = [Primitive("box", (0.06, height, 0.05), "rails", (s * x, 0, 0)) for s in (-1, 1)]
    rows = np.linspace(-0.45, 0.45, rungs) * height
    return rails + [Primitive("frustum", (0.025, 0.025, 2 * x), "rungs", (0, y, 0), turn("z", 90)) for y in rows]


def guitar(rng: Rng) -> Shape:
    body, neck = rng.uniform(0.25, 0.35), rng.uniform(0.6, 0.9)
    return [
        Primitive("ellipsoid", (body, 0.8 * body, 0.08), "body", (0, -0.4, 0)),
        Primitive("ellipsoid", (0.75 * body, 0.6 * body, 0.08), "body", (0, -0.1, 0)),
        Primitive("box", (0.08, neck, 0.05), "neck", (0, neck / 2, 0)),
        Primitive("box", (0.14, 0.2, 0.05), "head", (0, neck + 0.08, 0)),
    ]


def snowman(rng: Rng) -> Shape:
    y, parts = 0.0, []
    for radius in sorted(rng.uniform(0.18, 0.5, int(rng.integers(2, 4))), reverse=True):
        parts.append(Primitive("ellipsoid", (radius, radius, radius), "balls", (0, y + radius, 0)))
        y += 1.8 * radius
    return [*parts, Primitive("frustum", (0.2, 0.2, 0.2), "hat", (0, y, 0))]


def sword(rng: Rng) -> Shape:
    blade = rng.uniform(0.8, 1.3)
    return [
        Primitive("box", (0.12, blade, 0.03), "blade", (0, blade / 2, 0)),
        Primitive("box", (rng.uniform(0.3, 0.5), 0.07, 0.07), "guard"),
        Primitive("frustum", (0.04, 0.04, 0.3), "grip", (0, -0.17, 0)),
    ]


def spider(rng: Rng) -> Shape:
    parts = [
        Primitive("ellipsoid", (0.3, 0.22, 0.25), "body"),
        Primitive("ellipsoid", (0.18, 0.15, 0.17), "head", (0.4, 0, 0)),
    ]
    for s in (-1, 1):
        for angle in (-50, -15, 15, 50):
            spin = turn("y", s * 90 + angle) @ turn("z", rng.uniform(50, 80))
            at = spin @ np.array([0, 0.45, 0])
            parts.append(Primitive("frustum", (0.02, 0.03, 0.9), "legs", tuple(at), spin))
    return parts


def house(rng: Rng) -> Shape:
    x, height, z = rng.uniform(0.4, 0.8), rng.uniform(0.4, 0.8), rng.uniform(0.4, 0.6)
    tilt, parts = rng.uniform(30, 50), [Primitive("box", (2 * x, height, 2 * z), "walls")]
    for s in (-1, 1):
        at = (0, height / 2 + 0.25, s * 0.5 * z)
        parts.append(Primitive("box", (2.2 * x, 0.04, 1.4 * z), "roof", at, turn("x", s * tilt)))
    return [*parts, Primitive("box", (0.12, 0.4, 0.12), "chimney", (0.5 * x, height / 2 + 0.4, 0.2 * z))]


def dumbbell(rng: Rng) -> Shape:
    length, radius = rng.uniform(0.5, 1.0), rng.uniform(0.15, 0.35)
    bar = Primitive("frustum", (0.05, 0.05, length), "bar", (0, 0, 0), turn("z", 90))
    kind: Kind = "ellipsoid" if rng.random() < 0.5 else "frustum"
    sizes = (radius, radius, radius) if kind == "ellipsoid" else (radius, radius, 0.2)
    return [bar, *(Primitive(kind, sizes, "weights", (s * length / 2, 0, 0), turn("z", 90)) for s in (-1, 1))]


def assembly(rng: Rng) -> Shape:
    """2 to 7 primitives of any size, each touching the surface of one before it."""
    parts: Shape = []
    for number in range(int(rng.integers(2, 8))):
        rotation = turn("y", rng.uniform(0, 360)) @ turn("x", float(rng.choice([0, 0, 90, rng.uniform(0, 180)])))
        a, b, c = np.exp(rng.uniform(np.log(0.04), np.log(0.7), 3))
        kind = KINDS[int(rng.integers(4))]
        sizes = (a, min(b, 0.4 * a) + 0.02, rng.uniform(90, 360)) if kind == "torus" else (a, b, c)
        at = np.zeros(3) if not parts else parts[int(rng.integers(len(parts)))].sample(1, rng)[0]
        parts.append(Primitive(kind, sizes, f"part{number}", tuple(at), rotation))
    return parts


Family = Callable[[Rng], Shape]
TARGETS: dict[str, Family] = {
    f.__name__: f for f in (airplane, bench, bottle, car, chair, hammer, lamp, mug, plant, rocket, stool, table)
}
OTHERS: dict[str, Family] = {
    f.__name__: f for f in (bed, dumbbell, guitar, house, ladder, shelf, snowman, spider, sword)
}
