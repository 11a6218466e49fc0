"""What a run leaves to look at: one HTML file with curves, tables and pictures in it.

Self-contained: styles are inline, charts are SVG, pictures are data in the page, and a
content policy in it forbids any request, so that it can be mailed, archived or
opened on a machine without a network. It follows the reader's light or dark setting.
Every text is escaped.
"""

import html
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num, Shaped

from medjax.data.whole import whole
from medjax.report.chart import Curves, Limits, legend, line_chart, number
from medjax.report.picture import SIGNED, Animation, coloured, grey, image_tag

STYLE = (Path(__file__).with_name("page.css")).read_text()
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Card:
    """A picture in a gallery with lines of text under it.

    Attributes:
        picture: uint8, or float in [0, 1]; [h, w] or [h, w, 3]; or several in time.
        title: above the lines, in bold.
        lines: (text, mark); True marks it right, False wrong, None neither.
    """

    picture: np.ndarray | Animation
    title: str = ""
    lines: Sequence[tuple[str, bool | None]] = ()


class Report:
    """Builds a page from top to bottom; every method adds a block and returns itself.

    Args:
        title: the page's heading.
        subtitle: one line under it.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self.subtitle = subtitle
        self._blocks: list[str] = []

    def section(self, title: str) -> "Report":
        """Starts a part of the page."""
        return self._add(f"<h2>{html.escape(title)}</h2>")

    def text(self, text: str) -> "Report":
        """Paragraphs; an empty line between two begins a new one."""
        for paragraph in text.split("\n\n"):
            self._add(f"<p>{html.escape(paragraph)}</p>")
        return self

    def notice(self, text: str) -> "Report":
        """What a reader has to know before the rest, in a frame."""
        return self._add(f'<p class="notice">{html.escape(text)}</p>')

    def numbers(self, tiles: Mapping[str, tuple[float | str, str]]) -> "Report":
        """The headline figures, large.

        Args:
            tiles: name to (value, remark), such as {"zero-shot AUC": (0.81, "chance
                0.5")}.
        """
        cells = [
            f'<div class="tile"><span>{html.escape(name)}</span>'
            f"<strong>{_cell(value)}</strong><em>{html.escape(remark)}</em></div>"
            for name, (value, remark) in tiles.items()
        ]
        return self._add(f'<div class="tiles">{"".join(cells)}</div>')

    def curves(
        self,
        name: str,
        rows: Sequence[Mapping[str, Any]],
        keys: Sequence[str] | None = None,
        *,
        x: str = "step",
        log: bool = False,
    ) -> "Report":
        """A line chart of logged rows; two charts in a row stand side by side.

        Args:
            name: the chart's heading.
            rows: such as those of `metrics.jsonl`. A row without a key adds no point; a
                null breaks the line.
            keys: which values; None takes every numeric one but `x`.
            x: the value along the bottom.
            log: a logarithmic y axis.

        Raises:
            ValueError: if no row has a number under any key.
        """
        if keys is None:
            found = [k for row in rows for k, v in row.items() if _is_number(v)]
            keys = [key for key in dict.fromkeys(found) if key != x]
        drawn: Curves = {
            key: [(row[x], row[key]) for row in rows if x in row and key in row]
            for key in keys
        }
        if not any(_is_number(y) for points in drawn.values() for _, y in points):
            raise ValueError(f"curves {name!r}: no number under {list(keys)}")
        drawn = {key: points for key, points in drawn.items() if points}
        return self._chart(name, drawn, x=x, log=log, note="log scale" if log else "")

    def roc(self, name: str, curves: Curves) -> "Report":
        """Receiver operating characteristics beside the diagonal of guessing.

        Args:
            name: the chart's heading.
            curves: name to (false positive rate, true positive rate), rising.
        """
        return self._chart(
            name, curves, x="false positive rate", square=True, values=False
        )

    def reliability(self, name: str, curves: Curves) -> "Report":
        """Observed frequency over predicted probability, beside perfect calibration.

        Args:
            name: the chart's heading.
            curves: name to (mean probability, observed frequency) of the bins that
                hold something.
        """
        return self._chart(
            name, curves, x="predicted probability", square=True, values=False
        )

    def histogram(
        self,
        name: str,
        groups: Mapping[str, Num[np.ndarray, " n"]],
        *,
        x: str,
        bins: int = 30,
    ) -> "Report":
        """Shares of each group by value, over common bins.

        Args:
            name: the chart's heading.
            groups: name to values; those that are not finite are left out.
            x: what the values are.
            bins: how many, from the lowest to the highest value of all groups.

        Raises:
            ValueError: if no group has a finite value.
        """
        finite = {k: v[np.isfinite(v)] for k, v in groups.items()}
        finite = {k: v for k, v in finite.items() if v.size}
        if not finite:
            raise ValueError(f"histogram {name!r}: no finite value in {list(groups)}")
        edges = np.histogram_bin_edges(np.concatenate(list(finite.values())), bins)
        drawn: Curves = {
            f"{key} (n = {values.size})": _steps(values, edges)
            for key, values in finite.items()
        }
        top = max(y for points in drawn.values() for _, y in points if y is not None)
        return self._chart(name, drawn, x=x, y_limits=(0.0, 1.06 * top), values=False)

    def _chart(
        self,
        name: str,
        drawn: Curves,
        *,
        x: str,
        log: bool = False,
        square: bool = False,
        y_limits: Limits | None = None,
        values: bool = True,
        note: str = "",
    ) -> "Report":
        """A chart with its heading; `square`: the unit square with its diagonal."""
        unit: Limits | None = (0.0, 1.0) if square else None
        chart = line_chart(
            drawn,
            x_name=x,
            title=name,
            log=log,
            x_limits=unit,
            y_limits=unit or y_limits,
            diagonal=square,
            smooth=values,
        )
        remark = f' <span class="note">{note}</span>' if note else ""
        return self._add(
            f'<figure class="chart"><figcaption>{html.escape(name)}{remark}'
            f"</figcaption>{legend(drawn, values=values)}{chart}</figure>"
        )

    def table(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        caption: str = "",
        bars: Mapping[str, tuple[float, float]] | None = None,
    ) -> "Report":
        """A table; columns are the keys in order of appearance.

        Args:
            rows: floats show three decimals, None and NaN a dash.
            caption: above it.
            bars: columns that also draw their value as a bar, with the values at the
                bar's empty and full ends, such as {"AUC": (0.5, 1.0)}.
        """
        columns = list(dict.fromkeys(key for row in rows for key in row))
        numeric = {c for c in columns if any(_is_number(row.get(c)) for row in rows)}
        head = "".join(
            f'<th class="{"num" if c in numeric else ""}">{html.escape(c)}</th>'
            for c in columns
        )
        body = "".join(
            "<tr>"
            + "".join(
                _td(row.get(c), c in numeric, (bars or {}).get(c)) for c in columns
            )
            + "</tr>"
            for row in rows
        )
        title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
        return self._add(
            f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )

    def matrix(
        self,
        counts: Num[np.ndarray, "rows columns"],
        *,
        rows: Sequence[str],
        columns: Sequence[str],
        caption: str = "",
    ) -> "Report":
        """Counts as cells, darker the larger their share of the row (a confusion).

        Args:
            counts: not negative.
            rows: what each row is, such as the true classes.
            columns: what each column is, such as the predicted ones.
            caption: above it.

        Raises:
            ValueError: if names and counts do not fit.
        """
        counts = np.asarray(counts)
        if counts.shape != (len(rows), len(columns)) or (counts < 0).any():
            raise ValueError(
                f"matrix: expected counts of shape {(len(rows), len(columns))}, none "
                f"negative, got shape {counts.shape}"
            )
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-12)
        head = "".join(f'<th class="num">{html.escape(c)}</th>' for c in columns)
        body = "".join(
            f"<tr><th>{html.escape(name)}</th>"
            + "".join(
                f'<td class="num heat" style="--share:{100 * part:.0f}%">'
                f"{_cell(count.item())}</td>"
                for count, part in zip(line, parts, strict=True)
            )
            + "</tr>"
            for name, line, parts in zip(rows, counts, share, strict=True)
        )
        title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
        return self._add(
            f'<div class="scroll"><table class="matrix">{title}<thead><tr><th></th>'
            f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def before_after(
        self,
        before: Shaped[np.ndarray, "h w"],
        after: Shaped[np.ndarray, "h w"],
        *,
        reach: float,
        caption: str = "",
    ) -> "Report":
        """Two grey pictures of one place, and what changed between them.

        Args:
            before: numbers of one unit with ``after``.
            after: of the same shape.
            reach: the change that is shown in full colour.
            caption: above them.
        """
        both = np.stack([before, after])
        low, high = float(both.min()), float(both.max())
        change = coloured((after - before) / (2 * reach) + 0.5, SIGNED)
        scale = f"blue -{reach:.4g}, white 0, red {reach:.4g}"
        cards = [
            Card(grey(before, low, high), "before"),
            Card(grey(after, low, high), "after"),
            Card(change, "change", [(scale, None)]),
        ]
        return self.gallery(cards, caption=caption)

    def picture(self, array: np.ndarray | Animation, caption: str = "") -> "Report":
        """One picture at its own size, or as wide as the page; still or moving.

        Raises:
            ValueError: if the array is not a picture (see `Card`).
        """
        return self._add(
            f'<figure class="picture">{image_tag(array, caption)}'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def gallery(self, cards: Sequence[Card], *, caption: str = "") -> "Report":
        """Pictures side by side, each with its lines.

        Raises:
            ValueError: if an array is not a picture (see `Card`).
        """
        title = f'<p class="note">{html.escape(caption)}</p>' if caption else ""
        items = []
        for card in cards:
            lines = "".join(
                f'<li class="{_MARKS[mark]}">{html.escape(text)}</li>'
                for text, mark in card.lines
            )
            name = f"<b>{html.escape(card.title)}</b>" if card.title else ""
            items.append(
                f'<div class="card">{image_tag(card.picture, card.title)}'
                f"{name}<ul>{lines}</ul></div>"
            )
        return self._add(f'{title}<div class="gallery">{"".join(items)}</div>')

    def html(self) -> str:
        """The whole page."""
        title, subtitle = html.escape(self.title), html.escape(self.subtitle)
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            f"<title>{title}</title><style>{STYLE}</style></head><body><main>"
            f"<header><h1>{title}</h1><p>{subtitle}</p></header>"
            f"{''.join(self._blocks)}</main></body></html>\n"
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the page; a reader sees the old file or the new one, never half."""
        with whole(path) as draft:
            draft.write_text(self.html(), encoding="utf-8")
        return Path(path)

    def _add(self, block: str) -> "Report":
        self._blocks.append(block)
        return self


_MARKS = {True: "right", False: "wrong", None: ""}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, (float, np.floating)) and math.isnan(value)):
        return "–"
    if isinstance(value, (float, np.floating)):
        small = 1e-3 <= abs(value) < 1e3 or value == 0
        return f"{value:.3f}" if small else number(float(value))
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return f"{int(value):,}"
    return html.escape(str(value))


def _td(value: Any, numeric: bool, ends: tuple[float, float] | None) -> str:
    bar = ""
    if ends is not None and _is_number(value) and math.isfinite(value):
        share = min(max((value - ends[0]) / (ends[1] - ends[0]), 0.0), 1.0)
        bar = f'<span class="bar"><i style="width:{100 * share:.1f}%"></i></span>'
    return f'<td class="{"num" if numeric else ""}">{bar}{_cell(value)}</td>'


def _steps(
    values: Num[np.ndarray, " n"], edges: Num[np.ndarray, " m"]
) -> list[tuple[float, float | None]]:
    """The outline of a histogram of shares: up at an edge, level over a bin."""
    shares = np.histogram(values, edges)[0] / values.size
    outline = [(float(edges[0]), 0.0)]
    for left, right, share in zip(edges[:-1], edges[1:], shares, strict=True):
        outline += [(float(left), float(share)), (float(right), float(share))]
    return [*outline, (float(edges[-1]), 0.0)]
