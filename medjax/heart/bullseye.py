"""The 17 segments as a picture: rings about the apex, anterior up, septum on the left.

The outer ring is basal, the next mid, then four apical segments, and the apex in the
middle (Cerqueira et al. 2002, Circulation 105:539, figure 4). Numbers stand in the
segments, so that a picture without colours can be read too.
"""

import numpy as np
from jaxtyping import Float, Int32, Integer, UInt8
from PIL import Image, ImageDraw

from medjax.report import Card
from medjax.report.picture import HEAT, SIGNED, coloured

RINGS = (0.25, 0.5, 0.75, 1.0)
"""Outer radii of apex, apical, mid and basal segments, of the picture's."""
EMPTY = 200
"""Grey of a segment without a value."""
Segments = Float[np.ndarray, "17"]


def segment_picture(side: int) -> Int32[np.ndarray, "side side"]:
    """Which segment every pixel is of, 1 to 17; 0 outside.

    Args:
        side: pixels of the square.
    """
    middle = 0.5 * (side - 1)
    down, right = np.mgrid[:side, :side] - middle
    radius = np.hypot(down, right) / (0.5 * side)
    # From anterior, which is up, over the septum, which is on the left.
    turn = np.arctan2(-right, -down)
    six = np.floor(turn / (np.pi / 3) + 0.5).astype(int) % 6
    four = np.floor(turn / (np.pi / 2) + 0.5).astype(int) % 4
    found = np.select(
        [radius <= ring for ring in RINGS],
        [np.full_like(six, 17), 13 + four, 7 + six, 1 + six],
    )
    return found.astype(np.int32)


def bullseye(
    values: Float[np.ndarray, " s"],
    low: float,
    high: float,
    colours: Integer[np.ndarray, "n 3"] = HEAT,
    *,
    side: int = 224,
    decimals: int = 0,
) -> UInt8[np.ndarray, "side side 3"]:
    """Values of segments as colours and numbers.

    Args:
        values: of the segments, 1 to 17; NaN is grey, with a dash.
        low: shown in the first colour.
        high: shown in the last colour.
        colours: from low to high.
        side: pixels of the square.
        decimals: of the numbers.

    Raises:
        ValueError: for another number of values, or a range that is empty.
    """
    values = np.asarray(values, np.float64)
    if values.shape != (17,) or not low < high:
        raise ValueError(
            f"bullseye: values of shape {values.shape} between {low:g} and {high:g}, "
            "expected 17 of them and a range"
        )
    segment = segment_picture(side)
    palette = coloured((values - low)[None] / (high - low), colours)[0]
    palette[~np.isfinite(values)] = EMPTY
    whole = np.concatenate([[[255, 255, 255]], palette]).astype(np.uint8)
    drawn = whole[segment]
    # A line between segments, on the pixels of the later row or column.
    edge = np.zeros(segment.shape, bool)
    edge[1:] |= segment[1:] != segment[:-1]
    edge[:, 1:] |= segment[:, 1:] != segment[:, :-1]
    drawn[edge] = 90
    image = Image.fromarray(drawn)
    pen = ImageDraw.Draw(image)
    for i, value in enumerate(values):
        row, column = _centre(i + 1, side)
        light = palette[i] @ (0.299, 0.587, 0.114) > 128
        told = f"{value:.{decimals}f}" if np.isfinite(value) else "-"
        ink = (0, 0, 0) if light else (255, 255, 255)
        pen.text((column, row), told, fill=ink, anchor="mm")
    return np.asarray(image)


def _centre(number: int, side: int) -> tuple[float, float]:
    """Row and column of a segment's middle."""
    middle = 0.5 * (side - 1)
    if number == 17:
        return middle, middle
    ring, around = (1, 4) if number > 12 else (2, 6) if number > 6 else (3, 6)
    radius = 0.25 * side * (RINGS[ring - 1] + RINGS[ring])
    first = {1: 13, 2: 7, 3: 1}[ring]
    turn = 2 * np.pi * (number - first) / around
    return middle - radius * np.cos(turn), middle - radius * np.sin(turn)


def bullseye_cards(
    truth: Segments,
    prediction: Segments,
    *,
    low: float,
    high: float,
    reach: float,
    names: tuple[str, str] = ("truth", "prediction"),
) -> list[Card]:
    """Truth, prediction, and what the prediction is too high or too low.

    Args:
        truth: of the segments.
        prediction: of the same unit.
        low: of the colours of both.
        high: of the colours of both.
        reach: error that is shown in full colour.
        names: of both.
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    error = prediction - truth
    known = np.isfinite(error)
    told = f"{17 - known.sum()} of 17 without"
    if known.any():
        told = f"mean of absolute values {np.abs(error[known]).mean():.1f}, {told}"
    scale = f"{low:g} to {high:g}"
    return [
        Card(bullseye(truth, low, high), names[0], [(scale, None)]),
        Card(bullseye(prediction, low, high), names[1], [(scale, None)]),
        Card(
            bullseye(error, -reach, reach, SIGNED),
            f"{names[1]} - {names[0]}",
            [(told, None), (f"blue {-reach:g}, white 0, red {reach:g}", None)],
        ),
    ]
