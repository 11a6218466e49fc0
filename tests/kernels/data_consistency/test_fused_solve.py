"""The proximal solves that stay on a chip, interpreted with race detection."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax_kernels import compat
from medjax_kernels import data_consistency as dc
from medjax_kernels.data_consistency import gpu_solve, tpu_solve
from tests.kernels.data_consistency import oracle

KERNELS = ("tpu", "gpu")
MODULES = {"tpu": tpu_solve, "gpu": gpu_solve}
CALL = {"tpu": "tpu_custom_call", "gpu": "mosaic_gpu"}
LAM = jnp.asarray([0.3, 0.8])  # one value per frame


@pytest.fixture
def only_the_kernel(name, monkeypatch):
    """Let no solve fall back on the kernel that runs once per iteration."""
    calls = []
    solve = MODULES[name].solve
    monkeypatch.setattr(
        MODULES[name], "solve", lambda *a, **o: (calls.append(1), solve(*a, **o))[1]
    )
    yield
    assert calls


def solver(implementation, mask, iterations=3, **options):
    if implementation == "gpu":
        lines = int(np.asarray(mask).sum((-2, -1)).max())
        options = {"lines": lines} | options
    return functools.partial(
        dc.proximal_solve,
        iterations=iterations,
        per_readout=True,
        implementation=implementation,
        **options,
    )


def interpreted(name, rhs, maps, mask, lam, **options):
    """The solve by an interpreted kernel, with proof that nothing raced."""
    with compat.interpret(name):
        solve = functools.partial(solver(name, mask, **options), lam=lam)
        x = jax.block_until_ready(jax.jit(solve)(rhs, maps, mask))
        assert not compat.races_found(name)
    return x


def plain(rhs, maps, mask, lam, **options):
    """The same recurrence with XLA's operator."""
    solve = functools.partial(solver("xla_fft", mask, **options), lam=lam)
    return oracle.wide(jax.jit(solve)(rhs, maps, mask))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("kind", "tolerance"), [("h", 0.0), ("w", 0.2)])
def test_runs_the_same_iterations_without_a_race(
    name, kind, tolerance, only_the_kernel
):
    """Frames with masks of their own, maps they share, sizes that need padding."""
    rhs, maps, mask = oracle.problem(kind, (12, 11), coils=2)
    arrays = rhs[:1, :2], maps[:1], mask[:1, :2]
    rhs = arrays[0].at[0, 0].set(0) if kind == "w" else arrays[0]
    arrays = rhs, *arrays[1:]
    actual = interpreted(name, *arrays, LAM, tolerance=tolerance)
    assert oracle.error(actual, plain(*arrays, LAM, tolerance=tolerance)) < 2e-6
    if kind == "w":
        assert not np.asarray(actual[0, 0]).any()


@pytest.mark.parametrize("name", ["gpu"])
@pytest.mark.parametrize(
    ("precision", "coils", "lines", "error"),
    [("default", 9, 60, 5e-4), ("default", 9, 100, 5e-4), ("highest", 6, 60, 1e-6)],
    ids=["two groups of eight coils", "two blocks of lines", "three pairs of coils"],
)
def test_several_chunks_and_groups_of_coils(
    name, precision, coils, lines, error, only_the_kernel
):
    """An odd number of lines whose fold crosses a chunk; each image with own maps."""
    rhs, maps, mask = oracle.problem("h", (131, 3), coils=coils)
    arrays = rhs[:, 0], maps[:, 0], mask[:, 0]
    options = {"iterations": 2}
    actual = interpreted(
        name, *arrays, LAM, precision=precision, lines=lines, **options
    )
    assert oracle.error(actual, plain(*arrays, LAM, **options)) < error


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("image", "map_"), [(1e-8, 1e3), (1e6, 1e-3)])
def test_any_magnitude_keeps_its_relative_accuracy(name, image, map_, only_the_kernel):
    rhs, maps, mask = (a[0, :1] for a in oracle.problem("h", (12, 7), coils=2))
    arrays = rhs * jnp.complex64(image), maps * jnp.complex64(map_), mask
    lam = 0.3 * map_**2
    actual = interpreted(name, *arrays, lam)
    assert oracle.error(actual, plain(*arrays, lam)) < 2e-6


@pytest.mark.parametrize("name", ["gpu"])
def test_float16_does_not_lose_a_small_direction(name, only_the_kernel):
    """All lines sampled: what the second iteration sees is rounding, below 6e-8."""
    _, maps, mask = (a[0, :1] for a in oracle.problem("h", (64, 3), coils=2))
    rhs = jnp.zeros((1, 64, 3), jnp.complex64).at[0, 33].set(0.51)
    x = interpreted(name, rhs, maps, jnp.ones_like(mask), 0.0)
    assert oracle.error(x, oracle.wide(rhs)) < 1e-6


@pytest.mark.parametrize("name", KERNELS)
def test_nan_stays_in_its_readout_position(name, only_the_kernel):
    rhs, maps, mask = (a[0, :1] for a in oracle.problem("h", (12, 11), coils=2))
    rhs = rhs.at[0, 3, 5].set(jnp.nan)
    x = np.array(interpreted(name, rhs, maps, mask, 0.5))
    assert np.isnan(x[0, :, 5]).any()
    x[0, :, 5] = 0
    assert np.isfinite(x).all()


@pytest.mark.parametrize("name", ["gpu"])
def test_more_lines_than_promised_give_nan(name, only_the_kernel):
    rhs, maps, mask = (a[0, :1] for a in oracle.problem("h", (12, 7), coils=2))
    assert np.isnan(np.asarray(interpreted(name, rhs, maps, mask, 0.5, lines=1))).any()


@pytest.mark.parametrize("name", KERNELS)
def test_implicit_gradient(name, only_the_kernel):
    rhs, maps, mask = (a[0, :1] for a in oracle.problem("h", coils=2))
    target = oracle.cnormal(5, *rhs.shape)

    def loss(solve, rhs, maps, lam):
        return jnp.sum(jnp.abs(solve(rhs, maps, mask, lam=lam) - target) ** 2)

    def gradient(implementation):
        solve = solver(implementation, mask, iterations=2)
        grad = jax.grad(functools.partial(loss, solve), (0, 1, 2))
        return jax.jit(grad)(rhs, maps, LAM[:1])

    expected = gradient("xla_fft")
    with compat.interpret(name):
        actual = jax.block_until_ready(gradient(name))
    for got, want in zip(actual, expected, strict=True):
        assert oracle.error(got, oracle.wide(want)) < 1e-5


def test_whether_a_tpu_tile_fits_with_all_its_maps():
    def fits(size: int, coils: int, columns: int = 1) -> bool:
        maps = jnp.zeros((coils, size, 128), jnp.complex64)
        return tpu_solve.fits(maps, jnp.ones((size, columns)))

    assert fits(144, 10)
    assert not fits(372, 16)
    assert not fits(144, 10, columns=128)


@pytest.mark.parametrize(
    ("size", "coils", "lines", "precision", "together"),
    [
        (256, 16, 64, "default", 8),
        (144, 10, 40, "default", 8),
        (256, 2, 64, "default", 2),
        (256, 16, 128, "default", 4),
        (256, 16, 192, "default", None),
        (256, 8, 64, "highest", 2),
        (256, 16, 64, "highest", None),
        (372, 4, 64, "default", None),
    ],
)
def test_how_many_coils_a_gpu_block_multiplies_at_once(
    size, coils, lines, precision, together
):
    assert gpu_solve.choose_together(size, coils, lines, precision) == together
    maps = jnp.zeros((coils, size, 8), jnp.complex64)
    fits = functools.partial(gpu_solve.fits, maps, lines=lines, precision=precision)
    assert fits(jnp.ones((size, 1))) == (together is not None)
    assert not fits(jnp.ones((size, 8)))


def lowered(name: str, size: int, precision: str) -> str:
    """StableHLO of a solve with 16 coils for a chip that is not here."""
    arrays = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (
            ((2, size, 128), jnp.complex64),
            ((2, 16, size, 128), jnp.complex64),
            ((2, size, 1), jnp.float32),
        )
    ]
    options = {"lines": 64, "precision": precision, "lam": 0.1}
    with compat.target(name):
        solve = functools.partial(solver(name, jnp.ones((1, 1)), **options))
        platform = {"tpu": "tpu", "gpu": "cuda"}[name]
        traced = jax.jit(jax.vmap(solve)).trace(*arrays)
        return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(
    ("name", "size", "precision", "loops"),
    [
        ("tpu", 144, "highest", 0),
        ("tpu", 372, "highest", 1),
        ("gpu", 256, "default", 0),
        ("gpu", 256, "highest", 1),
    ],
)
def test_the_loop_is_inside_the_kernel_where_it_fits(name, size, precision, loops):
    text = lowered(name, size, precision)
    assert text.count(f"custom_call @{CALL[name]}") == 1
    assert text.count("stablehlo.while") == loops
