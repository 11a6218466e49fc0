"""A trained run opened with medjax.load reconstructs files and arrays, by slices."""

import jax.numpy as jnp
import numpy as np
import pytest

import medjax
from medjax.data.boundary import DataError
from medjax.mri import masks, sense
from medjax.mri.methods import ClassicalConfig, estimate_maps
from tests.mri.runs import (
    COILS,
    FRAMES,
    SMALL_LATENT,
    H,
    W,
    write_run,
)

SLICES = 3


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Weights are random: what is tested is their use."""
    folder = tmp_path_factory.mktemp("runs") / "latent"
    return medjax.load(write_run(folder, SMALL_LATENT))


@pytest.fixture(scope="module")
def kspace() -> np.ndarray:
    """Noise that falls off from the centre, ``t d c h w``; no two slices alike."""
    rng = np.random.default_rng(0)
    y, x = np.meshgrid(np.arange(H) - H // 2, np.arange(W) - W // 2, indexing="ij")
    noise = rng.normal(size=(2, FRAMES, SLICES, COILS, H, W))
    return ((noise[0] + 1j * noise[1]) * np.exp(-np.hypot(y, x) / 3)).astype("c8")


def test_a_file_is_reconstructed_slice_by_slice(learned, kspace, tmp_path):
    lines = masks.cmrxrecon(H, acceleration=2, acs=8)
    mask = np.asarray(lines)[None]
    np.save(tmp_path / "scan.npy", kspace * np.asarray(mask))
    images = learned.reconstruct(tmp_path / "scan.npy")
    assert images.shape == (FRAMES, SLICES, H, W) and images.dtype == np.float32
    one = sense.sample(jnp.asarray(kspace[:, 1]), jnp.asarray(mask))
    maps = estimate_maps(one, jnp.asarray(mask), ClassicalConfig())
    alone = learned(one, jnp.asarray(mask), maps)
    np.testing.assert_allclose(images[:, 1], alone, rtol=1e-3, atol=1e-4 * alone.max())
    # Full k-space and a mask are the same scan; so are batches of another size.
    again = learned.reconstruct(kspace, mask=mask, batch_size=1)
    np.testing.assert_allclose(again, images, rtol=1e-3, atol=1e-4 * images.max())


def test_what_does_not_fit_is_said(learned, kspace, tmp_path):
    def said(error, scan, **more):
        with pytest.raises(error) as found:
            learned.reconstruct(scan, **more)
        return str(found.value)

    assert "frames: needs 3, the series has 1" in said(ValueError, kspace[:1])
    assert "gone.npy: no such file" in said(FileNotFoundError, tmp_path / "gone.npy")
    short = np.ones((1, H - 1, 1), bool)
    assert "mask has shape (1, 19, 1)" in said(ValueError, kspace, mask=short)
    maps = np.ones((2, COILS, H, W), np.complex64)
    assert "maps has shape (2, 3, 20, 16)" in said(ValueError, kspace, maps=maps)
    assert "expected complex k-space" in said(DataError, kspace.real)
