"""Motion by blocks of k-space lines: what rest gives, and whose lines are where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.mri.block_motion import BlockMotionConfig, block_motion, compose, posed

IMAGE = jnp.asarray(np.random.default_rng(0).random((2, 12, 10)), jnp.float32)


def test_poses_that_do_not_move_give_the_image_and_others_do_not():
    keys = jax.random.split(jax.random.key(0), 2)
    still = BlockMotionConfig(degrees=0.0, shift=0.0)
    out = block_motion(IMAGE, (2.0, 2.0), still, key=keys[0])
    np.testing.assert_allclose(out, IMAGE, atol=1e-5)
    moving = BlockMotionConfig()
    pair = [block_motion(IMAGE, (2.0, 2.0), moving, key=key) for key in keys]
    assert np.abs(pair[0] - IMAGE).max() > 0.05 and np.abs(pair[1] - pair[0]).max() > 0
    with pytest.raises(ValueError, match="poses=0"):
        BlockMotionConfig(poses=0)


def test_a_quarter_turn_is_one_of_millimetres():
    """Rows 2 mm apart, columns 1 mm: a ramp down the rows becomes one of columns."""
    rows, columns = 2.0 * (np.arange(9) - 4), np.arange(17) - 8.0
    ramp = jnp.asarray(np.broadcast_to(rows[:, None], (1, 9, 17)), jnp.float32)
    out = posed(ramp, jnp.float32(np.pi / 2), jnp.zeros(2), (2.0, 1.0))
    expected = np.broadcast_to(-columns, (1, 9, 17))
    np.testing.assert_allclose(out, expected, atol=1e-4)


@pytest.mark.parametrize("axis", [0.0, 1.0])
def test_every_block_is_of_its_pose(axis):
    """Of images whose k-space is one line each, the lines of the block are left."""
    shape, along = (1, 12, 10), int(axis) + 1
    n = shape[along]

    def wave(line):
        at = np.arange(n) - n // 2
        ramp = np.exp(2j * np.pi * (line - n // 2) * at / n)
        return np.broadcast_to(ramp if axis else ramp[:, None], shape)

    # The magnitude of a wave is flat: it is there in full, or not at all.
    lines = (1, 4, 8)
    whole = sum(wave(line) for line in lines).real.astype(np.float32)
    images = jnp.stack([jnp.asarray(whole), jnp.zeros(shape), jnp.asarray(whole)])
    first = jnp.asarray([0.0, 3.0 / n, 7.0 / n])
    out = np.asarray(compose(images, first, jnp.asarray(axis)))

    def centred(x, transform):
        return np.fft.fftshift(
            transform(np.fft.ifftshift(x, axes=along), axis=along), along
        )

    spectrum = centred(whole, np.fft.fft)
    kept = np.arange(n)
    kept = ((kept < 3) | (kept >= 7)).astype(float)
    kept = kept if axis else kept[:, None]
    np.testing.assert_allclose(
        out, np.abs(centred(spectrum * kept, np.fft.ifft)), atol=1e-4
    )
