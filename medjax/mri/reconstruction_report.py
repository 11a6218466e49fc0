"""What a reconstruction run leaves: scores in lines, a page with images and maps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from medjax.mri.reconstruction_scores import FULL, Shown, table
from medjax.mri.relaxometry import fit_t1, fit_t2
from medjax.mri.scans import Contrast
from medjax.report import Card, Report
from medjax.report.picture import HEAT, SIGNED, coloured, enlarged, grey
from medjax.report.run import save_evaluation, training_section
from medjax.train.log import read_metrics

ERROR_GAIN = 5.0
"""Differences of images are shown this much brighter than the images."""
MAP_WINDOW: Mapping[Contrast, tuple[float, float]] = {
    "t1": (0.0, 2200.0),
    "t2": (0.0, 300.0),
}
MAP_ERROR: Mapping[Contrast, float] = {"t1": 200.0, "t2": 30.0}
"""ms from white to full colour in maps of errors."""


def show(
    workdir: Path, results: Mapping[str, Any], shown: Sequence[Shown], *, title: str
) -> Path:
    """Prints the scores, and writes ``evaluation.json`` and ``report.html``.

    Args:
      workdir: Folder of the run.
      results: Of ``evaluate``, with ``data`` and ``method`` (the learned one's name).
      shown: Of ``evaluate``.
      title: Of the page.

    Returns:
      Path of the page.
    """
    save_evaluation(workdir, results)
    print(f"\n{results['rows']} held-out series of {results['data']}")
    print(table(results["scores"], results["contrast"]))
    return report(workdir, results, shown, title=title).save(workdir / "report.html")


def report(
    workdir: Path, results: Mapping[str, Any], shown: Sequence[Shown], *, title: str
) -> Report:
    """The page: headline, loss, scores, images, maps, fits of single voxels."""
    contrast: Contrast = results["contrast"]
    rows = read_metrics(workdir) if (workdir / "metrics.jsonl").exists() else []
    steps = f"{rows[-1]['step']} steps, " if rows else ""
    page = Report(title, f"{steps}{results['rows']} series of {results['data']}")
    page.numbers(_headline(results))
    if rows:
        training_section(page, rows, log=True)
    page.section("Scores")
    page.text(
        "SSIM, PSNR and NMSE by the CMRxRecon rule of 2023: every frame and its "
        f"reference ({results['reference']}) divided by its own maximum. Map errors "
        "are root mean squared, in ms: against the truth, which has the sequence's own "
        "bias in it, and against the map fitted to the reference."
    )
    page.table([_readable(row, contrast) for row in results["scores"]])
    for one in shown:
        _add_series(page, one)
    return page


def _headline(results: Mapping[str, Any]) -> dict[str, tuple[float | str, str]]:
    """The learned method at the highest acceleration, beside zero filling."""
    worst = max(row["acceleration"] for row in results["scores"])
    at = {r["method"]: r for r in results["scores"] if r["acceleration"] == worst}
    ours = at[results["method"]]
    other = at.get("zero-filled", at[FULL])
    names = {"SSIM": "ssim", "PSNR": "psnr", "NMSE": "nmse"}
    unit = results["contrast"].upper()
    names[f"{unit} error, myocardium (ms)"] = "myocardium_reference"
    return {
        f"{name}, R = {worst}": (
            ours[key],
            f"{other['method']} {other[key]:.4g}",
        )
        for name, key in names.items()
        if np.isfinite(ours[key])
    }


def _readable(row: Mapping[str, Any], contrast: Contrast) -> dict[str, Any]:
    unit = f"{contrast.upper()} RMSE"
    names = {
        "acceleration": "R",
        "ssim": "SSIM",
        "psnr": "PSNR",
        "nmse": "NMSE",
        "myocardium_truth": f"{unit} myocardium, truth",
        "blood_truth": f"{unit} blood, truth",
        "myocardium_reference": f"{unit} myocardium, reference",
        "blood_reference": f"{unit} blood, reference",
    }
    return {names.get(key, key): value for key, value in row.items()}


def _add_series(page: Report, one: Shown) -> None:
    """Images, errors, maps and fits of one series at one acceleration."""
    name, frames = one.contrast.upper(), len(one.times)
    page.section(f"Acceleration {one.acceleration}: images")
    for frame in dict.fromkeys((0, frames // 2)):
        reference = one.reference[frame]
        top = float(reference.max())
        cards = [Card(_grey(reference / top), "reference")]
        cards += [
            Card(_grey(images[frame] / images[frame].max()), method)
            for method, images in one.images.items()
        ]
        page.gallery(cards, caption=f"frame {frame}, {one.times[frame]:.0f} ms")
        errors = [
            Card(_grey(ERROR_GAIN * np.abs(images[frame] - reference) / top), method)
            for method, images in one.images.items()
        ]
        page.gallery(errors, caption=f"differences from the reference, {ERROR_GAIN:g}x")
    page.section(f"Acceleration {one.acceleration}: {name} maps")
    low, high = MAP_WINDOW[one.contrast]
    # Where nothing gives a signal, the fit fits noise: show bodies only.
    body = one.reference.max(axis=0) > 0.05 * one.reference.max()
    maps = one.maps if one.truth is None else {"truth": one.truth, **one.maps}
    cards = [
        Card(_coloured((x - low) / (high - low), HEAT, body), method)
        for method, x in maps.items()
    ]
    page.gallery(cards, caption=f"{name}, {low:g} (dark) to {high:g} ms (bright)")
    reach = MAP_ERROR[one.contrast]
    cards = [
        Card(
            _coloured((x - maps["reference"]) / (2 * reach) + 0.5, SIGNED, body),
            method,
        )
        for method, x in maps.items()
        if method != "reference"
    ]
    page.gallery(
        cards,
        caption="minus the map fitted to the reference: "
        f"blue -{reach:g} ms, white 0, red {reach:g} ms",
    )
    page.section(f"Acceleration {one.acceleration}: fits of single voxels")
    for tissue, (y, x) in voxels(one).items():
        series = {"reference": one.reference, **one.images}
        rows = fit_rows(one, {k: v[:, y, x] for k, v in series.items()})
        title = f"{tissue}, row {y}, column {x}"
        page.curves(f"{title}: fitted {name} curves", rows, list(series), x="time (ms)")
        page.table(_sample_rows(one, series, y, x), caption=f"{title}: magnitudes")


def voxels(one: Shown) -> dict[str, tuple[int, int]]:
    """One voxel well inside each tissue; without labels, the brightest of all."""
    found = {}
    for tissue, number in (("LV blood", 1), ("myocardium", 2)):
        places = np.argwhere(one.label == number)
        if len(places):
            if number == 1:
                offsets = np.abs(places - places.mean(axis=0)).sum(axis=1)
                place = places[np.argmin(offsets)]
            else:  # a ring has no centre of its own: the middle of the list lies on it
                place = places[len(places) // 2]
            found[tissue] = (int(place[0]), int(place[1]))
    if not found:
        peak = np.argmax(one.reference.max(axis=0))
        y, x = np.unravel_index(peak, one.reference.shape[1:])
        found["brightest voxel"] = (int(y), int(x))
    return found


def fit_rows(
    one: Shown, signals: Mapping[str, Float[np.ndarray, " t"]], *, points: int = 80
) -> list[dict[str, float]]:
    """Fitted magnitudes over time, one row per instant, one column per signal."""
    times = np.linspace(0.0, 1.05 * float(one.times.max()), points)
    columns = {}
    for name, signal in signals.items():
        data = jnp.asarray(signal)[:, None]
        if one.contrast == "t1":
            fit = fit_t1(data, jnp.asarray(one.times))
            a, b, tau = (float(v[0]) for v in (fit.a, fit.b, fit.t1_star))
            columns[name] = np.abs(a - b * np.exp(-times / max(tau, 1e-6)))
        else:
            fit = fit_t2(data, jnp.asarray(one.times))
            m0, tau = float(fit.m0[0]), float(fit.t2[0])
            columns[name] = m0 * np.exp(-times / max(tau, 1e-6))
    return [
        {"time (ms)": float(t), **{k: float(v[i]) for k, v in columns.items()}}
        for i, t in enumerate(times)
    ]


def _sample_rows(
    one: Shown, series: Mapping[str, np.ndarray], y: int, x: int
) -> list[dict[str, Any]]:
    """What was fitted, and the relaxation time that came out."""
    name = one.contrast.upper()
    rows = []
    for method, images in series.items():
        row: dict[str, Any] = {"method": method}
        for time, value in zip(one.times, images[:, y, x], strict=True):
            row[f"{time:.0f} ms"] = float(value)
        rows.append(row | {f"{name} (ms)": float(one.maps[method][y, x])})
    if one.truth is not None:
        rows.append({"method": "truth", f"{name} (ms)": float(one.truth[y, x])})
    return rows


def _grey(values: Float[np.ndarray, "h w"]) -> np.ndarray:
    return enlarged(grey(values))


def _coloured(
    values: Float[np.ndarray, "h w"], colours: np.ndarray, inside: np.ndarray
) -> np.ndarray:
    return enlarged(coloured(values, colours, inside))
