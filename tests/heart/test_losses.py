"""Losses are those whose convention they name, or obey their law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.heart import losses
from medjax.heart.coarsen import wall_pairs
from medjax.heart.meshes import Topology
from medjax.nn.tables import Table
from tests.heart.shapes import icosphere, ventricle

RNG = np.random.default_rng(0)
SPHERE, FACES = icosphere(2, 30.0)
TOPOLOGY = Topology.of(FACES, len(SPHERE))
UNEVEN = SPHERE + RNG.normal(0, 1.0, SPHERE.shape)


def single(x) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


def laplacian_in_torch(vertices, method: str):
    """PyTorch3D's formulas, written with dense matrices."""
    torch = pytest.importorskip("torch")
    v = torch.tensor(vertices, requires_grad=True)
    n = len(v)
    weights = torch.zeros(n, n, dtype=v.dtype)
    if method == "uniform":
        for i, j in TOPOLOGY.edges:
            weights[i, j] = weights[j, i] = 1.0
    else:
        with torch.no_grad():
            for face in torch.as_tensor(FACES.astype(int)):
                for i in range(3):
                    a, b, c = face[i], face[(i + 1) % 3], face[(i + 2) % 3]
                    one, two = v[b] - v[a], v[c] - v[a]
                    cot = (one @ two) / torch.linalg.cross(one, two).norm()
                    weights[b, c] += cot
                    weights[c, b] += cot
    total = weights.sum(1, keepdim=True)
    mean = weights @ v / total
    loss = (mean - v).norm(dim=1).mean()
    loss.backward()
    return float(loss.detach()), v.grad.numpy()


@pytest.mark.parametrize("method", ["uniform", "cotangent"])
def test_laplacians_are_pytorch3ds(method):
    loss = getattr(losses, f"laplacian_{method}")
    value, gradient = jax.jit(jax.value_and_grad(lambda v: loss(v, TOPOLOGY)))(
        single(UNEVEN)
    )
    expected, slope = laplacian_in_torch(UNEVEN, method)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, slope, atol=5e-6)


def test_the_cotangent_laplacian_knows_a_spheres_curvature():
    """|mean - vertex| is area x curvature / weight: on a sphere like h^2 / r."""
    parts = []
    for splits in (1, 2):
        vertices, faces = icosphere(splits, 30.0)
        topology = Topology.of(faces, len(vertices))
        cotangent = jax.jit(lambda v, t=topology: losses.laplacian_cotangent(v, t))
        parts.append(float(cotangent(single(vertices))))
        area = 4 * np.pi * 900 / len(vertices)
        # For equal triangles of side h: h^2 / (2 r), and h^2 = 2 area / sqrt 3.
        assert parts[-1] == pytest.approx(area / np.sqrt(3) / 30.0, rel=0.06)
    doubled = losses.laplacian_uniform(single(2 * SPHERE), TOPOLOGY)
    assert float(doubled) == pytest.approx(
        2 * float(losses.laplacian_uniform(single(SPHERE), TOPOLOGY)), rel=1e-5
    )


def test_chamfer_is_pytorch3ds():
    x, y = RNG.normal(size=(30, 3)), RNG.normal(size=(20, 3))
    square = ((x[:, None] - y[None]) ** 2).sum(-1)
    expected = square.min(1).mean() + square.min(0).mean()
    assert float(losses.chamfer(single(x), single(y))) == pytest.approx(expected, 1e-5)


def test_huber_is_deepmeshs():
    field = RNG.normal(size=(2, 4, 5, 6, 3))
    parts = [
        (np.diff(field, axis=axis) ** 2).sum() / field.shape[axis] for axis in (1, 2, 3)
    ]
    expected = np.sqrt(0.01 + sum(parts) / 2)
    assert float(losses.huber_deepmesh(single(field))) == pytest.approx(expected, 1e-5)
    assert float(losses.huber_deepmesh(jnp.ones((1, 4, 4, 4, 3)))) == pytest.approx(0.1)


def test_contours_apart_by_a_shift_are_that_far_apart():
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    circle = 20 * np.stack([np.cos(angle), np.sin(angle)], -1)
    padded = np.concatenate([1.1 * circle, np.full((50, 2), 1e3)])
    mask = np.repeat([1.0, 0.0], [400, 50])
    args = [single(a) for a in (circle, np.ones(400), padded, mask)]
    distance = jax.jit(jax.value_and_grad(losses.contour_distance))
    assert float(distance(*args)[0]) == pytest.approx(2.0, rel=1e-3)
    args[1] = jnp.zeros(400)
    value, gradient = distance(*args)
    assert float(value) == 0.0 and not gradient.any()


def test_stretch_thickness_and_volume_of_a_wall_that_grows():
    vertices, faces, codes = ventricle(24, 12)
    topology = Topology.of(faces, len(vertices), codes, ("endo", "epi"))
    pairs = Table.of(wall_pairs(topology, vertices), topology.count)
    here, larger = single(vertices), single(1.1 * vertices)

    @jax.jit
    def measured(at):
        thickness = losses.wall_thickness(at, topology, pairs)
        stretch = losses.edge_stretch(at, here, topology)
        return stretch, losses.volume_change(at, here, topology), thickness

    stretch, change, _ = measured(larger)
    assert float(stretch) == pytest.approx(np.log(1.1) ** 2, rel=1e-4)
    assert float(change) == pytest.approx((0.331 / 0.05) ** 2, rel=1e-3)
    _, _, thickness = measured(here)
    assert 6.0 < thickness.min() and thickness.max() < 11.0
    # The inner wall blown up through the outer one: thickness is negative and costs.
    scale = np.where(codes[:, None] == 0, 1.6, 1.0)
    through = single(scale * vertices)
    cost = jax.jit(jax.value_and_grad(lambda v: losses.penetration(v, topology, pairs)))
    value, pull = cost(through)
    assert float(value) > 3.0 and bool(jnp.isfinite(pull).all())
    assert float(cost(here)[0]) == 0.0 and measured(through)[2].min() < 0


def test_dice_of_squares_and_its_pyramid():
    a, b = np.zeros((2, 2, 8, 8, 1))
    a[0, 2:6, 2:6], b[0, 2:6, 4:8] = 1, 1
    b[1] = 1.0
    mask = single([1.0, 0.0])
    found = losses.soft_dice(single(a), single(b), mask)
    assert float(found[0]) == pytest.approx(0.5)
    # Halved, the same overlap; halved again, one of two pixels in a row of 2 x 2.
    pooled = 2 * (2 * 0.25 * 0.5) / (4 * 0.0625 + 2 * 0.25)
    expected = np.mean([0.5, 0.5, 1 - pooled])
    value = losses.pyramid_dice(single(a), single(b), mask)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert float(losses.pyramid_dice(single(b), single(b), mask)) == pytest.approx(0.0)
    apart = losses.soft_dice(single(0 * a), single(0 * a), mask)
    assert float(apart[0]) == 1.0


def test_profiles_are_compared_up_to_brightness_and_contrast():
    profile = RNG.normal(size=(50, 7))
    same = losses.profile_difference(single(profile), single(3 * profile + 5))
    assert float(same) == pytest.approx(0.0, abs=1e-3)
    against = losses.profile_difference(single(profile), single(-profile))
    assert float(against) == pytest.approx(2.0, abs=1e-3)
    flat = losses.profile_difference(single(profile), jnp.ones((50, 7)))
    assert float(flat) == pytest.approx(1.0)
