"""T1 or T2 maps of an image series: read, fitted, judged, written, shown.

What ``experiments.map`` does.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from medjax.data import nifti
from medjax.mri.image_series import ImageSeries, read_images
from medjax.mri.relaxometry import (
    REASONS,
    T1Map,
    T1Mode,
    T2Map,
    T2Method,
    estimate_sigma,
    fit_t1,
    fit_t2,
    implausible,
)
from medjax.mri.relaxometry.plausibility import masked
from medjax.mri.scans import Contrast
from medjax.mri.writing import listed
from medjax.report.run import save_evaluation

Model = Literal[
    "molli",
    "inversion_recovery",
    "signed",
    "official_t1",
    "two_parameter",
    "three_parameter",
    "log_linear",
    "weighted_log_linear",
    "official_t2",
]
T1_MODELS: dict[str, tuple[T1Mode, bool]] = {
    "molli": ("correct", True),
    "inversion_recovery": ("correct", False),
    "signed": ("signed", True),
    "official_t1": ("official", True),
}
"""Mode of the fit, and whether the readouts are corrected for."""
T2_MODELS: dict[str, T2Method] = {
    "two_parameter": "two_parameter",
    "three_parameter": "three_parameter",
    "log_linear": "log_linear",
    "weighted_log_linear": "weighted_log_linear",
    "official_t2": "official",
}
MODELS: dict[Contrast, tuple[str, ...]] = {
    "t1": tuple(T1_MODELS),
    "t2": tuple(T2_MODELS),
}
FLOORED = ("molli", "inversion_recovery", "two_parameter", "three_parameter")
"""Models with a Rician likelihood."""


@dataclasses.dataclass(frozen=True)
class MapConfig:
    """What is fitted to a series, and what is made of the noise."""

    contrast: Contrast | None = None
    """t1 or t2; None: what the files say (DICOM by the time that varies)."""
    times: tuple[float, ...] = ()
    """Inversion or echo times in ms, one per frame; in place of the files' own."""
    model: Model | None = None
    """T1: molli (Look-Locker corrected; default), inversion_recovery (single shot),
    signed (values keep their sign), official_t1 (CMRxRecon's script). T2: two_parameter
    (default), three_parameter (with a constant), log_linear, weighted_log_linear,
    official_t2."""
    noise_floor: Literal["none", "rician"] = "none"
    """rician: fit by the likelihood of magnitudes, so that late echoes and nulls do not
    read too high; for images of one coil or combined by maps."""
    sigma: float | None = None
    """Noise of the real part, in units of the images: pixels that do not rise above it
    are masked. None: measured in the corners, if they hold plain noise."""


@dataclasses.dataclass(frozen=True)
class Mapped:
    """The maps of a series.

    Attributes:
        series: what was fitted.
        model: by its name.
        sigma: noise, if it was looked at.
        value: T1 or T2 in ms, zero where no plausible fit is.
        sd: its standard error; zero where it is not known.
        fault: 0, or why the fit is implausible.
        residual: of the fit, in units of the images.
        fits: all that was fitted.
    """

    series: ImageSeries
    model: str
    sigma: float | None
    value: Float[np.ndarray, "d h w"]
    sd: Float[np.ndarray, "d h w"]
    fault: UInt8[np.ndarray, "d h w"]
    residual: Float[np.ndarray, "d h w"]
    fits: T1Map | T2Map

    def counts(self) -> dict[str, int]:
        """Pixels of a plausible fit, and those masked, by reason."""
        found = np.bincount(self.fault.ravel(), minlength=max(REASONS) + 1)
        return {
            "plausible": int(found[0]),
            **{why: int(found[code]) for code, why in REASONS.items() if found[code]},
        }


def fit_series(series: ImageSeries, config: MapConfig) -> Mapped:
    """Fits every pixel and masks what is implausible.

    Raises:
        ValueError: For a model that is not of the contrast or has no likelihood of
            magnitudes, and where the noise cannot be measured.
    """
    known = MODELS[series.contrast]
    model = config.model or known[0]
    if model not in known:
        raise ValueError(
            f"model: {model} is not of {series.contrast.upper()}, expected one of "
            f"{', '.join(known)}"
        )
    sigma = config.sigma
    if config.noise_floor == "rician" and model not in FLOORED:
        raise ValueError(
            f"noise_floor: rician is for {', '.join(FLOORED)}, the model is {model}"
        )
    if sigma is None and model != "signed":
        try:
            sigma = estimate_sigma(series.signal)
        except ValueError:
            if config.noise_floor == "rician":
                raise
    floor = sigma if config.noise_floor == "rician" else None
    signal, times = jnp.asarray(series.signal), jnp.asarray(series.times)
    if series.contrast == "t1":
        mode, look_locker = T1_MODELS[model]
        fits = fit_t1(signal, times, mode=mode, look_locker=look_locker, sigma=floor)
        value, sd = fits.t1, fits.t1_sd
    else:
        fits = fit_t2(signal, times, method=T2_MODELS[model], sigma=floor)
        value, sd = fits.t2, fits.t2_sd
    fault = implausible(fits, series.signal, sigma=sigma)
    return Mapped(
        series=series,
        model=model,
        sigma=sigma,
        value=masked(np.asarray(value), fault),
        sd=masked(np.asarray(sd), fault),
        fault=fault,
        residual=np.asarray(fits.residual, np.float32),
        fits=fits,
    )


def write_maps(folder: Path, mapped: Mapped) -> list[Path]:
    """Writes map, standard error, faults and residual as NIfTI with geometry."""
    folder.mkdir(parents=True, exist_ok=True)
    name, affine = mapped.series.contrast, mapped.series.affine
    volumes = {
        name: mapped.value,
        f"{name}_sd": mapped.sd,
        f"{name}_fault": mapped.fault,
        f"{name}_residual": mapped.residual,
    }
    paths = []
    for stem, volume in volumes.items():
        path = folder / f"{stem}.nii.gz"
        turned = np.ascontiguousarray(volume.transpose())
        nifti.write(path, turned, affine=np.eye(4) if affine is None else affine)
        paths.append(path)
    return paths


def map_images(paths: list[Path], config: MapConfig, folder: Path) -> dict[str, Any]:
    """Reads, fits, writes and shows a series.

    Args:
        paths: of the series, as :func:`medjax.mri.image_series.read_images` takes them.
        config: what to fit.
        folder: for maps, page and ``evaluation.json``.

    Returns:
        What was found, as in ``evaluation.json``.
    """
    from medjax.mri.mapping_report import report

    series = read_images(paths, contrast=config.contrast, times=config.times)
    print(series.about, flush=True)
    mapped = fit_series(series, config)
    name = series.contrast.upper()
    counts = mapped.counts()
    inside = mapped.value[mapped.fault == 0]
    low, middle, high = (
        np.percentile(inside, (25, 50, 75)).tolist() if inside.size else [0.0] * 3
    )
    results = {
        "contrast": series.contrast,
        "model": mapped.model,
        "noise_floor": config.noise_floor,
        "sigma": mapped.sigma,
        "times": series.times.tolist(),
        "pixels": counts,
        "median": middle,
        "quartiles": [low, high],
    }
    written = write_maps(folder, mapped)
    save_evaluation(folder, results)
    page = report(mapped, config).save(folder / "report.html")
    every = mapped.fault.size
    print(f"{name} by {mapped.model} at {', '.join(f'{t:g}' for t in series.times)} ms")
    if mapped.sigma is not None:
        print(f"noise: sigma {mapped.sigma:.4g}, floor: {config.noise_floor}")
    else:
        print("noise: not known (--sigma masks the pixels that are no more than noise)")
    for why, count in counts.items():
        label = "plausible" if why == "plausible" else f"masked, {why}"
        print(f"  {count / every:7.2%} {label} ({count} pixels)")
    if inside.size:
        print(f"{name} of the rest: median {middle:.4g} ms ({low:.4g} to {high:.4g})")
    print(listed(written, geometry=series.affine is not None, kind="nifti"))
    print(f"report: {page.resolve()}")
    return results
