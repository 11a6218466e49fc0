"""What all learned reconstructions share: one magnitude for the network to see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.mri import series
from medjax.mri.fourier import fft2c

SEEN = 3.0


def batch_of(scales=(1.0, 1.0)):
    """Two series of two frames and coils whose largest pixels differ by ``scales``."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 2, 2, 8, 6)) + 1j * rng.normal(size=(2, 2, 2, 8, 6))
    images *= np.reshape(scales, (2, 1, 1, 1, 1))
    mask = np.zeros((2, 1, 8, 1), bool)
    mask[:, :, ::2] = True
    return {
        "kspace": fft2c(jnp.asarray(images, jnp.complex64)),
        "mask": jnp.asarray(mask),
    }


@pytest.fixture
def system():
    """Gives back the first coil's k-space plus one; its loss is its input's size."""
    return series.ReconstructionSystem(
        init=lambda key, batch: {"size": series.magnitude(batch)},
        loss=lambda variables, batch, key: (
            jnp.sum(series.magnitude(batch)),
            ({}, {}),
        ),
        reconstruct=lambda variables, batch: batch["kspace"][:, :, 0] + 1,
    )


def test_the_magnitude_is_of_what_was_measured(system):
    batch = batch_of((1.0, 10.0))
    one, other = series.magnitude(batch)
    assert other > 4 * one > 0
    unseen = jnp.where(batch["mask"][:, :, None], batch["kspace"], 1e9)
    np.testing.assert_array_equal(
        series.magnitude({**batch, "kspace": unseen}), [one, other]
    )


def test_a_system_sees_every_series_at_one_magnitude(system):
    levelled = series.at_magnitude(system, SEEN)
    key = jax.random.key(0)
    for scales in ((1.0, 1.0), (1e-4, 1e5)):
        batch = batch_of(scales)
        np.testing.assert_allclose(levelled.init(key, batch)["size"], SEEN, rtol=1e-5)
        assert levelled.loss({}, batch, key)[0] == pytest.approx(2 * SEEN, rel=1e-5)


def test_reconstructions_come_back_in_the_unit_of_the_data(system):
    levelled = series.at_magnitude(system, SEEN)
    batch, scales = batch_of(), np.array([1e-4, 1e5], np.float32)[:, None, None, None]
    image = np.asarray(levelled.reconstruct({}, batch))
    np.testing.assert_allclose(
        levelled.reconstruct({}, batch_of(scales.ravel())), image * scales, rtol=1e-4
    )
    added = image - np.asarray(batch["kspace"][:, :, 0])
    one = np.asarray(series.magnitude(batch))[:, None, None, None] / SEEN
    np.testing.assert_allclose(added, np.broadcast_to(one, added.shape), rtol=1e-3)


def test_a_series_of_zeros_stays_one(system):
    batch = batch_of((0.0, 1.0))
    image = series.at_magnitude(system, SEEN).reconstruct({}, batch)
    np.testing.assert_array_equal(image[0], np.ones((2, 8, 6), np.complex64))


def test_wrong_use_is_refused(system):
    with pytest.raises(ValueError, match="value is 0.0, expected more than 0"):
        series.at_magnitude(system, 0.0)
    with pytest.raises(ValueError, match="kspace has shape .*expected b t c h w"):
        series.at_magnitude(system, 1.0).reconstruct(
            {}, {**batch_of(), "kspace": jnp.zeros((2, 8, 6), jnp.complex64)}
        )
