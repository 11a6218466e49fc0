"""The graph network sees hearts, not scanners; its parts are counted and finite."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.heart.graph_motion import CONFIGS, graph_motion
from medjax.heart.meshes import Topology
from medjax.heart.motion_graph import heart_axes, local_frames, motion_graph
from medjax.heart.supervision import LossConfig
from medjax.nn.tables import edges_of
from medjax.train.system import System
from tests.heart.shapes import ventricle

VERTICES, FACES, CODES = ventricle(12, 6)
TOPOLOGY = Topology.of(FACES, len(VERTICES), CODES, ("endo", "epi"))
RNG = np.random.default_rng(0)
D, V, H, W = 4, 2, 16, 14


def made_batch() -> dict[str, np.ndarray]:
    """Two hearts of noise on oblique planes."""
    p = D + V
    planes = np.zeros((2, p, 3, 3))
    planes[:, :D, 0] = [[-35, -40, z] for z in (-60, -40, -20, -5)]
    planes[:, :D, 1:] = [[0, 5, 0], [5.5, 0, 0]]
    planes[:, D:, 0] = [[-35, 0, -75], [0, -40, -75]]
    planes[:, D:, 1:] = [[[0, 0, 5], [5.5, 0, 0]], [[0, 0, 5], [0, 5.5, 0]]]
    shape = (2, 2, p, H, W)
    fields = {
        "sax": RNG.random((2, 2, D, H, W)),
        "lax": RNG.random((2, 2, V, H, W)),
        "planes": planes,
        "plane_mask": np.ones((2, p)),
        "label_mask": np.ones((2, p)),
        "time": np.array([0.3, 0.6]),
        "vertices_ed": np.stack([VERTICES, 1.1 * VERTICES]),
        "vertices_t": np.stack([0.9 * VERTICES, VERTICES]),
        "contours": RNG.random((2, 2, p, 9, 2)) * 60,
        "contour_mask": np.ones((2, 2, p, 9)),
    }
    fields = {name: value.astype(np.float32) for name, value in fields.items()}
    fields["labels"] = RNG.integers(0, 4, shape).astype(np.int32)
    fields["contour_surface"] = RNG.integers(0, 2, (2, 2, p, 9)).astype(np.int32)
    return fields


BATCH = made_batch()
CONFIG = dataclasses.replace(
    CONFIGS["tiny"], loss=LossConfig(supervision="both", size=128, pyramid=2)
)


@pytest.fixture(scope="module")
def system():
    return graph_motion(CONFIG, TOPOLOGY, VERTICES)


@pytest.fixture(scope="module")
def variables(system):
    start = jax.jit(system.init)(jax.random.key(0), BATCH)
    # The last layer begins at zero: drawn, so that vertices move at all.
    out = start["params"]["out"]
    drawn = jax.random.normal(jax.random.key(1), out["kernel"].shape) / 2
    return {"params": {**start["params"], "out": {**out, "kernel": drawn}}}


@pytest.fixture(scope="module")
def moved(system):
    return jax.jit(system.apply["vertices"])


def test_a_rigid_motion_of_scanner_and_heart_moves_the_answer_with_it(variables, moved):
    here = moved(variables, BATCH)
    away = np.abs(np.asarray(here) - BATCH["vertices_ed"]).max()
    assert 1.0 < away < 2 * len(CONFIG.weights) * CONFIG.step_mm
    turn = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    shift = np.array([80.0, -40.0, 120.0])
    planes = BATCH["planes"] @ turn
    planes[:, :, 0] += shift
    there = {
        **BATCH,
        "planes": planes.astype(np.float32),
        "vertices_ed": (BATCH["vertices_ed"] @ turn + shift).astype(np.float32),
    }
    expected = np.asarray(here) @ turn + shift
    np.testing.assert_allclose(moved(variables, there), expected, atol=0.02)
    # It does see where the images are in the heart.
    there["planes"] = there["planes"] + 4.0
    assert np.abs(np.asarray(moved(variables, there)) - expected).max() > 0.02


def test_a_missing_view_is_not_seen(variables, moved):
    mask = BATCH["plane_mask"].copy()
    mask[:, -1] = 0.0
    other = BATCH["lax"].copy()
    # The images' common scale is taken over all of them, so it is kept equal here.
    other[:, :, -1] = np.roll(BATCH["lax"][:, :, -1], 3, axis=-1)
    one = moved(variables, {**BATCH, "plane_mask": mask})
    two = moved(variables, {**BATCH, "plane_mask": mask, "lax": other})
    np.testing.assert_allclose(one, two, atol=1e-4)
    assert np.abs(np.asarray(moved(variables, BATCH)) - one).max() > 1e-3


def test_bfloat16_keeps_geometry_in_float32(variables, moved):
    low = graph_motion(
        dataclasses.replace(CONFIG, dtype="bfloat16"), TOPOLOGY, VERTICES
    )
    found = jax.jit(low.apply["vertices"])(variables, BATCH)
    assert found.dtype == jnp.float32
    apart = np.abs(np.asarray(found) - moved(variables, BATCH))
    # Some 0.5 mm would be the steps of bfloat16 at 100 mm.
    assert 0.0 < np.median(apart) < 0.2


def test_loss_and_gradient_are_finite_and_every_term_is_there(system, variables):
    step = jax.jit(jax.value_and_grad(system.loss, has_aux=True))
    (value, (terms, updated)), gradient = step(variables, BATCH, jax.random.key(0))
    assert set(terms) == {
        *("dice", "contour", "vertex", "photometric", "laplacian", "stretch"),
        *("thickness", "volume", "overflow"),
    }
    assert float(terms["overflow"]) == 0.0 and not updated
    assert np.isfinite(float(value))
    for leaf in jax.tree.leaves(gradient):
        assert bool(jnp.isfinite(leaf).all()) and bool(jnp.any(leaf != 0))


def test_sampling_alone_scatters_on_the_way_back(system, variables):
    """Into images, where vertices read them: not what vertices tell each other, nor
    what is made of it."""
    params = variables["params"]

    def scatters(names):
        def total(some, batch):
            whole = {"params": {**params, **some}}
            return jnp.sum(jnp.sin(system.apply["vertices"](whole, batch)))

        some = {name: params[name] for name in names}
        text = jax.jit(jax.grad(total)).lower(some, BATCH).as_text()
        return text.count('"stablehlo.scatter"')

    others = set(params) - {"encoder"}
    assert {"cycle", "hidden", "out"} < others
    assert scatters(others) == 0
    assert scatters({"encoder"}) > 0


def test_a_system_says_what_it_reads_and_counts(system):
    assert isinstance(system, System) and "vertices_t" in system.fields
    with pytest.raises(ValueError, match=r"no \['sax'\], expected"):
        system.init(jax.random.key(0), {k: v for k, v in BATCH.items() if k != "sax"})
    vertices, faces, codes = ventricle(24, 12)
    topology = Topology.of(faces, len(vertices), codes, ("endo", "epi"))
    full = graph_motion(CONFIGS["full"], topology, vertices)
    ed = np.stack([vertices] * 2).astype(np.float32)
    batch = {**BATCH, "vertices_ed": ed, "vertices_t": ed}
    shapes = jax.eval_shape(full.init, jax.random.key(0), batch)
    # A tenth of DeepMesh's 21.7 million.
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert 1.6e6 < count < 1.9e6
    with pytest.raises(ValueError, match="expected one of"):
        graph_motion(CONFIG, Topology.of(FACES, len(VERTICES)), VERTICES)


def test_frames_turn_with_the_heart_and_the_apex_has_one():
    at = jnp.asarray(VERTICES, jnp.float32)
    axes = heart_axes(at, TOPOLOGY, jnp.asarray(BATCH["planes"][0, 0]))
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(axes[2], [0, 0, 1], atol=1e-5)
    frames = local_frames(at, TOPOLOGY, axes)
    products = np.einsum("nij,nkj->nik", frames, frames)
    np.testing.assert_allclose(products, np.tile(np.eye(3), (len(at), 1, 1)), atol=1e-4)
    np.testing.assert_allclose(frames[0, 0], [0, 0, -1], atol=1e-3)


def test_edges_lead_along_the_surface_and_across_the_wall():
    graph = motion_graph(TOPOLOGY, VERTICES)
    fine, kinds = graph.tables[0], graph.kinds[0]
    senders, receivers = edges_of(fine)
    along = kinds[fine.filled] == 0
    np.testing.assert_array_equal(along, CODES[receivers] == CODES[senders])
    assert set(receivers[~along]) == set(range(len(VERTICES)))
    across = graph.partners.index[:, 0]
    assert (CODES[across] != CODES).all()
