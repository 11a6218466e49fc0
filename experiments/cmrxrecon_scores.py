"""The scores of ``experiments.cmrxrecon``, their means, and the table of them."""

from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.acquisitions import Acquisition
from experiments.reconstruction_scores import IMAGE_SCORES, MAP_SCORES, map_scores
from medjax.mri.cmrxrecon import aggregate_2023, official_scores, ranking_crop
from medjax.mri.evaluation import fastmri_metrics
from medjax.mri.map_evaluation import map_errors

Protocol = Literal["2023", "2024", "2025", "fastmri"]
AhaLevel = Literal["basal", "mid", "apical"]
Row = dict[str, Any]


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
    """2023's overall score of every method."""
    overall = {}
    for name in dict.fromkeys(row["method"] for row in rows):
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
