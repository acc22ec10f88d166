"""Charts as SVG: in pages, in reports and in notebook cells alike, without scripts, in the colours of what is around.

Blue and orange are told apart by colour-blind readers; nothing is said by colour alone.
"""

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from itda.html import MINUS as _MINUS
from itda.html import PLUS as _PLUS
from itda.html import element, join

# A page says how they look on its ground
PLUS, MINUS = f"var(--plus, {_PLUS})", f"var(--minus, {_MINUS})"
_WIDTH, _HEIGHT = 320, 150
_SCALE = 6  # shades that say what a heatmap's are
_MARGIN, _LONGEST = 90, 14  # of a heatmap, and the characters of a name that fit there
_LEFT, _RIGHT, _BOTTOM, _TOP = 44, 18, 34, 8


def bars(
    counts: Sequence[float],
    edges: Sequence[float],
    *,
    title: str,
    across: str,
    up: str = "atoms",
    logarithmic: bool = False,
) -> Markup:
    """A histogram.

    Args:
        counts: height of each bar.
        edges: one more, where each begins and the last one ends.
        title: what it shows, also for those who hear it.
        across, up: names of the axes.
        logarithmic: whether `edges` are powers of ten, to be written so.
    """
    top = max([*counts, 1])
    step = (_WIDTH - _LEFT - _RIGHT) / max(len(counts), 1)
    label = [f"{10**edge:.3g}" if logarithmic else f"{edge:.3g}" for edge in edges]
    shapes = [
        element(
            "rect", x=f"{_LEFT + place * step + 0.5:.1f}", width=f"{max(step - 1, 0.5):.1f}",
            y=f"{_y(count, top):.1f}", height=f"{max(_HEIGHT - _BOTTOM - _y(count, top), 0):.1f}",
            fill=PLUS if edges[place + 1] > 0 or logarithmic else MINUS,
        )
        for place, count in enumerate(counts) if count
    ]  # fmt: skip
    hovers = [
        element(
            "rect", element("title", f"{label[place]} to {label[place + 1]}: {count:,.0f} {up}"),
            x=f"{_LEFT + place * step:.1f}", y=_TOP, width=f"{step:.1f}", height=_HEIGHT - _BOTTOM - _TOP,
            fill="transparent",
        )
        for place, count in enumerate(counts)
    ]  # fmt: skip
    span = edges[-1] - edges[0] or 1.0
    marks = [
        _text(_LEFT + (tick - edges[0]) / span * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM + 12,
              f"{10**tick:g}" if logarithmic else f"{tick:g}", "middle")
        for tick in _ticks(edges[0], edges[-1], whole=logarithmic)
    ]  # fmt: skip
    highest = label[max(range(len(counts)), key=counts.__getitem__)]
    said = f"{title}: {sum(counts):,.0f} {up}, the most ({top:,.0f}) at {highest}"
    return _chart(title, said, [*shapes, *hovers, *marks, *_axes(across, up, top)])


def curve(values: Sequence[float], *, title: str, across: str, up: str) -> Markup:
    """Shares between 0 and 1 over ranks, which are on a logarithmic axis.

    Args:
        values: the share at rank 1, 2, ...
        title, across, up: as of `bars`.
    """
    wide = _WIDTH - _LEFT - _RIGHT
    ends = math.log10(max(len(values), 2))
    places = sorted({round(10 ** (ends * step / 80)) for step in range(81)})
    points = [(math.log10(place) / ends, values[min(place, len(values)) - 1]) for place in places]
    line = " ".join(f"{_LEFT + x * wide:.1f},{_y(y, 1.0):.1f}" for x, y in points)
    ticks = [10**power for power in range(int(ends) + 1)]
    marks = [
        _text(_LEFT + math.log10(tick) / ends * wide, _HEIGHT - _BOTTOM + 12, f"{tick:,}", "middle") for tick in ticks
    ]
    half = next((place for place, value in enumerate(values, 1) if value >= 0.5), len(values))
    drawn = element("polyline", points=line, fill="none", stroke=PLUS, stroke_width=2)
    return _chart(title, f"{title}: half is reached at rank {half:,}", [drawn, *marks, *_axes(across, up, 1.0)])


def heatmap(
    values: Sequence[Sequence[float | None]], names: Sequence[str], groups: Sequence[str], *, title: str
) -> Markup:
    """A square of values between 0 and 1, the darker the larger, each with its number to be read.

    Args:
        values: rows of them; None where one is not known.
        names: of rows and columns alike.
        groups: what each row belongs to, as a model; a line stands between two.
        title: what it shows.
    """
    count = len(names)
    cell = max(10, min(26, 520 // max(count, 1)))
    first = _MARGIN
    shapes: list[Markup] = []
    values = [[None if value is None or not math.isfinite(value) else value for value in row] for row in values]
    known = [value for row in values for value in row if value is not None]
    low, high = min([*known, 0.0]), max([*known, 1e-9])
    for down, row in enumerate(values):
        for right, value in enumerate(row):
            shown = "unknown" if value is None else f"{value:.3f}"
            label = f"{groups[down]} {names[down]}, {groups[right]} {names[right]}: {shown}"
            strength = 0.0 if value is None else (value - low) / (high - low or 1.0)
            shapes.append(
                element(
                    "rect", element("title", label), x=first + right * cell, y=first + down * cell, width=cell - 1,
                    height=cell - 1, fill=PLUS, fill_opacity=f"{0.05 + 0.95 * strength:.3f}",
                )
            )  # fmt: skip
    side = first + count * cell
    scale = [
        element(
            "rect", x=first + 34 + step * 14, y=side + 8, width=13, height=10, fill=PLUS,
            fill_opacity=f"{0.05 + 0.95 * step / (_SCALE - 1):.3f}",
        )
        for step in range(_SCALE)
    ]  # fmt: skip
    ends = (first + 30, "end", low), (first + 38 + 14 * _SCALE, "start", high)
    shapes += [*scale, *(_text(x, side + 17, f"{value:.3g}", anchor) for x, anchor, value in ends)]
    for place in range(count):
        middle = first + (place + 0.7) * cell
        shapes.append(_text(first - 6, middle, _short(names[place]), "end"))
        across = first + (place + 0.5) * cell
        # Longer names than a cell is wide lean
        lean = {"transform": f"rotate(-45 {across:.1f} {first - 6})"} if len(names[place]) > 3 else {}
        anchor = "start" if lean else "middle"
        shapes.append(_text(across, first - 6, _short(names[place]), anchor, **lean))
        if place and groups[place] != groups[place - 1]:
            edge = first + place * cell - 0.5
            shapes.append(element("line", x1=first, x2=side, y1=edge, y2=edge, stroke="currentColor"))
            shapes.append(element("line", y1=first, y2=side, x1=edge, x2=edge, stroke="currentColor"))
    for group in dict.fromkeys(groups):
        middle = first + (groups.index(group) + list(groups).count(group) / 2) * cell
        shapes.append(_text(first - 24, middle, _short(group), "end"))
        shapes.append(_text(middle, first - 24, _short(group), "middle"))
    said = f"{title}: {count} by {count} values from {low:.3g} to {high:.3g}"
    return _chart(title, said, shapes, side + _MARGIN, side + 22)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"


def _ticks(low: float, high: float, *, whole: bool) -> list[float]:
    """Three to six round numbers between two others; the larger step of 1, 2 and 5 times a power of ten that gives so
    many, and no fraction where they are powers themselves."""
    rough = max((high - low) / 5, 1e-12)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= rough)
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [number * step + 0.0 for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _y(value: float, top: float) -> float:
    return _TOP + (1 - value / top) * (_HEIGHT - _BOTTOM - _TOP)


def _text(x: float, y: float, text: str, anchor: str, **more: str) -> Markup:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", **more}
    return element("text", text, **place, text_anchor=anchor, font_size=10, fill="currentColor")


def _axes(across: str, up: str, top: float) -> list[Markup]:
    floor = _HEIGHT - _BOTTOM
    return [
        element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=floor, y2=floor, stroke="currentColor", stroke_opacity=0.5),
        _text(_LEFT - 6, _TOP + 8, f"{top:,.3g}", "end"),
        _text(_LEFT - 6, floor, "0", "end"),
        _text((_LEFT + _WIDTH) / 2, _HEIGHT - 6, across, "middle"),
        element(
            "text", up, x=12, y=(floor + _TOP) / 2, text_anchor="middle", font_size=10, fill="currentColor",
            transform=f"rotate(-90 12 {(floor + _TOP) / 2})",
        ),
    ]  # fmt: skip


def _chart(title: str, said: str, shapes: Sequence[Any], width: int = _WIDTH, height: int = _HEIGHT) -> Markup:
    return element(
        "svg", element("title", title), join(shapes), role="img", aria_label=said, viewBox=f"0 0 {width} {height}",
        width=width, height=height, class_="chart", xmlns="http://www.w3.org/2000/svg",
    )  # fmt: skip
