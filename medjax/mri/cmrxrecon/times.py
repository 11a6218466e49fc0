"""Inversion and echo times from the challenge's csv files, faults and all.

Row 0 is a header, column 0 a label; the body has one row per frame and one column per
slice. Real files have trailing blank rows and columns, one column where all slices
share the times (T2), too few rows, or are missing; people's own lack header or labels,
were saved by a spreadsheet (semicolons, decimal commas, UTF-16, latin-1) or hold
seconds. What cannot be used is replaced by the protocol's nominal times, with a warning
that names the file.
"""

import codecs
import csv
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

# Nominal times in ms: MOLLI 4-(1)-3-(1)-2 as scanned, and T2-prepared echoes.
DEFAULTS = {
    "t1map": (100.0, 180.0, 260.0, 1245.0, 1323.0, 1340.0, 2395.0, 2450.0, 3550.0),
    "t2map": (0.0, 35.0, 55.0),
}
# The longest time of a series in ms is above, in seconds below.
SECONDS_BELOW = {"t1map": 20.0, "t2map": 1.0}
LONGEST = 60_000.0
"""ms; nothing in MRI waits longer for an echo."""


def read_times(
    path: str | Path | None, *, name: str, frames: int, slices: int
) -> Float[np.ndarray, "d t"] | None:
    """Times of every slice.

    Args:
        path: the csv file; ``None`` where it is missing.
        name: the series, which says what the nominal times are.
        frames: number of frames of k-space.
        slices: number of slices of k-space.

    Returns:
        Milliseconds, float32; ``None`` for series without times (cine).
    """
    nominal = DEFAULTS.get(name.lower())
    if nominal is None:
        return None
    fallback = np.full(frames, np.nan, np.float32)
    fallback[: len(nominal)] = nominal[:frames]
    where = f"{path}" if path is not None else f"{name}.csv (absent)"
    table = np.zeros((0, 0), np.float32)
    if path is not None:
        try:
            table = _body(_numbers(Path(path)), frames)
        except (OSError, csv.Error) as error:
            _warn(where, f"cannot be read ({error})")
            return np.tile(fallback, (slices, 1))
    if table.shape[0] < frames or table.shape[1] == 0:
        _warn(where, f"has {table.shape[0]} rows of times for {frames} frames")
        return np.tile(fallback, (slices, 1))
    times = table[:frames].T
    if times.shape[0] == 1:
        times = np.repeat(times, slices, axis=0)
    if times.shape[0] < slices:
        _warn(where, f"has {times.shape[0]} columns for {slices} slices")
        missing = np.tile(fallback, (slices - times.shape[0], 1))
        times = np.concatenate([times, missing])
    times = times[:slices].copy()
    if 0 < np.nanmax(times, initial=0.0) < SECONDS_BELOW[name.lower()]:
        warnings.warn(f"{where} seems to hold seconds; taken as such", stacklevel=2)
        times *= 1000
    for fault, broken in (
        ("gaps", ~np.isfinite(times).all(axis=1)),
        ("impossible times", ((times < 0) | (times > LONGEST)).any(axis=1)),
    ):
        if broken.any():
            _warn(where, f"has {fault} in slices {np.flatnonzero(broken).tolist()}")
            times[broken] = fallback
    return times


def _warn(where: str, fault: str) -> None:
    warnings.warn(f"{where} {fault}; nominal times are used there", stacklevel=3)


def _numbers(path: Path) -> tuple[Float[np.ndarray, "r c"], Bool[np.ndarray, "r c"]]:
    """All cells as numbers, NaN for what is none, and which of them hold words."""
    text = _decoded(path.read_bytes())
    delimiter = next((sign for sign in ";\t" if sign in text), ",")
    rows = list(csv.reader(text.splitlines(), delimiter=delimiter))
    width = max((len(row) for row in rows), default=0)
    table = np.full((len(rows), width), np.nan, np.float32)
    words = np.zeros(table.shape, bool)
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            try:
                number = float(cell.replace(",", ".")) if cell.strip() else np.nan
                table[i, j] = number if abs(number) < np.inf else np.nan
            except (OverflowError, ValueError):
                words[i, j] = True
    return table, words


def _decoded(raw: bytes) -> str:
    """Text of whatever encoding a spreadsheet saves in."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16", "replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _body(
    cells: tuple[Float[np.ndarray, "r c"], Bool[np.ndarray, "r c"]], frames: int
) -> Float[np.ndarray, "t d"]:
    """Numbers without header row and label column; blank edges are cut off."""
    table, words = np.asarray(cells[0]), np.asarray(cells[1])
    if table.size == 0:
        return table
    # A header has words, or is the one row too many (slices by number).
    filled = np.asarray(np.isfinite(table).any(axis=1))
    if np.any(words[:1, 1:]) or not filled[0] or filled.sum() == frames + 1:
        table, words = table[1:], words[1:]
    table, words = (part[np.isfinite(table).any(axis=1)] for part in (table, words))
    if len(table) == 0:
        return table
    # Labels are words, blanks, or count the rows from 0 or 1; times do neither.
    first = table[:, 0]
    counts = any(np.array_equal(first, np.arange(len(first)) + n) for n in (0, 1))
    if table.shape[1] > 1 and (counts or not np.isfinite(first).any()):
        table = table[:, 1:]
    filled = np.isfinite(table)
    return table[filled.any(axis=1)][:, filled.any(axis=0)]
