"""VoxelMorph: still at first, its smoothness in closed form, learned from images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.heart.meshes import Topology
from medjax.heart.voxelmorph import VoxelMorphConfig, slope, voxelmorph
from tests.heart.shapes import ventricle

VERTICES, FACES, CODES = ventricle(8, 4)
TOPOLOGY = Topology.of(FACES, len(VERTICES), CODES, ("endo", "epi"))
D, SIDE = 4, 16
SHIFT = 6.0
"""How far everything moves along rows, mm: one and a half pixels."""


def moved_batch() -> dict[str, np.ndarray]:
    """A smooth picture on every slice, and the same one shifted along rows."""
    planes = np.zeros((2, D + 2, 3, 3))
    planes[:, :, 0] = [[-30, -30, -60 + 15 * k] for k in range(D + 2)]
    planes[:, :, 1:] = [[0, 4.0, 0], [4.0, 0, 0]]
    rows, columns = 4.0 * np.mgrid[:SIDE, :SIDE]

    def picture(shift: float) -> np.ndarray:
        away = (rows - 30 - shift) ** 2 + (columns - 30) ** 2
        return np.exp(-away / (2 * 12.0**2))

    pair = np.stack([picture(0.0), picture(SHIFT)])[None, :, None]
    fields = {
        "sax": np.tile(pair, (2, 1, D, 1, 1)),
        "planes": planes,
        "plane_mask": np.ones((2, D + 2)),
        "vertices_ed": np.stack([VERTICES, VERTICES]),
    }
    return {name: value.astype(np.float32) for name, value in fields.items()}


BATCH = moved_batch()
SYSTEM = voxelmorph(VoxelMorphConfig(widths=(4, 8)), TOPOLOGY)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(SYSTEM.init)(jax.random.key(0), BATCH)


def test_slope_of_a_ramp_is_a_ninth_of_its_square_whatever_the_voxels():
    for axis, spacing in ((0, (10.0, 4.0, 4.0)), (2, (5.0, 1.0, 2.0))):
        places = np.meshgrid(*map(np.arange, (3, 4, 5)), indexing="ij")
        field = np.zeros((3, 4, 5, 3), np.float32)
        field[..., 1] = 0.3 * spacing[axis] * places[axis]
        found = slope(jnp.asarray(field), jnp.asarray(spacing))
        np.testing.assert_allclose(found, 0.3**2 / 9, rtol=1e-5)


def test_before_it_learns_a_mesh_stays_and_the_loss_is_that_of_the_images(variables):
    found = jax.jit(SYSTEM.apply["vertices"])(variables, BATCH)
    np.testing.assert_array_equal(found, BATCH["vertices_ed"])
    total, (terms, updated) = jax.jit(SYSTEM.loss)(variables, BATCH, jax.random.key(0))
    top = np.percentile(BATCH["sax"][0], 99)
    apart = (BATCH["sax"][:, 1] - BATCH["sax"][:, 0]) / top
    np.testing.assert_allclose(total, np.mean(apart**2), rtol=1e-4)
    assert terms["smoothness"] == 0 and updated == {}
    assert set(SYSTEM.fields) == set(BATCH)
    with pytest.raises(ValueError, match="no \\['planes'\\]"):
        SYSTEM.init(
            jax.random.key(0), {k: v for k, v in BATCH.items() if k != "planes"}
        )


def test_it_learns_where_things_went_from_images_alone(variables):
    """By steps of one size: for less Adam than a whole run has."""

    @jax.jit
    def stepped(variables, batch, size):
        grads = jax.grad(SYSTEM.judged)(variables, batch)
        return jax.tree.map(lambda v, g: v - size * jnp.sign(g), variables, grads)

    for i in range(60):
        variables = stepped(variables, BATCH, 0.05 * (1 - i / 60))
    # Points along the rows, through the middle of the picture, have gone with it.
    line = np.zeros((2, len(VERTICES), 3), np.float32)
    line[..., 1], line[..., 2] = np.linspace(-20, 20, len(VERTICES)), -40.0
    moved = jax.jit(SYSTEM.apply["vertices"])
    found = np.asarray(moved(variables, {**BATCH, "vertices_ed": line})) - line
    assert found[..., 1] == pytest.approx(SHIFT, abs=1.5)
    assert np.abs(found[..., [0, 2]]).max() < 1.0
