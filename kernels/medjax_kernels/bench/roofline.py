"""The picture: what every contestant computes per second, under the roof of its chip.

Per operation and shape one panel. Across runs FLOPs per compulsory byte, up FLOP/s,
both logarithmic; the roof is the measured copy and the fastest measured product. A
point's height below the roof is what is left to gain with that algorithm. Written as
SVG text by hand; colours follow the reader's light or dark scheme.
"""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from medjax_kernels.bench.ceilings import COPY

WIDTH, HEIGHT = 860, 330
LEFT, RIGHT, TOP, BOTTOM = 64, 330, 40, 44
COLOURS = ("#2f6fb7", "#c2552d", "#3d8f5f", "#8a5fb0", "#a8842c", "#4a8f9c")

STYLE = """
<style>
  text { font: 12px system-ui, sans-serif; fill: #222; }
  .title { font-weight: 600; font-size: 14px; }
  .faint { fill: #666; }
  .grid { stroke: #0002; }
  .roof { stroke: #222; stroke-width: 2; fill: none; }
  .peer { fill-opacity: 0; stroke-width: 2; }
  .page { fill: #fff; }
  @media (prefers-color-scheme: dark) {
    text { fill: #ddd; } .faint { fill: #999; } .grid { stroke: #fff2; }
    .roof { stroke: #ddd; } .page { fill: #16181c; }
  }
</style>"""


def draw(contents: Mapping[str, Any]) -> str:
    """All runs of a chip's file as one SVG document.

    Args:
        contents: of the file, as :func:`.record.read` gives it.

    Returns:
        The document.

    Raises:
        ValueError: if there is no run in it.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for run in contents["runs"].values():
        groups.setdefault(f"{run['op']} {run['shape']}", []).append(run)
    if not groups:
        raise ValueError("contents has no runs, expected one at least")
    panels = [
        f'<g transform="translate(0 {i * HEIGHT})">{_panel(name, runs)}</g>'
        for i, (name, runs) in enumerate(groups.items())
    ]
    height = HEIGHT * len(panels) + 24
    chip = html.escape(str(contents["chip"]))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="{chip}">'
        f'{STYLE}<rect class="page" width="{WIDTH}" height="{height}"/>'
        f"{''.join(panels)}"
        f'<text class="faint" x="{LEFT}" y="{height - 10}">{chip}. Filled: ours; open: '
        "peers. Hover for time and share of the limit.</text></svg>\n"
    )


def _panel(name: str, runs: Sequence[Mapping[str, Any]]) -> str:
    bandwidth = max(run["ceilings"][COPY] for run in runs)
    rate = max(
        value
        for run in runs
        for key, value in run["ceilings"].items()
        if key.startswith("product")
    )
    points = [
        (run["case"], row, row["flops"] / row["bytes"], row["flops"] / row["us"] * 1e6)
        for run in runs
        for row in run["rows"]
    ]
    xs, ys = [p[2] for p in points], [p[3] for p in points]
    ridge = rate / bandwidth
    x_range = _decades(min([*xs, ridge / 4]), max([*xs, ridge * 4]))
    y_range = _decades(min(ys), max([*ys, rate]))

    def at(x: float, y: float) -> tuple[float, float]:
        def place(value: float, low: float, high: float) -> float:
            return (math.log10(value) - low) / (high - low)

        return (
            LEFT + place(x, *x_range) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - place(y, *y_range) * (HEIGHT - TOP - BOTTOM),
        )

    parts = [f'<text class="title" x="{LEFT}" y="22">{html.escape(name)}</text>']
    parts += _axes(at, x_range, y_range)
    left = max(10 ** x_range[0], 10 ** y_range[0] / bandwidth)
    corners = [(left, bandwidth * left), (ridge, rate), (10 ** x_range[1], rate)]
    path = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in corners)
    parts.append(
        f'<polyline class="roof" points="{path}"><title>{bandwidth / 1e9:.4g} GB/s, '
        f"{rate / 1e9:.4g} GFLOP/s</title></polyline>"
    )
    cases = list(dict.fromkeys(case for case, *_ in points))
    labels = []
    for number, (case, row, x, y) in enumerate(points, 1):
        colour = COLOURS[cases.index(case) % len(COLOURS)]
        px, py = at(x, y)
        told = f"{case}, {row['contestant']}"
        css = ' class="peer"' if row["peer"] else ""
        tip = f"{told}: {row['us']:.4g} us, {row['share']:.1%} of the limit"
        parts.append(
            f'<circle{css} cx="{px:.1f}" cy="{py:.1f}" r="5" fill="{colour}" '
            f'stroke="{colour}"><title>{html.escape(tip)}</title></circle>'
        )
        labels.append((number, px, py, colour, told))
    return "".join(parts) + _legend(labels)


def _axes(at: Any, x_range: tuple[int, int], y_range: tuple[int, int]) -> list[str]:
    parts = []
    for power in range(x_range[0], x_range[1] + 1):
        x, _ = at(10.0**power, 10.0 ** y_range[0])
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" '
            f'y2="{HEIGHT - BOTTOM}"/><text class="faint" x="{x:.1f}" '
            f'y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{10.0**power:g}</text>'
        )
    for power in range(y_range[0], y_range[1] + 1):
        _, y = at(10.0 ** x_range[0], 10.0**power)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" '
            f'y2="{y:.1f}"/><text class="faint" x="{LEFT - 7}" y="{y + 4:.1f}" '
            f'text-anchor="end">{10.0**power / 1e9:g}</text>'
        )
    parts.append(
        f'<text class="faint" x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">'
        f'FLOP per byte</text><text class="faint" x="8" y="{TOP - 8}">GFLOP/s</text>'
    )
    return parts


def _legend(labels: Sequence[tuple[int, float, float, str, str]]) -> str:
    """Numbers beside the points, and what they mean on the right."""
    parts = []
    step = min(16.0, (HEIGHT - TOP - 10) / max(len(labels), 1))
    size = min(12.0, step * 0.85)
    for i, (number, x, y, colour, told) in enumerate(labels):
        parts.append(
            f'<text x="{x + 7:.1f}" y="{y - 5:.1f}" style="font-size:9px">{number}'
            f'</text><text x="{WIDTH - RIGHT + 16}" y="{TOP + 4 + i * step:.1f}" '
            f'style="font-size:{size:.1f}px"><tspan style="fill:{colour}">{number}'
            f"</tspan> {html.escape(told)}</text>"
        )
    return "".join(parts)


def _decades(low: float, high: float) -> tuple[int, int]:
    return math.floor(math.log10(low)), math.ceil(math.log10(high) + 1e-9)
