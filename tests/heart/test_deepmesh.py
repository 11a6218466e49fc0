"""DeepMesh: counted to the parameter, its geometry in closed form, its loss finite."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.heart.deepmesh import (
    CONFIGS,
    DeepMeshConfig,
    deepmesh,
    displaced,
    plane_distance,
    warped,
)
from medjax.heart.deepmesh_networks import Block, DeepMesh, NetworkConfig
from medjax.heart.losses import huber_deepmesh, huber_mm
from medjax.heart.meshes import Topology
from medjax.heart.supervision import LossConfig
from tests.heart.shapes import ventricle
from tests.heart.test_graph_motion import BATCH, D, made_batch

VERTICES, FACES, CODES = ventricle(12, 6)
TOPOLOGY = Topology.of(FACES, len(VERTICES), CODES, ("endo", "epi"))
NETWORK = NetworkConfig(
    levels=((8,), (12,)), stem=4, neck=16, up=(6,), fuse=8, volume=(4, 8)
)


def counts(stage) -> dict[str, int]:
    """Parameters of the published network, by the first word of their names."""
    images = (jnp.zeros((1, 2, 64, 128, 128)), jnp.zeros((1, 2, 2, 128, 128)))
    images += (jnp.ones((1, 2)),)
    shapes = jax.eval_shape(
        lambda key: DeepMesh(NetworkConfig(), stage).init(key, *images, train=False),
        jax.random.key(0),
    )
    found: dict[str, int] = {}
    for name, tree in shapes["params"].items():
        part = "stem" if "stem" in name else "rest"
        size = sum(leaf.size for leaf in jax.tree.leaves(tree))
        found[part] = found.get(part, 0) + size
    return found


def test_both_stages_have_the_published_number_of_parameters():
    assert counts("ed") == {"stem": 18_912, "rest": 38_316_131}
    assert counts("motion") == {"stem": 18_912, "rest": 21_745_411}


def test_going_up_is_pytorchs_transposed_convolution():
    torch = pytest.importorskip("torch")
    layer = torch.nn.ConvTranspose2d(3, 5, 3, 2, 1, output_padding=1, bias=False)
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 3)).astype(np.float32)
    with torch.no_grad():
        expected = torch.relu(layer(torch.as_tensor(x.transpose(0, 3, 1, 2)))).numpy()
    block = Block(5, up=True)
    start = jax.jit(lambda key: block.init(key, jnp.asarray(x), train=False))
    variables = start(jax.random.key(0))
    # PyTorch stores (in, out, row, column).
    kernel = layer.weight.detach().numpy().transpose(2, 3, 0, 1)
    params = {**variables["params"], "conv": {"kernel": jnp.asarray(kernel)}}
    found = jax.jit(lambda v: block.apply(v, jnp.asarray(x), train=False))(
        {**variables, "params": params}
    )
    expected = expected.transpose(0, 2, 3, 1) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-5)


PLANES = np.zeros((8, 3, 3), np.float32)
PLANES[:, 0] = [[10, -20, 2 * k] for k in range(8)]
PLANES[:, 1:] = [[0, 1.25, 0], [1.5, 0, 0]]
POINTS = np.array([[16, -10, 6.5], [20, -14, 3], [13, -16, 9]], np.float32)
PAPER = CONFIGS["paper"]


def test_a_field_moves_vertices_by_millimetres_along_the_stack():
    field = jnp.tile(jnp.asarray([0.2, -0.4, 0.1]), (8, 16, 12, 1))
    found = displaced(jnp.asarray(POINTS), field, jnp.asarray(PLANES), PAPER)
    # 25 mm along slices (z), rows (y) and columns (x).
    np.testing.assert_allclose(found - POINTS, [[2.5, -10.0, 5.0]] * 3, atol=1e-4)
    field = (
        jnp.zeros((8, 16, 12, 3))
        .at[..., 0]
        .set((0.1 * jnp.arange(8.0) / 7)[:, None, None])
    )
    found = displaced(jnp.asarray(POINTS), field, jnp.asarray(PLANES), PAPER)
    np.testing.assert_allclose(
        (found - POINTS)[:, 2], 25 * 0.1 * POINTS[:, 2] / 14, rtol=1e-4
    )


def test_as_released_rows_read_columns_and_half_the_field_is_the_range():
    repo = CONFIGS["repo"]
    row = jnp.arange(16.0)[None, :, None] / 40
    field = jnp.zeros((8, 16, 16, 3)).at[..., 1].set(row)
    found = displaced(jnp.asarray(POINTS), field, jnp.asarray(PLANES), repo)
    # The field rises along its rows and says rows: the mesh reads it by its column and
    # moves along its columns.
    column = (POINTS[:, 0] - 10) / 1.5
    expected = column / 16 * 15 / 40 * 0.5 * 16 * 1.5
    np.testing.assert_allclose((found - POINTS)[:, 0], expected, rtol=1e-4)
    np.testing.assert_allclose((found - POINTS)[:, 1:], 0.0, atol=1e-5)


def test_as_released_images_move_between_aligned_corners():
    """All the way there is from the first pixel to the last, and half of it."""
    repo = CONFIGS["repo"]
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.random((9, 13, 13)), jnp.float32)
    # Two slices up of eight steps, three rows down of twelve; two columns back.
    field = jnp.tile(jnp.asarray([2 / 4, 3 / 6, -2 / 6]), (9, 13, 13, 1))
    planes = np.concatenate([PLANES, PLANES[-1:] + [[[0, 0, 2], [0] * 3, [0] * 3]]])
    found = warped(image, field, jnp.asarray(planes, jnp.float32), repo)
    np.testing.assert_allclose(found[:-2, :-3, 2:], image[2:, 3:, :-2], atol=1e-5)


def test_smoothness_per_mm_is_of_the_slope_not_of_the_grid():
    """Published: 64 slices of 2 mm, 128 x 128 pixels of 1.25 mm; a tenth of it here."""

    def cost(shape, spacing, axis):
        places = np.meshgrid(*map(np.arange, shape), indexing="ij")
        field = np.zeros((1, *shape, 3), np.float32)
        # 0.02 mm along the slices for every mm.
        field[0, ..., 0] = 0.02 * places[axis] * spacing[axis]
        steps = jnp.asarray([spacing], jnp.float32)
        return float(huber_mm(jnp.asarray(field), steps))

    expected = np.sqrt(0.01 + 64 * 128 * (1.25 * 0.02) ** 2)
    for shape, spacing in (((6, 12, 12), (2, 1.25, 1.25)), ((9, 5, 7), (4, 3, 0.5))):
        for axis in range(3):
            found = cost(shape, spacing, axis)
            np.testing.assert_allclose(found, expected, rtol=1e-4)
    # In the plane of the published volume it is what the code has.
    field = np.zeros((1, 64, 128, 128, 3), np.float32)
    field[0, ..., 0] = 0.02 * 1.25 * np.arange(128)[:, None]
    released = float(huber_deepmesh(jnp.asarray(field)))
    np.testing.assert_allclose(released, expected, rtol=0.01)
    assert CONFIGS["paper"].smoothness_of == "mm"
    assert {CONFIGS[name].smoothness_of for name in ("tiny", "repo")} == {"voxels"}


def test_the_image_is_warped_by_the_same_field():
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.random((8, 16, 12)), jnp.float32)
    # One slice up, two rows down: 2 mm and 2.5 mm of 25.
    field = jnp.tile(jnp.asarray([2 / 25, 2.5 / 25, 0.0]), (8, 16, 12, 1))
    found = warped(image, field, jnp.asarray(PLANES), PAPER)
    np.testing.assert_allclose(found[:-1, :-2], image[1:, 2:], atol=1e-5)
    # A field over more slices than there are images of.
    deep = jnp.tile(field[:1], (22, 1, 1, 1))
    again = warped(image, deep, jnp.asarray(PLANES), PAPER)
    np.testing.assert_allclose(again, found, atol=1e-4)


@pytest.fixture(scope="module")
def joint():
    # Behind fields that begin at zero nothing has a gradient at first.
    network = dataclasses.replace(NETWORK, still=False)
    config = DeepMeshConfig(stage="joint", network=network, top=64, smoothness_of="mm")
    return deepmesh(config, TOPOLOGY)


@pytest.fixture(scope="module")
def batch():
    noise = {
        k: v[..., :14] if k in ("sax", "lax", "labels") else v
        for k, v in made_batch().items()
    }
    return {**noise, "vertices_init": BATCH["vertices_ed"] + np.float32(2.0)}


def test_both_stages_as_one_train(joint, batch):
    variables = jax.jit(joint.init)(jax.random.key(0), batch)
    step = jax.jit(jax.value_and_grad(joint.loss, has_aux=True))
    (value, (terms, updated)), gradient = step(variables, batch, jax.random.key(0))
    assert np.isfinite(float(value)) and "batch_stats" in updated
    assert {"plane_ed", "plane_motion", "chamfer", "image", "empty_ed"} <= set(terms)
    assert float(terms["overflow_ed"]) == float(terms["overflow_motion"]) == 0.0
    for leaf in jax.tree.leaves(gradient["params"]):
        assert bool(jnp.isfinite(leaf).all()) and bool(jnp.any(leaf != 0))


def test_planes_with_more_vertices_than_room_are_told(joint, batch):
    mask = np.array([1, 1, 1, 1, 0, 0], np.float32)
    one = {name: jnp.asarray(value[0]) for name, value in batch.items()}
    one["plane_mask"] = jnp.asarray(mask)

    def short(top):
        config = dataclasses.replace(PAPER, top=top, within=5.5)
        told = jax.jit(lambda x: plane_distance(x, one, 1, D, config)[2])
        return float(told(one["vertices_ed"]))

    # Of the slices, at -60, -40, -20 and -5 mm, the rings within 5.5 mm of each.
    away = np.abs(batch["vertices_ed"][0][:, 2, None] - [-60, -40, -20, -5])
    near = np.sort((away < 5.5).sum(0))
    assert near[0] < near[-1]
    assert short(int(near[-1])) == 0.0
    assert short(int(near[0])) == (near > near[0]).mean()


def test_views_that_are_absent_do_not_enter_the_statistics(joint, batch):
    """The encoder is shared: zeros of views would narrow the variance of slices."""
    mask = batch["plane_mask"].copy()
    mask[:, -2:] = 0
    variables = jax.jit(joint.init)(jax.random.key(0), batch)
    two = {**batch, "plane_mask": mask}
    _, (_, updated) = jax.jit(joint.loss)(variables, two, jax.random.key(0))
    stats = updated["batch_stats"]
    stem = stats["motion_stem_0"]["norm"]
    np.testing.assert_array_equal(stem["mean"], 0.0)
    np.testing.assert_array_equal(stem["var"], 1.0)
    sax = np.asarray(batch["sax"])
    sax = sax / (np.percentile(np.abs(sax), 99, (1, 2, 3, 4), keepdims=True) + 1e-6)
    kernel = variables["params"]["motion_encoder"]["level_0_0"]["conv"]["kernel"]
    mean, var = 0.0, 1.0
    for frame in range(2):
        x = jnp.moveaxis(jnp.asarray(sax[:, frame]), 1, -1)
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        mean = 0.9 * mean + 0.1 * y.mean((0, 1, 2))
        var = 0.9 * var + 0.1 * y.var((0, 1, 2), ddof=1)
    found = stats["motion_encoder"]["level_0_0"]["norm"]
    np.testing.assert_allclose(found["mean"], mean, atol=1e-5)
    np.testing.assert_allclose(found["var"], var, rtol=1e-5)


def test_sizes_that_cannot_be_halved_and_missing_fields_are_named(joint, batch):
    with pytest.raises(ValueError, match=r"no \['vertices_init'\], expected"):
        joint.init(jax.random.key(0), BATCH)
    odd = {
        k: v[..., :13] if k in ("sax", "lax", "labels") else v for k, v in batch.items()
    }
    with pytest.raises(ValueError, match="images of 16 x 13 pixels, expected multip"):
        joint.init(jax.random.key(0), odd)


def test_coverage_may_judge_instead_of_vertices(batch):
    config = dataclasses.replace(
        CONFIGS["tiny"],
        network=NETWORK,
        slice="coverage",
        coverage=LossConfig(size=128, pyramid=1),
    )
    system = deepmesh(config, TOPOLOGY)
    assert "labels" in system.fields and "vertices_init" not in system.fields
    variables = jax.eval_shape(system.init, jax.random.key(0), batch)
    _, (terms, _) = jax.eval_shape(system.loss, variables, batch, jax.random.key(0))
    assert {"plane_motion", "overflow_motion"} <= set(terms)
