"""What is built on the operator: steps, solves, blends and the VarNet cascade."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax_kernels import data_consistency as dc
from medjax_kernels.data_consistency import reference, xla
from tests.kernels.data_consistency import oracle

IMPLEMENTATIONS = ("xla_fft", "xla_dft")
LAM = jnp.asarray([0.3, 0.5, 0.8])  # one value per frame


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradient_step_descends_the_data_term(implementation):
    image, maps, mask = oracle.problem("h")
    data = oracle.cnormal(2, *image.shape)

    def loss(operator, image, maps, data, eta, mask):
        return jnp.sum(jnp.abs(operator(image, maps, mask, data, eta)) ** 2)

    def ours(image, maps, mask, data, eta):
        return dc.gradient_step(
            image, maps, mask, data, step_size=eta, implementation=implementation
        )

    def exact(image, maps, mask, data, eta):
        residual = oracle.normal64(image, maps, mask) - data
        return image - eta[..., None, None] * residual

    arrays = (image, maps, data, LAM, mask)
    actual = jax.jit(
        jax.value_and_grad(functools.partial(loss, ours), argnums=(0, 1, 2, 3))
    )(*arrays)
    expected = oracle.in_double(
        jax.value_and_grad(functools.partial(loss, exact), argnums=(0, 1, 2, 3)),
        *arrays,
    )
    for got, want in zip(
        jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
    ):
        assert oracle.error(got, want) < 2e-6


def dense_solution(rhs, maps, mask, lam):
    """The solution by factorising the whole matrix, built column by column."""
    h, w = rhs.shape[-2:]
    basis = jnp.eye(h * w, dtype=rhs.dtype).reshape(h * w, 1, 1, h, w)
    columns = oracle.normal64(basis, maps[None], mask[None])
    matrix = jnp.moveaxis(columns.reshape(h * w, *rhs.shape[:-2], h * w), 0, -1)
    lam = jnp.broadcast_to(lam, rhs.shape[:-2])[..., None, None]
    matrix = matrix + lam * jnp.eye(h * w)
    flat = rhs.reshape(*rhs.shape[:-2], h * w, 1)
    return jnp.linalg.solve(matrix, flat).reshape(rhs.shape)


@pytest.mark.parametrize(
    ("kind", "per_readout", "implementation"),
    [
        ("h", False, "xla_fft"),
        ("h", True, "xla_fft"),
        ("w", True, "xla_dft"),
        ("plane", False, "xla_fft"),
    ],
)
def test_proximal_solve_and_its_implicit_gradient(kind, per_readout, implementation):
    rhs, maps, mask = oracle.problem(kind)
    target = oracle.cnormal(5, *rhs.shape)

    def loss(solver, rhs, maps, lam, mask, target):
        return jnp.sum(jnp.abs(solver(rhs, maps, mask, lam) - target) ** 2)

    def ours(rhs, maps, mask, lam):
        return dc.proximal_solve(
            rhs,
            maps,
            mask,
            lam=lam,
            iterations=20,
            per_readout=per_readout,
            implementation=implementation,
        )

    arrays = (rhs, maps, LAM, mask, target)
    actual = jax.jit(
        jax.value_and_grad(functools.partial(loss, ours), argnums=(0, 1, 2))
    )(*arrays)
    expected = oracle.in_double(
        jax.value_and_grad(functools.partial(loss, dense_solution), argnums=(0, 1, 2)),
        *arrays,
    )
    for got, want in zip(
        jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
    ):
        assert oracle.error(got, want) < 1e-5


def test_the_decoupled_system_is_the_hadamard_form():
    """N_w = K * (S_w^H S_w) per readout position, what per_readout solves."""
    rhs, maps, mask = oracle.problem("h")

    def direct(rhs, maps, mask):
        re, im = xla.circulant(mask[..., 0])
        gram = jnp.einsum("btciw,btcjw->btwij", jnp.conj(maps), maps)
        matrix = (re + 1j * im)[:, :, None] * gram + 0.3 * jnp.eye(rhs.shape[-2])
        columns = jnp.swapaxes(rhs, -1, -2)[..., None]
        return jnp.swapaxes(jnp.linalg.solve(matrix, columns)[..., 0], -1, -2)

    expected = oracle.in_double(direct, rhs, maps, mask)
    for per_readout in (True, False):
        actual = oracle.run(
            dc.proximal_solve,
            rhs,
            maps,
            mask,
            lam=0.3,
            iterations=30,
            per_readout=per_readout,
        )
        assert oracle.error(actual, expected) < 1e-6


def test_one_recurrence_per_readout_converges_no_later():
    rhs, maps, mask = oracle.problem("h", (16, 12))
    exact = oracle.run(dc.proximal_solve, rhs, maps, mask, lam=0.05, iterations=60)
    errors = [
        oracle.error(
            oracle.run(
                dc.proximal_solve,
                rhs,
                maps,
                mask,
                lam=0.05,
                iterations=4,
                per_readout=per_readout,
            ),
            oracle.wide(exact),
        )
        for per_readout in (True, False)
    ]
    assert errors[0] < errors[1]


def test_tolerance_stops_each_image_where_asked():
    rhs, maps, mask = oracle.problem("h", (16, 12))
    x = oracle.run(
        dc.proximal_solve, rhs, maps, mask, lam=0.05, iterations=50, tolerance=1e-2
    )
    residual = dc.normal_operator(x, maps, mask) + jnp.complex64(0.05) * x - rhs
    relative = jnp.linalg.norm(residual, axis=(-2, -1)) / jnp.linalg.norm(
        rhs, axis=(-2, -1)
    )
    assert (relative < 1.01e-2).all()
    assert (relative > 1e-4).all()


@pytest.mark.parametrize("magnitude", [1e-30, 1e-8, 1e6, 1e25])
def test_solve_keeps_its_accuracy_at_any_magnitude(magnitude):
    rhs, maps, mask = oracle.problem("h")
    solve = jax.jit(functools.partial(dc.proximal_solve, lam=0.3, iterations=30))
    expected = oracle.wide(solve(rhs, maps, mask)) * magnitude
    actual = solve(rhs * jnp.complex64(magnitude), maps, mask)
    assert oracle.error(actual, expected) < 2e-6


@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
def test_solve_of_zero_is_zero_and_nan_stays_in_its_image(tolerance):
    rhs, maps, mask = oracle.problem("h")
    rhs = rhs.at[0, 0].set(0).at[1, 2, 3, 4].set(jnp.nan)
    x = np.array(
        oracle.run(dc.proximal_solve, rhs, maps, mask, lam=0.3, tolerance=tolerance)
    )
    assert not x[0, 0].any()
    assert np.isnan(x[1, 2]).any()
    x[1, 2] = 0
    assert np.isfinite(x).all()


@pytest.mark.parametrize("kind", oracle.MASKS)
@pytest.mark.parametrize("lam", [None, 0.25])
def test_blends_agree_in_both_spaces_and_with_the_solve(kind, lam):
    image, _, mask = oracle.problem(kind, (7, 9))
    measured = oracle.cnormal(6, *image.shape)
    kspace = reference.fourier(image)
    blended = oracle.run(dc.blend, kspace, measured, mask, lam=lam)
    weight = jnp.where(mask, 1 / (1 + (lam or 0.0)), 0.0)
    expected = oracle.in_double(reference.blend, kspace, measured, weight)
    assert oracle.error(blended, expected) < 1e-6

    zero_filled = reference.inverse_fourier(jnp.where(mask, measured, 0))
    in_image = oracle.run(dc.blend_image, image, zero_filled, mask, lam=lam)
    np.testing.assert_allclose(reference.fourier(in_image), blended, atol=3e-6)
    if lam is not None:
        # Off the mask the solve divides by lambda what it was given times lambda.
        one_coil = jnp.ones((1, 7, 9), jnp.complex64)
        rhs = zero_filled + jnp.complex64(lam) * image
        solved = oracle.run(dc.proximal_solve, rhs, one_coil, mask, lam=lam)
        np.testing.assert_allclose(in_image, solved, atol=1e-5)


def test_blend_replaces_what_was_measured_and_nothing_else():
    kspace, _, mask = oracle.problem("h")
    measured = oracle.cnormal(6, *kspace.shape)
    blended = oracle.run(dc.blend, kspace, measured, mask)
    whole = np.broadcast_to(mask, kspace.shape)
    np.testing.assert_allclose(blended, np.where(whole, measured, kspace), atol=1e-6)


def test_blend_gradient_of_lambda():
    image, _, mask = oracle.problem("h")
    measured = oracle.cnormal(6, *image.shape)

    def in_kspace(lam, image, measured, mask):
        weight = mask / (1 + lam[:, None, None])
        k = reference.fourier(image)
        return jnp.sum(jnp.abs(reference.blend(k, measured, weight)) ** 2)

    def in_image(lam):
        zero_filled = reference.inverse_fourier(jnp.where(mask, measured, 0))
        return jnp.sum(jnp.abs(dc.blend_image(image, zero_filled, mask, lam=lam)) ** 2)

    expected = oracle.in_double(jax.grad(in_kspace), LAM, image, measured, mask)
    assert oracle.error(jax.jit(jax.grad(in_image))(LAM), expected) < 1e-6


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", oracle.MASKS)
def test_varnet_update_equals_its_form_in_kspace(kind, implementation):
    refinement, maps, mask = oracle.problem(kind, (7, 9))
    coils = oracle.cnormal(8, 2, 3, 4, 7, 9)
    full = oracle.cnormal(9, *coils.shape)
    measured = jnp.where(mask[..., None, :, :], full, 0)

    def in_kspace(coils, measured, maps, mask, refinement):
        updated = reference.varnet_kspace_update(
            reference.fourier(coils),
            measured,
            maps,
            mask[..., None, :, :],
            refinement,
            0.9,
        )
        return reference.inverse_fourier(updated)

    actual = oracle.run(
        dc.varnet_update,
        coils,
        reference.inverse_fourier(measured),
        maps,
        mask,
        refinement,
        step_size=0.9,
        implementation=implementation,
    )
    expected = oracle.in_double(in_kspace, coils, measured, maps, mask, refinement)
    assert oracle.error(actual, expected) < 1e-6


def test_errors_name_argument_and_shapes():
    image, maps, mask = oracle.problem("plane")
    with pytest.raises(ValueError, match="per_readout needs a line mask"):
        dc.proximal_solve(image, maps, mask, lam=0.1, per_readout=True)
    with pytest.raises(ValueError, match="lam must be real with at most the 2"):
        dc.proximal_solve(image, maps, mask, lam=jnp.ones((2, 3, 8)))
    with pytest.raises(ValueError, match="iterations must be at least 1"):
        dc.proximal_solve(image, maps, mask, lam=0.1, iterations=0)
    with pytest.raises(ValueError, match="adjoint_data must end in the image's"):
        dc.gradient_step(image, maps, mask, image[..., :3], step_size=1.0)
    with pytest.raises(ValueError, match="equally many coils"):
        coils = jnp.ones((2, 3, 5, 8, 6), jnp.complex64)
        dc.varnet_update(coils, coils, maps, mask, image, step_size=1.0)
