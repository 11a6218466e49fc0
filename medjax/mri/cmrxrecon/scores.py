"""The scores of ``experiments.cmrxrecon``: of what, their means, and their table."""

from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from medjax.mri.acquisitions import Acquisition, root_sum_of_squares
from medjax.mri.cmrxrecon import aggregate_2023, official_scores, ranking_crop
from medjax.mri.evaluation import fastmri_metrics
from medjax.mri.fourier import centre_crop
from medjax.mri.kspace_axes import fully_sampled
from medjax.mri.map_evaluation import map_errors
from medjax.mri.reconstruction_scores import (
    IMAGE_SCORES,
    MAP_SCORES,
    fit_map,
    map_scores,
)
from medjax.mri.relaxometry import FRAMES_TO_FIT

Protocol = Literal["2023", "2024", "2025", "fastmri"]
AhaLevel = Literal["basal", "mid", "apical"]
Row = dict[str, Any]


def reference_of(acquisition: Acquisition) -> Float[np.ndarray, "t d y x"] | None:
    """What images are compared with: what came along, else full k-space's own image."""
    if acquisition.reference is not None:
        return acquisition.reference
    if acquisition.given is not None or not fully_sampled(acquisition.measured):
        return None
    return cropped(root_sum_of_squares(acquisition.kspace), acquisition.size)


def cropped(
    images: Float[np.ndarray, "t d h w"], size: tuple[int, int] | None
) -> Float[np.ndarray, "t d y x"]:
    """Images as large as the file asks for."""
    if size is None:
        return images
    return np.asarray(centre_crop(jnp.asarray(images), height=size[0], width=size[1]))


def fit_maps(
    images: Float[np.ndarray, "t d h w"] | None, acquisition: Acquisition
) -> Float[np.ndarray, "d h w"] | None:
    """T1 or T2 in ms, slice by slice; None where times are unknown or too few."""
    times, contrast = acquisition.times, acquisition.contrast
    if images is None or times is None or contrast is None:
        return None
    if times.shape[1] < FRAMES_TO_FIT[contrast]:
        return None
    maps = [
        fit_map(jnp.asarray(images[:, i]), jnp.asarray(times[i]), contrast=contrast)
        for i in range(images.shape[1])
    ]
    return np.stack([np.asarray(one) for one in maps])


def image_scores(
    images: Float[np.ndarray, "t d h w"],
    reference: Float[np.ndarray, "t d h w"],
    series: str,
    protocol: Protocol,
    *,
    ranking: bool,
) -> dict[str, float]:
    """SSIM, PSNR and NMSE of a file: means over frames and slices, or fastMRI's.

    Raises:
      ValueError: where the images are smaller than the window of SSIM.
    """
    pair = [jnp.asarray(images), jnp.asarray(reference)]
    if ranking:
        pair = [ranking_crop(x, name=series) for x in pair]
    if protocol == "fastmri":
        scores = [fastmri_metrics(p, g) for p, g in zip(*pair, strict=True)]
        return {k: float(np.mean([s[k] for s in scores])) for k in IMAGE_SCORES}
    found = official_scores(*pair, year=int(protocol))
    return {name: float(jnp.mean(found[name])) for name in IMAGE_SCORES}


def relaxation_scores(
    fitted: Float[np.ndarray, "d h w"] | None,
    reference: Float[np.ndarray, "d h w"] | None,
    acquisition: Acquisition,
    aha_level: AhaLevel | None,
) -> dict[str, float]:
    """RMSE in ms over myocardium and blood, mean over the slices that show them."""
    label = acquisition.label
    if fitted is None or label is None:
        return {}
    against = {"truth": acquisition.truth, "reference": reference}
    known = {name: maps for name, maps in against.items() if maps is not None}
    every: list[dict[str, float]] = []
    for i, one in enumerate(fitted):
        scores = map_scores(one, {k: v[i] for k, v in known.items()}, label[i])
        if aha_level is not None:
            for name, maps in known.items():
                errors = map_errors(
                    *(jnp.asarray(x) for x in (one, maps[i], label[i])),
                    level=aha_level,
                )
                scores |= {
                    f"{region}_{name}": float(value)
                    for region, value in errors.items()
                    if region.startswith("aha_")
                }
        every.append(scores)
    return {name: mean([scores[name] for scores in every]) for name in every[0]}


def mean(values: Sequence[float]) -> float:
    """The mean of what is known."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def summarise(rows: Sequence[Row]) -> list[Row]:
    """Means over the files of each series, sampling and method."""
    summary: list[Row] = []
    groups = dict.fromkeys((r["series"], r["sampling"], r["method"]) for r in rows)
    labels = ("name", "series", "sampling", "method", "protocol")
    for group in groups:
        of_group = [
            r for r in rows if (r["series"], r["sampling"], r["method"]) == group
        ]
        numbers = {
            k: mean([r[k] for r in of_group]) for k in of_group[0] if k not in labels
        }
        summary.append(
            dict(zip(("series", "sampling", "method"), group, strict=True))
            | {"files": len(of_group), "protocol": of_group[0]["protocol"]}
            | numbers
        )
    return summary


def leaderboard(rows: Sequence[Row], coils: str) -> dict[str, dict[str, float]]:
    """2023's overall score of every method that reconstructed all there is.

    One that was skipped for some series would be ranked by the easier rest.
    """
    tasks: dict[str, set[tuple[str, str]]] = {}
    for row in rows:
        task = row["series"], row["sampling"]
        tasks.setdefault(row["method"], set()).add(task)
    every = set().union(*tasks.values())
    overall = {}
    for name in (name for name, found in tasks.items() if found == every):
        scores = {
            (coils, row["series"], int(row["sampling"][1:])): {
                score: row[score] for score in IMAGE_SCORES
            }
            for row in summarise([r for r in rows if r["method"] == name])
            if row["sampling"][1:].isdigit() and "ssim" in row
        }
        if scores:
            overall[name] = aggregate_2023(scores)
    return overall


def table(summary: Sequence[Row]) -> str:
    """The summary as aligned text; a dash where nothing is known."""
    digits = {"ssim": 4, "psnr": 2, "nmse": 5} | dict.fromkeys(MAP_SCORES, 1)
    digits["seconds_per_slice"] = 3
    shown = [k for k in digits if any(np.isfinite(r.get(k, np.nan)) for r in summary)]
    lines = [["series", "sampling", "method", *(k.replace("_", " ") for k in shown)]]
    for row in summary:
        cells = [row["series"], row["sampling"], row["method"]]
        for name in shown:
            value = row.get(name, np.nan)
            cells.append(f"{value:.{digits[name]}f}" if np.isfinite(value) else "–")
        lines.append(cells)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
