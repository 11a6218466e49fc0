"""Small scans of any command that reconstructs, and how such a command is asked."""

import jax.numpy as jnp
import numpy as np

from experiments import cmrxrecon as experiment
from medjax.mri.comparison import run as compare
from medjax.mri.fourier import fft2c
from tests.mri.runs import H, W


def disc() -> np.ndarray:
    """Fully sampled k-space of a disc seen by three coils, ``c h w``."""
    y, x = np.meshgrid(np.linspace(-1, 1, H), np.linspace(-1, 1, W), indexing="ij")
    inside = (y**2 + x**2 < 0.6) * (1 + 0.5 * x)
    maps = [np.exp(-((y - a) ** 2) + 1j * a * x) for a in (-0.8, 0.0, 0.8)]
    coil_images = (np.stack(maps) * inside).astype(np.complex64)
    return np.asarray(fft2c(jnp.asarray(coil_images)))


def reconstruct(*arguments: str) -> dict:
    """What ``experiments.cmrxrecon`` finds, asked like that."""
    return compare(experiment.command(arguments))


def refusal(capsys, *arguments: str) -> str:
    """What a fault ends with."""
    assert experiment.main(arguments) == 1
    return capsys.readouterr().err.splitlines()[-1]
