"""What is done to coils before anything is reconstructed: whitening and compression."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex

from medjax.data import ismrmrd, mat73, npy
from medjax.data.boundary import DataError, finite
from medjax.mri.acquisition_config import Pattern
from medjax.mri.acquisitions import Acquisition
from medjax.mri.cmrxrecon.scores import reference_of
from medjax.mri.coils import (
    compress,
    compression_matrix,
    geometric_compression,
    noise_covariance,
    whiten,
)
from medjax.mri.sense import normalise_maps

Compression = Literal["svd", "geometric"]


@dataclasses.dataclass(frozen=True)
class CoilConfig:
    """What is done to the coils before anything else."""

    noise: Path | None = None
    """Noise to make the coils independent by: a covariance or the samples of a noise
    scan, coils on the first axis (.npy, .mat), or an ISMRMRD file whose noise readouts
    are taken. None: coils are taken as they are."""
    noise_key: str | None = None
    """The variable of a MATLAB file, or the group of an ISMRMRD file."""
    compress: int | None = None
    """Combine the coils to so many virtual ones; None: keep all."""
    compression: Compression = "svd"
    """svd: one combination for the image (Huang 2008). geometric: one for every readout
    position, which keeps more with as few (Zhang 2013); for masks of whole lines."""

    def check(self, pattern: Pattern) -> None:
        """Refuses a pattern of points where whole lines are combined.

        Raises:
            ValueError: naming the flag.
        """
        points = pattern in ("kt_radial", "variable_density")
        if self.compress is not None and self.compression == "geometric" and points:
            raise ValueError(
                "coils.compression: geometric needs masks of whole lines, mask.pattern "
                f"is {pattern}"
            )


def open_noise(config: CoilConfig) -> Complex[np.ndarray, "c c"] | None:
    """The noise covariance that the flags name, its mean variance one.

    Coils keep their unit that way: images before and after can be compared.

    Raises:
        FileNotFoundError: where there is no such file.
        DataError: where it is damaged, or holds neither a covariance nor samples.
    """
    path = config.noise
    if path is None:
        return None
    if path.suffix in (".h5", ".hdf5", ".mrd"):
        samples = ismrmrd.read_noise(path, dataset=config.noise_key or "dataset")
        covariance = np.asarray(noise_covariance(jnp.asarray(samples)))
    else:
        covariance = _covariance(path, config.noise_key)
    variance = np.real(np.diag(covariance))
    smallest = np.linalg.eigvalsh(covariance)[0]
    if not smallest > 1e-6 * variance.max():
        raise DataError(
            f"{path}: the noise covariance of {len(covariance)} coils has the smallest "
            f"eigenvalue {smallest:.3g}, expected a positive one (too few samples?)"
        )
    return (covariance / variance.mean()).astype(np.complex64)


def _covariance(path: Path, key: str | None) -> Complex[np.ndarray, "c c"]:
    """A square Hermitian matrix as it is, anything else as samples of the coils."""
    if path.suffix not in (".npy", ".mat"):
        raise DataError(f"{path}: noise is read from .npy, .mat and ISMRMRD files")
    array = mat73.read(path, key) if path.suffix == ".mat" else npy.read(path)
    if array.dtype.kind not in "fc" or array.ndim < 2:
        raise DataError(
            f"{path}: noise is {array.dtype} of shape {array.shape}, expected a "
            "covariance (c, c) or samples (c, n)"
        )
    finite(path, array, "noise")
    array = array.astype(np.complex64)
    if array.ndim == 2 and array.shape[0] == array.shape[1]:
        if np.allclose(array, array.conj().T, rtol=1e-3, atol=1e-6 * abs(array).max()):
            return array
    return np.asarray(noise_covariance(jnp.asarray(array.reshape(len(array), -1))))


def prepare_coils(
    acquisition: Acquisition,
    config: CoilConfig,
    covariance: Complex[np.ndarray, "c c"] | None,
) -> Acquisition:
    """The same series with coils whitened and compressed, maps with them.

    Args:
        acquisition: the series.
        config: what to do.
        covariance: of :func:`open_noise`.

    Returns:
        The series. What its images are compared with is of all (whitened) coils.

    Raises:
        ValueError: where covariance or number of virtual coils do not fit the coils.
    """
    coils = acquisition.kspace.shape[2]
    if covariance is not None:
        if len(covariance) != coils:
            raise ValueError(
                f"coils.noise: of {len(covariance)} coils, the series "
                f"{acquisition.name} has {coils}"
            )
        noise = jnp.asarray(covariance)
        acquisition = dataclasses.replace(
            acquisition,
            kspace=_each(lambda k: whiten(k, noise), acquisition.kspace),
            maps=_unit(lambda m: whiten(m, noise), acquisition.maps),
        )
    virtual = config.compress
    if virtual is None:
        return acquisition
    if not 1 <= virtual <= coils:
        raise ValueError(
            f"coils.compress is {virtual}, expected 1 to {coils}, the coils of "
            f"{acquisition.name}"
        )
    acquisition = dataclasses.replace(acquisition, reference=reference_of(acquisition))
    every = jnp.asarray(acquisition.kspace)  # what was not measured adds nothing
    if config.compression == "geometric":
        if acquisition.pattern is not None:
            config.check(acquisition.pattern)
        given = [] if acquisition.mask is None else [acquisition.mask[1]]
        if any(mask.shape[-1] > 1 for mask in (acquisition.measured, *given)):
            raise ValueError(
                "coils.compression: geometric needs whole lines, of "
                f"{acquisition.name} points are sampled"
            )
        matrix = geometric_compression(every, virtual=virtual)
    else:
        matrix = compression_matrix(every, virtual=virtual)
    return dataclasses.replace(
        acquisition,
        kspace=_each(lambda k: compress(k, matrix), acquisition.kspace),
        maps=_unit(lambda m: compress(m, matrix, image=True), acquisition.maps),
    )


def _each(
    change: Callable[[Array], Array], kspace: Complex[np.ndarray, "t d c h w"]
) -> Complex[np.ndarray, "t d v h w"]:
    """Frame by frame: all of a series at once may be much."""
    return np.stack([np.asarray(change(jnp.asarray(frame))) for frame in kspace])


def _unit(
    change: Callable[[Array], Array], maps: Complex[np.ndarray, "d m c h w"] | None
) -> Complex[np.ndarray, "d m v h w"] | None:
    """Maps changed with their coils, and of unit norm again."""
    if maps is None:
        return None
    return np.asarray(normalise_maps(change(jnp.asarray(maps))))
