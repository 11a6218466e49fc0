"""Inversion and echo times from the challenge's csv files, faults and all.

Row 0 is a header, column 0 a label; the body has one row per frame and one column per
slice. Real files have trailing blank rows and columns, one column where all slices
share the times (T2), too few rows, or are missing; what cannot be used is replaced by
the protocol's nominal times, with a warning that names the file.
"""

import csv
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Float

# Nominal times in ms: MOLLI 4-(1)-3-(1)-2 as scanned, and T2-prepared echoes.
DEFAULTS = {
    "t1map": (100.0, 180.0, 260.0, 1245.0, 1323.0, 1340.0, 2395.0, 2450.0, 3550.0),
    "t2map": (0.0, 35.0, 55.0),
}


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
    table = _body(Path(path)) if path is not None else np.zeros((0, 0), np.float32)
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
    broken = ~np.isfinite(times).all(axis=1)
    if broken.any():
        _warn(where, f"has gaps in slices {np.flatnonzero(broken).tolist()}")
        times[broken] = fallback
    return times


def _warn(where: str, fault: str) -> None:
    warnings.warn(f"{where} {fault}; nominal times are used there", stacklevel=3)


def _body(path: Path) -> Float[np.ndarray, "t d"]:
    """Numbers without header row and label column; blank edges are cut off."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.reader(file))[1:]
    width = max((len(row) for row in rows), default=1)
    table = np.full((len(rows), max(width - 1, 0)), np.nan, np.float32)
    for i, row in enumerate(rows):
        for j, word in enumerate(row[1:]):
            try:
                table[i, j] = float(word)
            except ValueError:
                continue  # blank, "NaN" or a remark
    filled = np.isfinite(table)
    return table[filled.any(axis=1)][:, filled.any(axis=0)]
