"""A small network, a batch, and every system that gives several answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.nn.nnunet import NNUNetConfig
from medjax.segmentation.augment import NONE
from medjax.segmentation.labels import classes
from tests.compiling import quickly

LABELS = classes({"object": 1})


def network(*widths):
    """A U-Net with one convolution at every level."""
    deep = len(widths)
    return NNUNetConfig(
        out_channels=2,
        widths=widths,
        kernels=((3, 3),) * deep,
        strides=((1, 1), *((2, 2),) * (deep - 1)),
        blocks=(1,) * deep,
        decoder_blocks=(1,) * (deep - 1),
    )


NETWORK, DEEPER = network(3, 4), network(3, 4, 5)
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


def drawn_variables(system):
    """Of a system, its parameters drawn: initialising would be a program more."""
    shapes = jax.eval_shape(system.init, jax.random.key(0), BATCH)
    rng = np.random.default_rng(1)

    def value(path, leaf):
        if path[0].key == "params":
            return jnp.asarray(0.6 * rng.normal(size=leaf.shape), leaf.dtype)
        return jnp.full(leaf.shape, path[0].key == "drawn", leaf.dtype)

    return jax.tree_util.tree_map_with_path(value, shapes)


@pytest.fixture(scope="module", autouse=True)
def quick_to_compile():
    """A few calls are over before an optimised program would be compiled."""
    with quickly():
        yield
