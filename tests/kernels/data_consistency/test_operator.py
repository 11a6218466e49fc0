"""The normal operator: values, gradients, laws and transformations, by every route."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from medjax_kernels import data_consistency as dc
from medjax_kernels.data_consistency import dispatch, xla
from tests.kernels.data_consistency import oracle
from tests.laws import assert_adjoint, assert_linear, assert_projection

IMPLEMENTATIONS = ("xla_fft", "xla_dft")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("size", oracle.SIZES)
@pytest.mark.parametrize("kind", oracle.MASKS)
def test_equals_the_two_dimensional_transform_in_double(kind, size, implementation):
    case = oracle.problem(kind, size)
    actual = oracle.run(dc.normal_operator, *case, implementation=implementation)
    assert oracle.error(actual, oracle.in_double(oracle.normal64, *case)) < 3e-7


@pytest.mark.parametrize("kind", ["h", "w"])
@pytest.mark.parametrize("bound", [0, 2])
def test_thin_form_equals_the_dense_one(kind, bound):
    case = oracle.problem(kind, (12, 11))
    lines = int(np.asarray(case.mask).sum((-2, -1)).max()) + bound
    actual = oracle.run(
        dc.normal_operator, *case, implementation="xla_dft", lines=lines
    )
    assert oracle.error(actual, oracle.in_double(oracle.normal64, *case)) < 5e-7


def test_thin_form_never_drops_a_line_silently():
    case = oracle.problem("h", (12, 11))
    counts = np.asarray(case.mask).sum((-2, -1))
    lines = int(counts.min())
    assert counts.max() > lines
    actual = oracle.run(
        dc.normal_operator, *case, implementation="xla_dft", lines=lines
    )
    broken = np.isnan(np.asarray(actual)).all((-2, -1))
    np.testing.assert_array_equal(broken, counts > lines)


@pytest.mark.parametrize("kind", ["h", "w"])
def test_a_line_mask_equals_the_same_mask_written_out(kind):
    image, maps, mask = oracle.problem(kind)
    plane = jnp.broadcast_to(mask, image.shape)
    np.testing.assert_allclose(
        dc.normal_operator(image, maps, mask),
        dc.normal_operator(image, maps, plane),
        atol=2e-6,
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", oracle.MASKS)
def test_gradients_of_image_maps_and_weights(kind, implementation):
    image, maps, mask = oracle.problem(kind)
    weights = jnp.where(mask, 0.7, 0.0)
    target = oracle.cnormal(3, *image.shape)

    def loss(operator, image, maps, weights, target):
        return jnp.sum(jnp.abs(operator(image, maps, weights) - target) ** 2)

    ours = functools.partial(
        loss, functools.partial(dc.normal_operator, implementation=implementation)
    )
    exact = functools.partial(loss, oracle.normal64)
    arrays = (image, maps, weights, target)
    actual = jax.jit(jax.grad(ours, argnums=(0, 1, 2)))(*arrays)
    expected = oracle.in_double(jax.grad(exact, argnums=(0, 1, 2)), *arrays)
    for got, want in zip(actual, expected, strict=True):
        assert oracle.error(got, want) < 2e-6


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", oracle.MASKS)
def test_is_linear_self_adjoint_and_positive(kind, implementation):
    x, maps, mask = oracle.problem(kind, (7, 9))
    y = oracle.cnormal(4, *x.shape)
    operator = jax.jit(
        lambda x: dc.normal_operator(x, maps, mask, implementation=implementation)
    )
    assert_linear(operator, x, y)
    assert_adjoint(operator, operator, x, y)
    assert np.vdot(x, operator(x)).real > 0


def test_one_coil_of_ones_is_a_projection():
    x, _, mask = oracle.problem("h", (7, 9))
    ones = jnp.ones((1, 7, 9), jnp.complex64)
    assert_projection(lambda x: dc.normal_operator(x, ones, mask), x)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_vmap_equals_the_leading_axis(implementation):
    image, maps, mask = oracle.problem("h")
    operator = functools.partial(dc.normal_operator, implementation=implementation)
    over_frames = jax.vmap(operator, in_axes=(0, None, 0))
    actual = jax.vmap(over_frames)(image, maps[:, 0], mask)
    np.testing.assert_allclose(actual, operator(image, maps, mask), atol=1e-6)


def test_shard_map_over_the_batch_equals_one_device():
    auto = jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((8,), ("data",), axis_types=(auto,))
    image, maps = oracle.cnormal(0, 8, 6, 8), oracle.cnormal(1, 8, 3, 6, 8)
    mask = oracle.random_mask("h", (8,), 6, 8)
    spec = P("data")
    sharded = jax.shard_map(
        dc.normal_operator, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec
    )

    def loss(operator, image, maps):
        return jnp.sum(jnp.abs(operator(image, maps, mask)) ** 2)

    for operator in (sharded, dc.normal_operator):
        assert jax.jit(operator)(image, maps, mask).shape == image.shape
    got, want = (
        jax.jit(jax.grad(functools.partial(loss, f), argnums=(0, 1)))(image, maps)
        for f in (sharded, dc.normal_operator)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), got, want)


@pytest.mark.parametrize("magnitude", [1e-8, 1e6])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_any_magnitude_keeps_its_relative_accuracy(magnitude, implementation):
    image, maps, mask = oracle.problem("h")
    image = image * jnp.complex64(magnitude)
    actual = oracle.run(
        dc.normal_operator, image, maps, mask, implementation=implementation
    )
    exact = oracle.in_double(oracle.normal64, image, maps, mask)
    assert oracle.error(actual, exact) < 3e-7


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_zeros_stay_zero_and_nan_stays_in_its_sample(implementation):
    image, maps, mask = oracle.problem("h")
    image = image.at[0, 0].set(0).at[1, 2, 3, 4].set(jnp.nan)
    actual = np.array(
        oracle.run(dc.normal_operator, image, maps, mask, implementation=implementation)
    )
    assert not actual[0, 0].any()
    assert np.isnan(actual[1, 2]).any()
    actual[1, 2] = 0
    assert np.isfinite(actual).all()


def test_no_choice_is_the_measured_best_on_a_cpu():
    image = jnp.ones((48, 48), jnp.complex64)

    def choose(*shape: int, pixels: int) -> tuple:
        mask = jnp.ones(shape)
        return dispatch.choose(None, "highest", 8, image, mask, pixels=pixels)

    assert choose(48, 1, pixels=32768) == ("xla_dft", None)
    assert choose(48, 1, pixels=32767) == ("xla_fft", 8)
    assert choose(49, 1, pixels=10**6) == ("xla_fft", 8)
    # Along the last axis an FFT needs no transposition.
    assert choose(1, 48, pixels=10**6) == ("xla_fft", 8)


def test_dft_rows_are_exact_at_a_long_prime():
    re, im = xla.dft_rows(jnp.arange(1009), 1009, jnp.dtype("float32"))
    i = np.arange(1009)
    exact = np.exp(-2j * np.pi * np.outer(i, i) / 1009) / np.sqrt(1009)
    assert np.abs(np.asarray(re) + 1j * np.asarray(im) - exact).max() < 2e-8


def test_errors_name_argument_and_shapes():
    image, maps, mask = oracle.problem("h")
    with pytest.raises(ValueError, match=r"mask must end in \(8, 1\), \(1, 6\)"):
        dc.normal_operator(image, maps, mask[..., :5, :])
    with pytest.raises(ValueError, match="maps must end in the image's"):
        dc.normal_operator(image, maps[..., :5], mask)
    with pytest.raises(ValueError, match=r"leading axes of image \(2, 3, 8, 6\)"):
        dc.normal_operator(image, jnp.ones((4, 4, 8, 6), jnp.complex64), mask)
    # Beneath the run-time type check, which knows the allowed names as well.
    choose = inspect.unwrap(dispatch.choose)
    with pytest.raises(ValueError, match="implementation must be None or one of"):
        choose("cuda", "highest", None, image, mask, pixels=0)
    with pytest.raises(ValueError, match="precision must be one of"):
        choose(None, "low", None, image, mask, pixels=0)
    with pytest.raises(ValueError, match="lines=9 must bound"):
        dc.normal_operator(image, maps, mask, lines=9)
