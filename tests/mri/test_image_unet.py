"""fastMRI's image baseline: its input as published, and its weights by name."""

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from medjax.mri.fourier import fft2c
from medjax.mri.image_unet import ImageUNetConfig, image_unet_system
from medjax.mri.published import open_checkpoints
from medjax.nn import unet
from medjax.weights import to_torch
from medjax.weights.reconstruction import fastmri_unet

SMALL = ImageUNetConfig(chans=3, pools=2)


def test_published_weights_reconstruct_what_the_definition_says(tmp_path):
    rng = np.random.default_rng(0)
    image = np.abs(rng.normal(size=(16, 12))).astype(np.float32)
    image[3, 4] = 40.0  # beyond six deviations: cut
    net = unet.UNet(unet.fastmri(chans=3, pools=2, out_channels=1))
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 16, 12, 1)))
    weights = jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s.shape) * 0.3, s.dtype), shapes
    )
    tensors = to_torch(fastmri_unet(pools=2), weights)
    assert tensors["up_conv.1.0.layers.4.weight"].shape == (3, 3, 3, 3)
    assert tensors["up_conv.1.1.weight"].shape == (1, 3, 1, 1)
    save_file(tensors, tmp_path / "knee.safetensors")
    opened = open_checkpoints([tmp_path / "knee.safetensors"])["knee"]
    assert (
        opened.trained.system == SMALL and opened.describe()["system"] == "image_unet"
    )

    kspace = fft2c(jnp.asarray(image[None, None], jnp.complex64))
    mask = jnp.ones((1, 16, 1), bool)
    found = opened(kspace, mask, jnp.ones((1, 16, 12), jnp.complex64))
    mean, std = image.mean(), image.std(ddof=1)
    normed = np.clip((image - mean) / std, -6, 6)[None, :, :, None]
    expected = net.apply(weights, jnp.asarray(normed))[0, ..., 0] * std + mean
    np.testing.assert_allclose(found[0], np.abs(expected), rtol=1e-4, atol=1e-4)
    assert opened.misfit((3, 7, 64, 64)) is None  # frames and coils do not matter


def test_it_can_be_trained():
    system = image_unet_system(SMALL)
    rng = np.random.default_rng(0)
    kspace = rng.normal(size=(1, 2, 2, 12, 8)) + 1j * rng.normal(size=(1, 2, 2, 12, 8))
    batch = {
        "kspace": jnp.asarray(kspace, jnp.complex64),
        "mask": jnp.asarray(np.arange(12) % 2 == 0)[None, None, :, None],
    }
    variables = jax.jit(system.init)(jax.random.key(0), batch)
    step = jax.jit(jax.value_and_grad(system.loss, has_aux=True))
    (value, (metrics, _)), gradient = step(variables, batch, jax.random.key(1))
    assert np.isfinite(value) and set(metrics) == {"nmse"}
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
