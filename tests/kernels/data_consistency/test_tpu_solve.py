"""The proximal solve that stays on a TPU, interpreted with race detection."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax_kernels import compat
from medjax_kernels import data_consistency as dc
from medjax_kernels.data_consistency import tpu_solve
from tests.kernels.data_consistency import oracle

LAM = jnp.asarray([0.3, 0.8])  # one value per frame


@pytest.fixture
def only_the_kernel(monkeypatch):
    """Let no solve fall back on the kernel that runs once per iteration."""
    calls = []
    solve = tpu_solve.solve
    monkeypatch.setattr(
        tpu_solve, "solve", lambda *a, **o: (calls.append(1), solve(*a, **o))[1]
    )
    yield
    assert calls


def solver(implementation, tolerance=0.0, iterations=3):
    return functools.partial(
        dc.proximal_solve,
        iterations=iterations,
        per_readout=True,
        tolerance=tolerance,
        implementation=implementation,
    )


@pytest.mark.parametrize(("kind", "tolerance"), [("h", 0.0), ("w", 0.2)])
def test_runs_the_same_iterations_without_a_race(kind, tolerance, only_the_kernel):
    """Frames with masks of their own, maps they share, sizes that need padding."""
    rhs, maps, mask = oracle.problem(kind, (12, 11), coils=2)
    arrays = rhs[:1, :2], maps[:1], mask[:1, :2]
    rhs = arrays[0].at[0, 0].set(0) if kind == "w" else arrays[0]
    arrays = rhs, *arrays[1:]
    plain = jax.jit(functools.partial(solver("xla_fft", tolerance), lam=LAM))(*arrays)
    with compat.interpret("tpu"):
        ours = functools.partial(solver("tpu", tolerance), lam=LAM)
        actual = jax.block_until_ready(jax.jit(ours)(*arrays))
        assert not compat.races_found("tpu")
    assert oracle.error(actual, oracle.wide(plain)) < 2e-6
    if kind == "w":
        assert not np.asarray(actual[0, 0]).any()


def test_nan_stays_in_its_readout_position(only_the_kernel):
    rhs, maps, mask = (a[0, :1] for a in oracle.problem("h", (12, 11), coils=2))
    rhs = rhs.at[0, 3, 5].set(jnp.nan)
    with compat.interpret("tpu"):
        x = jax.jit(functools.partial(solver("tpu"), lam=0.5))(rhs, maps, mask)
        x = np.array(x)
    assert np.isnan(x[0, :, 5]).any()
    x[0, :, 5] = 0
    assert np.isfinite(x).all()


def test_implicit_gradient(only_the_kernel):
    rhs, maps, mask = (a[0, :1] for a in oracle.problem("h", coils=2))
    target = oracle.cnormal(5, *rhs.shape)

    def loss(solve, rhs, maps, lam):
        return jnp.sum(jnp.abs(solve(rhs, maps, mask, lam=lam) - target) ** 2)

    def gradient(implementation):
        grad = jax.grad(
            functools.partial(loss, solver(implementation, iterations=2)), (0, 1, 2)
        )
        return jax.jit(grad)(rhs, maps, LAM[:1])

    expected = gradient("xla_fft")
    with compat.interpret("tpu"):
        actual = jax.block_until_ready(gradient("tpu"))
    for got, want in zip(actual, expected, strict=True):
        assert oracle.error(got, oracle.wide(want)) < 1e-5


def test_whether_a_tile_fits_with_all_its_maps():
    def fits(size: int, coils: int, columns: int = 1) -> bool:
        maps = jnp.zeros((coils, size, 128), jnp.complex64)
        return tpu_solve.fits(maps, jnp.ones((size, columns)))

    assert fits(144, 10)
    assert not fits(372, 16)
    assert not fits(144, 10, columns=128)


@pytest.mark.parametrize(("size", "loops"), [(144, 0), (372, 1)])
def test_the_loop_is_inside_the_kernel_where_it_fits(size, loops):
    arrays = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (
            ((2, size, 128), jnp.complex64),
            ((2, 16, size, 128), jnp.complex64),
            ((2, size, 1), jnp.float32),
        )
    ]
    with compat.target("tpu"):
        solve = functools.partial(solver("tpu"), lam=0.1)
        traced = jax.jit(solve).trace(*arrays)
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("custom_call @tpu_custom_call") == 1
    assert text.count("stablehlo.while") == loops
