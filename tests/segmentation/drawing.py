"""A small network, a batch, and every system that gives several answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.nn.nnunet import NNUNetConfig
from medjax.segmentation.augment import NONE
from medjax.segmentation.labels import classes

LABELS = classes({"object": 1})
NETWORK = NNUNetConfig(
    out_channels=2,
    widths=(3, 4, 5),
    kernels=((3, 3),) * 3,
    strides=((1, 1), (2, 2), (2, 2)),
    blocks=(1, 1, 1),
    decoder_blocks=(1, 1),
)
RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(2, 8, 8, 1)), jnp.float32)
BATCH = {
    "image": IMAGES,
    "label": jnp.asarray(RNG.integers(0, 2, (2, 8, 8)), jnp.int32),
}


def small(kind, **options):
    """Settings of a system of this kind, without augmentation."""
    given = {
        "network": NETWORK,
        "patch": (8, 8),
        "channels": 1,
        "labels": LABELS,
        "augment": NONE,
        "samples": 3,
        "at_once": 2,
        "steps": 10,
    }
    return kind(**(given | options))


@pytest.fixture(scope="module", autouse=True)
def quick_to_compile():
    """A few calls are over before an optimised program would be compiled."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
