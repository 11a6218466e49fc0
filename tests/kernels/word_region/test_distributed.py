"""GLoRIA's local loss over eight devices is that of one device with the batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from medjax_kernels.word_region import (
    global_cross_entropy,
    global_similarity,
    word_region_similarity,
)

AXES = ("data", "fsdp")


def batch():
    rng = np.random.default_rng(0)
    words, regions = rng.normal(size=(16, 4, 8)), rng.normal(size=(16, 6, 8))
    lengths = rng.integers(1, 5, 16)
    arrays = jnp.float32(words), jnp.float32(regions), jnp.asarray(lengths, jnp.int32)
    return arrays


def one_device(words, regions, lengths):
    """The sum of both cross-entropies, with different weights."""
    s = 10 * word_region_similarity(words, regions, lengths=lengths)
    own = jnp.arange(len(s))
    rows = -jax.nn.log_softmax(s, axis=1)[own, own]
    columns = -jax.nn.log_softmax(s, axis=0)[own, own]
    return jnp.mean(rows) + 0.3 * jnp.mean(columns)


def eight_devices(words, regions, lengths, **options):
    s = global_similarity(words, regions, lengths=lengths, axis_name=AXES, **options)
    rows, columns = global_cross_entropy(10 * s, axis_name=AXES)
    return rows + 0.3 * columns


TILED = {"implementation": "xla_chunked", "tile": (1, 3)}


@pytest.mark.parametrize(
    ("options", "check_vma"),
    [({"implementation": "xla"}, True), (TILED, True), (TILED, False)],
    ids=["xla", "xla_chunked", "unchecked"],
)
def test_equals_one_device(options, check_vma):
    problem = batch()
    expected = jax.jit(jax.value_and_grad(one_device, (0, 1)))(*problem)
    mesh = jax.make_mesh((4, 2), AXES, axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        everywhere = jax.shard_map(
            functools.partial(eight_devices, **options),
            in_specs=(P(AXES),) * 3,
            out_specs=P(),
            check_vma=check_vma,
        )
        actual = jax.jit(jax.value_and_grad(everywhere, (0, 1)))(*problem)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5 * np.abs(e).max())


def test_images_without_their_reports_are_refused():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    loss = functools.partial(global_cross_entropy, axis_name="data")
    refused = jax.shard_map(
        loss, mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=False
    )
    with pytest.raises(ValueError, match=r"\(2, 12\) on each of 8 devices"):
        refused(jnp.ones((16, 12)))
