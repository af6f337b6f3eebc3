"""Plots as inline SVG, drawn with matplotlib's object interface (no pyplot, no global state).

Text stays text, in the page's font. Colours are written as CSS variables of the page, so that a plot follows its light and dark theme.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from markupsafe import Markup, escape

from pt_core.run.report.values import compact

Points = Sequence[tuple[float, float]]

# matplotlib wants real colours: these stand for variables of style.css and are replaced when the SVG is written.
INK, SOFT, LINE, CARD = "#010101", "#010102", "#010103", "#010104"
SERIES = ("#020201", "#020202", "#020203", "#020204", "#020205", "#020206")
VARIABLES = {INK: "--ink", SOFT: "--soft", LINE: "--line", CARD: "--card"} | {
    colour: f"--s{number}" for number, colour in enumerate(SERIES, 1)
}
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":")

BINS = 200
"""A line of more than twice as many points is drawn as the mean of this many bins, with a band from minimum to maximum."""
LONGEST_NAME = 26
WIDEST = 1.45
"""A plot is shown at up to so many CSS pixels per point, at which its text has the size of small text on the page."""
MAX_BARS = 60
CHARACTER = 5.2
"""Width of a character in points, at the size of a plot's text; browsers differ a little."""


def short(name: str, limit: int = LONGEST_NAME) -> str:
    """A name cut in the middle, which keeps what often tells long names apart: start and end."""
    if len(name) <= limit:
        return name
    return f"{name[: limit // 2]}…{name[len(name) - (limit - limit // 2 - 1) :]}"


def draw(
    key: str,
    title: str,
    size: tuple[float, float],
    paint: Callable[[Any, Any], None],
    layout: Literal["constrained"] | None = "constrained",
) -> Markup:
    """An SVG of one pair of axes.

    Args:
        key: prefix of the ids in it; unique on the page.
        title: read out by screen readers.
        size: width and height in inches; on the page the SVG scales with its box.
        paint: draws into (figure, axes).
        layout: matplotlib's layout engine; None where `paint` places the axes itself, which halves the time.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "pt",
        "text.parse_math": False,
        "axes.unicode_minus": True,
        "font.size": 8.5,
        "text.color": INK,
        "axes.labelcolor": SOFT,
        "axes.edgecolor": SOFT,
        "axes.linewidth": 0.7,
        "axes.facecolor": "none",
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "lines.linewidth": 1.5,
    }
    buffer = io.StringIO()
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Class names may hold characters that the font used for measuring lacks; the browser has its own fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size, layout=layout)
        paint(figure, figure.add_subplot())
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return Markup(_inline(buffer.getvalue(), key, title))


def _inline(svg: str, key: str, title: str) -> str:
    """The <svg> element alone: scalable, without metadata, with the ids that are referred to, prefixed by `key`."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{key}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{key}-", svg)
    svg = re.sub(r"\s+(?=[LCQZz] )|(?<=[\d]) \n|\n(?=[LCQz])", " ", svg)
    svg = re.sub(r">\s+<", "><", svg)
    svg = re.sub("|".join(VARIABLES), lambda found: f"var({VARIABLES[found[0]]})", svg)
    head, _, body = svg.partition(">")
    box = re.search(r'viewBox="0 0 (\S+) [^"]*"', head)
    assert box is not None
    name = escape(title)
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    widest = f"max-width:{WIDEST * float(box[1]):.0f}px"
    start = f'<svg {spaces} class="plot" style="{widest}" role="img" aria-label="{name}" {box[0]}>'
    return f"{start}<title>{name}</title>{body.strip()}"


def lines(
    key: str,
    title: str,
    series: Mapping[str, Points],
    x_label: str,
    y_label: str = "",
    marks: Sequence[tuple[float, str]] = (),
    tick: Callable[[float], str] = compact,
    log: bool | None = None,
) -> Markup:
    """Lines over a shared x axis.

    Args:
        marks: (x, name) of vertical lines, such as the start of a stage, from left to right.
        tick: value -> text on the y axis.
        log: logarithmic y axis; decided from the values where None.
    """
    finite = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for name, points in series.items()
    }
    values = [y for points in finite.values() for _, y in points]
    if log is None:
        log = bool(values) and min(values) > 0 and max(values) / min(values) > 200

    def paint(figure: Any, axes: Any) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        for number, (name, points) in enumerate(finite.items()):
            _line(axes, points, name, SERIES[number % len(SERIES)], DASHES[number // len(SERIES) % len(DASHES)])
        if log:
            axes.set_yscale("log")
        _axes(axes, x_label, f"{y_label} (log scale)" if log else y_label, tick)
        whole = all(x == int(x) for points in finite.values() for x, _ in points)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
        for x, _ in marks:
            axes.axvline(x, color=SOFT, linewidth=0.7, linestyle=(0, (3, 3)))
        if not values:
            axes.text(0.5, 0.5, "no finite values", transform=axes.transAxes, ha="center", color=SOFT)
        rows = 0
        if len(finite) > 1:
            columns = 2 if len(finite) <= 4 else 3
            rows = math.ceil(len(finite) / columns)
            figure.legend(loc="upper left", ncols=columns, handlelength=1.6, borderaxespad=0.1, borderpad=0.2)
        _place(axes, top=8 + 14.0 * rows + (6 if marks else 0))
        _name_marks(axes, marks)

    return draw(key, title, (4.2, 2.6 if len(series) <= 6 else 3.2), paint, None)


def _place(axes: Any, top: float) -> None:
    """Give the axes the room that their labels leave, by the number of characters. `top` in points."""
    width, height = (72 * inches for inches in axes.figure.get_size_inches())
    low, high = axes.get_ylim()
    axis = axes.yaxis
    ticks = [tick for tick in axis.get_majorticklocs() if min(low, high) <= tick <= max(low, high)]
    longest = max(map(len, axis.get_major_formatter().format_ticks(ticks)), default=0)
    left = 8 + CHARACTER * longest + (14 if axes.get_ylabel() else 0)
    bottom = 17 + (13 if axes.get_xlabel() else 0)
    axes.set_position((left / width, bottom / height, 1 - (left + 10) / width, 1 - (bottom + top) / height))


def _name_marks(axes: Any, marks: Sequence[tuple[float, str]]) -> None:
    """Above the axes, each name cut to the room up to the next mark."""
    low, high = axes.get_xlim()
    width = 72 * axes.figure.get_size_inches()[0] * axes.get_position().width
    ends = [*(x for x, _ in marks[1:]), high]
    for (x, name), end in zip(marks, ends, strict=False):
        room = int((end - x) / (high - low) * width / CHARACTER)
        if room >= 2:
            text = {"textcoords": "offset points", "fontsize": 7.5, "color": SOFT, "va": "bottom"}
            axes.annotate(short(name, room), (x, 1.0), (0, 2), xycoords=("data", "axes fraction"), **text)


def _line(axes: Any, points: Points, name: str, colour: str, dash: str) -> None:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    if len(points) > 2 * BINS:
        edges = [round(i * len(points) / BINS) for i in range(BINS + 1)]
        parts = [ys[a:b] for a, b in itertools.pairwise(edges)]
        xs = [sum(xs[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
        axes.fill_between(xs, [min(p) for p in parts], [max(p) for p in parts], color=colour, alpha=0.18, linewidth=0)
        ys = [sum(part) / len(part) for part in parts]
    marker = "o" if len(xs) <= 25 else None
    axes.plot(xs, ys, color=colour, label=short(name), linestyle=dash, marker=marker, markersize=3)


def bars(key: str, title: str, values: Mapping[str, float], x_label: str = "") -> Markup:
    """Horizontal bars, first entry on top; of more than MAX_BARS the longest ones."""
    if len(values) > MAX_BARS:
        longest = sorted(values, key=lambda name: -abs(values[name]) if math.isfinite(values[name]) else -math.inf)
        shown = set(longest[:MAX_BARS])
        x_label = f"{x_label} (the {MAX_BARS} longest of {len(values):,})".strip()
        values = {name: value for name, value in values.items() if name in shown}

    def paint(figure: Any, axes: Any) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        lengths = [value if math.isfinite(value) else 0.0 for value in values.values()]
        axes.barh(range(len(lengths)), lengths, color=SERIES[0], height=0.68)
        axes.set_yticks(range(len(lengths)), [short(name) for name in values])
        axes.invert_yaxis()
        for row, value in enumerate(values.values()):
            text = compact(value) if math.isfinite(value) else "not finite"
            axes.annotate(
                text, (max(lengths[row], 0.0), row), (3, 0), textcoords="offset points", va="center", fontsize=8
            )
        axes.margins(x=0.12)
        _axes(axes, x_label, "", None)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", labelcolor=INK)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
        _place(axes, top=4)

    return draw(key, title, (5.2, 0.22 * len(values) + 0.6), paint, None)


def heatmap(key: str, title: str, data: Mapping[str, Any]) -> Markup:
    """A rectangle of values with a colour bar; form of `data` as in `Panel`."""
    import numpy as np

    values = np.asarray(data["values"], dtype=float)
    rows, columns = values.shape

    def paint(figure: Any, axes: Any) -> None:
        image = axes.imshow(values, aspect="auto", cmap="cividis", interpolation="none")
        bar = figure.colorbar(image, ax=axes, pad=0.02, label=data.get("value_label", ""))
        bar.outline.set_visible(False)
        for axis, size, names in ((axes.xaxis, columns, data.get("columns")), (axes.yaxis, rows, data.get("rows"))):
            step = max(1, math.ceil(size / 24))
            places = range(0, size, step)
            axis.set_ticks(places, [short(str(names[i])) if names else str(i) for i in places])
        if data.get("columns") and max(len(str(name)) for name in data["columns"]) > 3:
            axes.tick_params(axis="x", rotation=90)
        axes.set_xlabel(data.get("x_label", ""))
        axes.set_ylabel(data.get("y_label", ""))
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)

    return draw(key, title, (min(7.0, max(4.2, 0.16 * columns + 1.6)), min(6.0, max(2.2, 0.18 * rows + 1.0))), paint)


def scatter(
    key: str,
    title: str,
    points: Sequence[tuple[str, str, float, float, float]],
    x_label: str,
    y_label: str,
    tick: Callable[[float], str],
    size: tuple[float, float],
) -> Markup:
    """Points with error bars over a logarithmic x axis, each with its name beside it.

    Args:
        points: (name, family, x, y, standard deviation or NaN). A family shares colour and marker. x = 0 gets a place of its own
            left of the axis.
    """
    positive = [x for _, _, x, _, _ in points if x > 0]
    zero = 10 ** (math.floor(math.log10(min(positive))) - 1) if positive else 0.1
    families = list(dict.fromkeys(family for _, family, *_ in points))

    def paint(figure: Any, axes: Any) -> None:
        axes.set_xscale("log")
        for _, family, x, y, std in points:
            number = families.index(family)
            axes.errorbar(
                x if x > 0 else zero,
                y,
                yerr=std if math.isfinite(std) else None,
                fmt=MARKERS[number % len(MARKERS)],
                color=SERIES[number % len(SERIES)],
                markersize=6,
                capsize=3,
                elinewidth=1.2,
            )
        shown = [x if x > 0 else zero for _, _, x, _, _ in points]
        decades = max(math.log10(max(shown) / min(shown)), 1.0)
        axes.set_xlim(min(shown) / 10 ** (0.12 * decades), max(shown) * 10 ** (0.12 * decades))
        axes.margins(y=0.16)
        _axes(axes, x_label, y_label, tick)
        _decade_ticks(axes, zero if len(positive) < len(points) else None)
        _name_points(figure, axes, [(short(p[0], 30), x, p[3], p[4]) for p, x in zip(points, shown, strict=True)])

    return draw(key, title, size, paint)


def _decade_ticks(axes: Any, zero: float | None) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    low, high = axes.get_xlim()
    ticks = [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    if len(ticks) < 2:
        ticks = [
            m * 10.0**p for p in range(math.floor(math.log10(low)), math.ceil(math.log10(high))) for m in (1, 2, 5)
        ]
        ticks = [tick for tick in ticks if low <= tick <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "0" if value == zero else compact(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _name_points(figure: Any, axes: Any, points: Sequence[tuple[str, float, float, float]]) -> None:
    """Put each name where it covers the least: beside, above or below its point; farther away with a thin line if need be."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # labels must not move the axes any more
    renderer = figure.canvas.get_renderer() if hasattr(figure.canvas, "get_renderer") else figure._get_renderer()
    scale = figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    taken = []
    for _, x, y, std in points:
        px, py = axes.transData.transform((x, y))
        spread = abs(axes.transData.transform((x, y + std))[1] - py) if math.isfinite(std) else 0.0
        taken.append(
            Bbox.from_extents(px - 5 * scale, py - max(5 * scale, spread), px + 5 * scale, py + max(5 * scale, spread))
        )
    near = [(8, 0, "left", "center"), (-8, 0, "right", "center"), (0, 8, "center", "bottom"), (0, -8, "center", "top")]
    slanted = [(dx, dy, "left" if dx > 0 else "right", "center") for dy in (9, -9) for dx in (8, -8)]
    far = [(dx, dy, "left" if dx > 0 else "right", "center") for dy in (18, -18, 28, -28, 40, -40) for dx in (14, -14)]
    for own, (name, x, y, _) in enumerate(points):
        best: tuple[float, Any] | None = None
        for dx, dy, ha, va in [*near, *slanted, *far]:
            text = axes.annotate(name, (x, y), (dx, dy), textcoords="offset points", ha=ha, va=va, fontsize=8.5)
            box = text.get_window_extent(renderer)
            others = [other for index, other in enumerate(taken) if index != own or abs(dx) < 5]
            covered = sum(_overlap(box, other) for other in others) + 4 * (
                box.width * box.height - _overlap(box, frame)
            )
            text.remove()
            cost = covered + (0.001 * math.hypot(dx, dy))
            if best is None or cost < best[0]:
                best = (cost, (dx, dy, ha, va, box))
        assert best is not None
        dx, dy, ha, va, box = best[1]
        leader = (
            {"arrowstyle": "-", "color": SOFT, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3} if abs(dy) > 10 else None
        )
        axes.annotate(
            name, (x, y), (dx, dy), textcoords="offset points", ha=ha, va=va, fontsize=8.5, color=INK, arrowprops=leader
        )
        taken.append(box)


def _overlap(one: Any, other: Any) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return float(max(0.0, width) * max(0.0, height))


def _axes(axes: Any, x_label: str, y_label: str, tick: Callable[[float], str] | None) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    if tick is not None:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
        if axes.get_yscale() == "log":
            axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
