"""The page of ``experiments.cmrxrecon``: pictures, errors, maps and fitted curves."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float, Int

from medjax.mri.reconstruction_scores import MAP_RANGE
from medjax.mri.relaxometry import FRAMES_TO_FIT, fit_t1, fit_t2
from medjax.mri.scans import Contrast
from medjax.report import Card, Report

ERROR_GAIN = 5
"""Differences are shown so many times brighter than the images."""
CURVE_POINTS = 60


@dataclasses.dataclass
class Kept:
    """One series under one mask as every method sees it.

    Attributes:
        name: of subject or file.
        series: ``T1map`` and so on.
        sampling: name of the mask.
        mask: its description.
        contrast: what the times are of.
        times: ms, per slice.
        label: 1 LV, 2 myocardium, 3 RV.
        reference: magnitudes to come close to.
        reference_name: what they are.
        truth: simulated map in ms.
        reference_maps: the map fitted to the reference.
        transposed: whether pictures are to be turned.
        images: magnitudes by method.
        maps: fitted maps by method.
        coil_maps: sensitivity maps of every slice, one or more sets; None where no
            method looked at any.
        rows: scores, one row per method.
    """

    name: str
    series: str
    sampling: str
    mask: str
    contrast: Contrast | None
    times: Float[np.ndarray, "d t"] | None
    label: Int[np.ndarray, "d h w"] | None
    reference: Float[np.ndarray, "t d h w"] | None
    reference_name: str
    truth: Float[np.ndarray, "d h w"] | None
    reference_maps: Float[np.ndarray, "d h w"] | None
    transposed: bool
    images: dict[str, Float[np.ndarray, "t d h w"]] = dataclasses.field(
        default_factory=dict
    )
    maps: dict[str, Float[np.ndarray, "d h w"] | None] = dataclasses.field(
        default_factory=dict
    )
    coil_maps: Complex[np.ndarray, "d m c h w"] | None = None
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def is_like(self, other: "Kept") -> bool:
        """Whether the other shows the same kind of series under the same mask."""
        return (self.series, self.sampling) == (other.series, other.sampling)


def report(results: Mapping[str, Any], kept: list[Kept]) -> Report:
    """The page.

    Args:
      results: the evaluation.
      kept: one example per kind of series and mask.

    Returns:
      The page, not yet saved.
    """
    protocols = sorted({row["protocol"] for row in results["summary"]})
    page = Report(
        "Reconstruction of k-space",
        f"scores by the rule of {', '.join(protocols)}; reference: "
        f"{', '.join(results['reference'])}",
    )
    page.section("Sampling").text("\n\n".join(results["masks"]))
    page.section("Scores").table(results["summary"])
    if results["leaderboard"]:
        page.table(
            [{"method": k, **v} for k, v in results["leaderboard"].items()],
            caption="Overall, as the leaderboard of 2023 averages",
        )
    if results["learned"]:
        page.table(
            [{"run": k, **v} for k, v in results["learned"].items()],
            caption="Trained systems; shown every series at the magnitude of what they "
            "were trained on",
        )
    for one in kept:
        page.section(f"{one.series} {one.sampling}: {one.name}").text(one.mask)
        _images(page, one)
        if one.contrast is not None:
            _maps(page, one, one.contrast)
            _curves(page, one, one.contrast)
    return page


def _images(page: Report, one: Kept) -> None:
    """First frame, middle slice: every method, and what it gets wrong."""
    middle = next(iter(one.images.values())).shape[1] // 2
    scores = {row["method"]: row for row in one.rows}
    pictures = {name: x[0, middle] for name, x in one.images.items()}
    reference = None if one.reference is None else one.reference[0, middle]
    cards, errors = [], []
    if reference is not None:
        cards.append(Card(_turn(_unit(reference), one), one.reference_name))
    for name, image in pictures.items():
        lines = [
            (f"{key.upper()} {scores[name][key]:.4g}", None)
            for key in ("ssim", "psnr")
            if key in scores[name]
        ]
        cards.append(Card(_turn(_unit(image), one), name, lines))
        if reference is not None:
            error = np.abs(_unit(image) - _unit(reference)) * ERROR_GAIN
            errors.append(Card(_turn(np.clip(error, 0, 1), one), name))
    page.gallery(cards, caption="First frame, each image divided by its own maximum")
    if errors:
        page.gallery(errors, caption=f"Errors, {ERROR_GAIN} times brighter")


def _maps(page: Report, one: Kept, contrast: Contrast) -> None:
    known = {"simulated": one.truth, one.reference_name: one.reference_maps, **one.maps}
    maps = {k: v[v.shape[0] // 2] for k, v in known.items() if v is not None}
    if not maps:
        return
    # Times beyond what most of the picture has would leave its grey values dark.
    first = next(iter(maps.values()))
    most = min(float(np.percentile(first, 99)), MAP_RANGE[contrast][1]) or 1.0
    cards = [
        Card(_turn(np.clip(values / most, 0, 1), one), name)
        for name, values in maps.items()
    ]
    page.gallery(cards, caption=f"{contrast.upper()}, black 0 to white {most:.0f} ms")


def _curves(page: Report, one: Kept, contrast: Contrast) -> None:
    """Signal and fitted model of one pixel: of the myocardium, or the brightest.

    Nothing where times are unknown, or too few to fit.
    """
    every = one.images | (
        {} if one.reference is None else {one.reference_name: one.reference}
    )
    first = next(iter(every.values()))
    if one.times is None or not np.isfinite(one.times).all():
        return
    if one.times.shape[1] < FRAMES_TO_FIT[contrast]:
        return
    middle = first.shape[1] // 2
    mean = first[:, middle].mean(axis=0)
    if one.label is not None and (one.label[middle] == 2).any():
        mean = np.where(one.label[middle] == 2, mean, -1.0)
    y, x = np.unravel_index(np.argmax(mean), mean.shape)
    times = one.times[middle]
    dense = np.linspace(0, times.max(), CURVE_POINTS)
    rows = [
        {"time ms": float(t), **{name: float(v[i]) for name, v in models.items()}}
        for models in [
            {
                name: _model(images[:, middle, y, x], times, dense, contrast)
                for name, images in every.items()
            }
        ]
        for i, t in enumerate(dense)
    ]
    page.curves(f"Fitted signal at row {y}, column {x}", rows, x="time ms")
    page.table(
        [
            {"time ms": float(t)}
            | {name: float(v[i, middle, y, x]) for name, v in every.items()}
            for i, t in enumerate(times)
        ],
        caption="Measured signal of the same pixel",
    )


def _model(
    signal: Float[np.ndarray, " t"],
    times: Float[np.ndarray, " t"],
    dense: Float[np.ndarray, " n"],
    contrast: Contrast,
) -> Float[np.ndarray, " n"]:
    """Magnitude of the fitted model at other times."""
    pixel = jnp.asarray(signal)[:, None], jnp.asarray(times)
    if contrast == "t1":
        fit = fit_t1(*pixel)
        return np.abs(fit.a[0] - fit.b[0] * np.exp(-dense / fit.t1_star[0]))
    fit = fit_t2(*pixel)
    return np.asarray(fit.m0[0] * np.exp(-dense / fit.t2[0]))


def _unit(image: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    return image / (image.max() or 1.0)


def _turn(picture: np.ndarray, one: Kept) -> np.ndarray:
    return picture.T if one.transposed else picture
