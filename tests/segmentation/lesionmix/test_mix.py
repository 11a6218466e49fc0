"""LesionMix as a whole: loads by the law, and one result per key, however it is run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from medjax.segmentation.lesionmix.apart import rows_apart
from medjax.segmentation.lesionmix.inpaint import InpaintConfig
from medjax.segmentation.lesionmix.loads import LoadLaw
from medjax.segmentation.lesionmix.mix import LesionMixConfig, lesionmix_batch
from medjax.segmentation.lesionmix.populate import PopulateConfig
from medjax.train.mesh import MeshConfig, make_mesh
from tests.segmentation.lesionmix.cases import SPACING, bank, hosts

CONFIG = LesionMixConfig(PopulateConfig(slots=8), InpaintConfig(sweeps=8))
LAW = LoadLaw("uniform", (40.0, 360.0))
ROWS = jnp.arange(8)


def run(some, rows, config=CONFIG):
    key = jax.random.key(0)
    mixed = lesionmix_batch(some, bank().donors, LAW, SPACING, config, rows, key=key)
    return jax.tree.map(np.asarray, mixed)


@pytest.fixture(scope="module")
def mixed():
    return run(hosts(), ROWS)


def test_loads_follow_the_target(mixed):
    assert (mixed.target >= 40).all() and (mixed.target <= 360).all()
    np.testing.assert_allclose(mixed.load, mixed.label.sum((1, 2)))
    more = mixed.before < mixed.target
    assert more.any() and (~more).any(), "the seed should show both"
    slack = np.maximum(0.05 * mixed.target, 3)
    assert (mixed.load[more] <= (mixed.target + slack)[more]).all()
    assert (mixed.load[more] >= mixed.before[more]).all()
    assert (mixed.load[~more] <= mixed.target[~more]).all()
    assert (mixed.removed > 0).tolist() == (~more).tolist()
    # A case that loses lesions gets none.
    assert (mixed.verdicts[~more, 0] == 0).all()
    old = np.asarray(hosts().components) > 0
    for i in range(8):
        smaller, larger = (old, mixed.label) if more[i] else (mixed.label, old)
        assert not (smaller[i] & ~larger[i]).any()


def test_bit_equal_whatever_the_batch(mixed):
    """Alone: what loses lesions, and what gets some."""
    more = mixed.before < mixed.target
    for row in (int(more.argmin()), int(more.argmax())):
        some = jax.tree.map(lambda x, row=row: x[row : row + 1], hosts())
        found = run(some, ROWS[row : row + 1])
        jax.tree.map(
            lambda a, b, row=row: np.testing.assert_array_equal(a[0], b[row]),
            found,
            mixed,
        )


def test_rows_side_by_side_are_padded_and_cut():
    rows = jnp.arange(5.0)
    found = rows_apart(lambda shared, row: shared * row, 3.0, rows, chunk=2)
    np.testing.assert_array_equal(found, 3 * rows)
    with pytest.raises(ValueError, match="chunk=0"):
        rows_apart(lambda shared, row: row, 3.0, rows, chunk=0)


def test_bit_equal_whatever_the_devices(mixed):
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    placed = jax.device_put((hosts(), ROWS), split)
    assert len(placed[0].image.sharding.device_set) == 8
    with jax.set_mesh(mesh):
        found = run(*placed)
    jax.tree.map(np.testing.assert_array_equal, found, mixed)


def test_another_row_is_another_draw(mixed):
    assert len(np.unique(mixed.target)) == 8
