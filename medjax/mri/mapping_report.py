"""The page of ``experiments.map``: maps, errors, what was masked, a fitted pixel."""

import numpy as np

from medjax.mri.mapping import MapConfig, Mapped
from medjax.mri.reconstruction_report import MAP_WINDOW
from medjax.mri.relaxometry import T1Map
from medjax.report import Card, Report
from medjax.report.picture import HEAT, LABELS, coloured, enlarged, grey

SLICES = 6
"""Shown at most, evenly spread."""
CURVE_POINTS = 60


def report(mapped: Mapped, config: MapConfig) -> Report:
    """The page, not yet saved."""
    series = mapped.series
    name = series.contrast.upper()
    counts, every = mapped.counts(), mapped.fault.size
    page = Report(
        f"{name} map",
        f"{mapped.model}, {len(series.times)} frames, {len(mapped.value)} slices",
    )
    page.notice("For research. Maps are zero where no plausible fit was found.")
    inside = mapped.value[mapped.fault == 0]
    if inside.size:
        page.numbers(
            {
                f"median {name} (ms)": (float(np.median(inside)), "plausible pixels"),
                "masked": (
                    f"{1 - counts['plausible'] / every:.1%}",
                    f"of {every} pixels",
                ),
            }
        )
    page.section("Maps")
    window = _window(mapped)
    depth = len(mapped.value)
    shown = np.unique(np.linspace(0, depth - 1, min(depth, SLICES)).round().astype(int))
    for index in shown:
        _slice(page, mapped, int(index), window)
    if inside.size:
        page.histogram(
            f"{name} of plausible pixels",
            {name: np.clip(inside, *window)},
            x=f"{name} (ms), cut at {window[1]:.0f}",
        )
    page.section("Pixels")
    page.table(
        [
            {"fit": why, "pixels": count, "share": f"{count / every:.2%}"}
            for why, count in counts.items()
        ],
        caption="Fits that no tissue can have are masked",
    )
    if mapped.sigma is not None:
        page.text(f"Noise (sigma): {mapped.sigma:.4g}; floor: {config.noise_floor}.")
    _curve(page, mapped)
    return page


def _window(mapped: Mapped) -> tuple[float, float]:
    """Usual times, or what the map has where that is less."""
    inside = mapped.value[mapped.fault == 0]
    usual = MAP_WINDOW[mapped.series.contrast][1]
    top = float(np.percentile(inside, 99)) if inside.size else usual
    return 0.0, min(usual, top) or usual


def _slice(
    page: Report, mapped: Mapped, index: int, window: tuple[float, float]
) -> None:
    name = mapped.series.contrast.upper()
    low, high = window
    value, sd, fault = (x[index] for x in (mapped.value, mapped.sd, mapped.fault))
    last = mapped.series.signal[int(np.argmax(mapped.series.times)), index]
    first = mapped.series.signal[int(np.argmin(mapped.series.times)), index]
    known = sd[(fault == 0) & (sd > 0)]
    worst = float(np.percentile(known, 95)) if known.size else 1.0
    palette = np.concatenate([[[0, 0, 0]], LABELS])
    cards = [
        Card(_big(grey(first, 0, float(first.max()))), "shortest time"),
        Card(_big(grey(last, 0, float(last.max()))), "longest time"),
        Card(
            _big(coloured((value - low) / (high - low), HEAT, fault == 0)),
            name,
            [(f"dark {low:.0f} to light {high:.0f} ms", None)],
        ),
        Card(
            _big(coloured(sd / worst, HEAT, fault == 0)),
            "standard error",
            [(f"dark 0 to light {worst:.3g} ms", None)],
        ),
        Card(
            _big(palette[np.minimum(fault, len(LABELS))].astype(np.uint8)),
            "masked",
            [(f"{(fault != 0).mean():.1%}, by reason; black: kept", None)],
        ),
    ]
    page.gallery(cards, caption=f"Slice {index + 1} of {len(mapped.value)}")


def _big(picture: np.ndarray) -> np.ndarray:
    return enlarged(picture) if min(picture.shape[:2]) < 192 else picture


def _curve(page: Report, mapped: Mapped) -> None:
    """The plausible pixel whose time is the median: what was measured and fitted."""
    kept = np.flatnonzero(mapped.fault.ravel() == 0)
    if not kept.size:
        return
    order = kept[np.argsort(mapped.value.ravel()[kept])]
    at = np.unravel_index(order[len(order) // 2], mapped.value.shape)
    fits, times = mapped.fits, mapped.series.times
    dense = np.linspace(0, float(times.max()), CURVE_POINTS)
    if isinstance(fits, T1Map):
        a, b, tau = (float(x[at]) for x in (fits.a, fits.b, fits.t1_star))
        model = a - b * np.exp(-dense / tau)
        model = model if mapped.model == "signed" else np.abs(model)
    else:
        m0, offset, tau = (float(x[at]) for x in (fits.m0, fits.offset, fits.t2))
        model = offset + m0 * np.exp(-dense / tau)
    measured = mapped.series.signal[:, *at]
    rows = [
        {"time (ms)": float(t), "fit": float(y)}
        for t, y in zip(dense, model, strict=True)
    ]
    rows += [
        {"time (ms)": float(t), "measured": float(y)}
        for t, y in sorted(zip(times, measured, strict=True))
    ]
    place = ", ".join(str(int(i)) for i in at)
    name = mapped.series.contrast.upper()
    page.curves(
        f"Signal of the pixel {place} (slice, row, column): {name} "
        f"{mapped.value[at]:.4g} ± {mapped.sd[at]:.2g} ms",
        sorted(rows, key=lambda row: row["time (ms)"]),
        x="time (ms)",
    )
