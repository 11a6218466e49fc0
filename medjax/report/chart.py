"""Line charts as SVG text: axes, legend, a tooltip per point, and no script.

Colours and text styles are CSS variables of the page round it, so one drawing serves
light and dark. A noisy curve is shown twice, faint as logged and bold as a running
mean; points that are missing or not finite break the line rather than bend it.
"""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise

Point = tuple[float, float | None]
Run = Sequence[tuple[float, float]]
Place = Callable[[float, float], tuple[float, float]]
"""Data to pixels."""
Curves = Mapping[str, Sequence[Point]]
"""Name of each curve to its (x, y), in order of x."""
Limits = tuple[float, float]
"""First and last value of an axis."""

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 14, 40
MAX_POINTS = 600
MAX_TOOLTIPS = 120
SMOOTH_FROM = 60
COLOURS = 8


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover an interval: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        low, high = low - 0.5 * abs(low or 1.0), high + 0.5 * abs(high or 1.0)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= 0.7 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between positive numbers; if those are few, 2s and 5s, or more."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 2, 5)):
        ticks = [m * 10.0**d for d in decades for m in factors]
        inside = [t for t in ticks if low * 0.999 <= t <= high * 1.001]
        if len(inside) > 2:
            return inside
    return nice_ticks(low, high)


def number(value: float) -> str:
    """A short reading of a number."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return "n/a"
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        return f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e")
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:.4g}"


def line_chart(
    curves: Curves,
    *,
    x_name: str = "step",
    title: str = "",
    log: bool = False,
    x_limits: Limits | None = None,
    y_limits: Limits | None = None,
    diagonal: bool = False,
    smooth: bool = True,
) -> str:
    """One chart as an `<svg>` element.

    Args:
        curves: what to draw; None and non-finite values leave gaps, and so do values
            of 0 and below on a logarithmic axis.
        x_name: what runs along the bottom.
        title: read out by screen readers.
        log: a logarithmic y axis.
        x_limits: of the axis; None: those of the points.
        y_limits: likewise.
        diagonal: draw the line from corner to corner that the curves are read against.
        smooth: show a noisy curve with its running mean.

    Raises:
        ValueError: if there is not one point to draw.
    """
    kept = {name: _finite(points, log=log) for name, points in curves.items()}
    points = [(x, y) for runs in kept.values() for run in runs for x, y in run]
    if not points:
        raise ValueError(f"curves: no finite point in {list(curves)}")
    xs, ys = zip(*points, strict=True)
    x_range = x_limits or _padded(min(xs), max(xs), 0.0)
    y_range = y_limits or _limits(min(ys), max(ys), log=log)

    def at(x: float, y: float) -> tuple[float, float]:
        if log:
            y, low, high = math.log(y), math.log(y_range[0]), math.log(y_range[1])
        else:
            low, high = y_range
        across = (x - x_range[0]) / (x_range[1] - x_range[0])
        up = (y - low) / (high - low)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM),
        )

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(title or ", ".join(curves))}">'
    ]
    for y in (log_ticks if log else nice_ticks)(*y_range):
        _, py = at(x_range[0], y)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" '
            f'y1="{py:.1f}" y2="{py:.1f}"/>'
            f'<text class="tick" x="{LEFT - 8}" y="{py + 4:.1f}" '
            f'text-anchor="end">{number(y)}</text>'
        )
    for x in nice_ticks(*x_range, 6):
        px, _ = at(x, y_range[1])
        parts.append(
            f'<text class="tick" x="{px:.1f}" y="{HEIGHT - BOTTOM + 18}" '
            f'text-anchor="middle">{number(x)}</text>'
        )
    parts.append(
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" '
        f'y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" '
        f'text-anchor="end">{html.escape(x_name)}</text>'
    )
    if diagonal:
        (x0, y0), (x1, y1) = at(x_range[0], y_range[0]), at(x_range[1], y_range[1])
        parts.append(
            f'<line class="diagonal" x1="{x0:.1f}" x2="{x1:.1f}" y1="{y0:.1f}" '
            f'y2="{y1:.1f}"/>'
        )
    for index, (name, runs) in enumerate(kept.items()):
        colour = f"var(--s{index % COLOURS})"
        noisy = smooth and _is_noisy(runs)
        for run in runs:
            parts.append(_line(run, at, colour, faint=noisy))
            if noisy:
                parts.append(_line(_running_mean(run), at, colour, faint=False))
        parts += _tooltips(name, runs, at, colour, x_name)
    return "".join(parts) + "</svg>"


def legend(curves: Curves, *, values: bool = True) -> str:
    """The curves' names beside their colours, with each one's last value."""
    items = []
    for index, (name, points) in enumerate(curves.items()):
        finite = [y for _, y in points if y is not None and math.isfinite(y)]
        last = f" <b>{number(finite[-1])}</b>" if finite and values else ""
        items.append(
            f'<span><i style="background:var(--s{index % COLOURS})"></i>'
            f"{html.escape(name)}{last}</span>"
        )
    return f'<div class="legend">{"".join(items)}</div>'


def _finite(points: Sequence[Point], *, log: bool) -> list[list[tuple[float, float]]]:
    """Unbroken runs of drawable points."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is not None and math.isfinite(y) and (y > 0 or not log):
            runs[-1].append((float(x), float(y)))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _padded(low: float, high: float, share: float) -> tuple[float, float]:
    if low == high:
        return low - 0.5 * abs(low or 1.0), high + 0.5 * abs(high or 1.0)
    return low - share * (high - low), high + share * (high - low)


def _limits(low: float, high: float, *, log: bool) -> tuple[float, float]:
    if not log:
        return _padded(low, high, 0.06)
    return low / 1.2, high * 1.2


def _line(run: Run, at: Place, colour: str, *, faint: bool) -> str:
    every = max(1, math.ceil(len(run) / MAX_POINTS))
    thin = [*run[:-1:every], run[-1]]
    if len(thin) == 1:
        x, y = at(*thin[0])
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
    path = " ".join("{:.1f},{:.1f}".format(*at(*point)) for point in thin)
    css = "line faint" if faint else "line"
    return f'<polyline class="{css}" stroke="{colour}" points="{path}"/>'


def _is_noisy(runs: Sequence[Run]) -> bool:
    """A long curve that turns round at more than a quarter of its points."""
    turns, steps = 0, 0
    for run in runs:
        rises = [b[1] - a[1] for a, b in pairwise(run)]
        turns += sum(a * b < 0 for a, b in pairwise(rises))
        steps += len(run)
    return steps >= SMOOTH_FROM and turns > steps / 4


def _running_mean(run: Run) -> list[tuple[float, float]]:
    """Over a tenth of the curve, centred, so that the mean does not lag behind it."""
    reach = max(1, len(run) // 20)
    sums = [0.0, *accumulate(y for _, y in run)]
    out = []
    for i, (x, _) in enumerate(run):
        start, stop = max(0, i - reach), min(len(run), i + reach + 1)
        out.append((x, (sums[stop] - sums[start]) / (stop - start)))
    return out


def _tooltips(
    name: str, runs: Sequence[Run], at: Place, colour: str, x_name: str
) -> list[str]:
    points = [point for run in runs for point in run]
    every = max(1, math.ceil(len(points) / MAX_TOOLTIPS))
    out = []
    for x, y in points[::every]:
        px, py = at(x, y)
        text = html.escape(f"{name}: {number(y)} at {x_name} {number(x)}")
        out.append(
            f'<circle class="dot" cx="{px:.1f}" cy="{py:.1f}" r="5" fill="{colour}">'
            f"<title>{text}</title></circle>"
        )
    return out
