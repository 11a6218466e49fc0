"""fastMRI's protocol: the volume is the unit."""

import jax.numpy as jnp
import numpy as np
import pytest

from medjax.mri import evaluation

skimage = pytest.importorskip("skimage.metrics", reason="oracle: scikit-image")


def test_fastmri_takes_the_volume_as_its_unit():
    rng = np.random.default_rng(0)
    reference = rng.gamma(2.0, size=(3, 20, 26)).astype(np.float32)
    prediction = reference + 0.2 * rng.normal(size=reference.shape).astype(np.float32)
    ours = evaluation.fastmri_metrics(jnp.asarray(prediction), jnp.asarray(reference))
    top = reference.max()
    ssim = np.mean(
        [
            skimage.structural_similarity(g, p, data_range=top)
            for p, g in zip(prediction, reference, strict=True)
        ]
    )
    np.testing.assert_allclose(ours["ssim"], ssim, rtol=1e-5)
    error = ((prediction - reference) ** 2).sum() / (reference**2).sum()
    np.testing.assert_allclose(ours["nmse"], error, rtol=1e-5)
    ratio = skimage.peak_signal_noise_ratio(reference, prediction, data_range=top)
    np.testing.assert_allclose(ours["psnr"], ratio, rtol=1e-5)
