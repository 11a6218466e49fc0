"""The fused kernels: interpreted on the CPU with race detection, and lowered."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from medjax_kernels import compat
from medjax_kernels import data_consistency as dc
from medjax_kernels.data_consistency import gpu
from tests.kernels.data_consistency import oracle

KERNELS = ("tpu", "gpu")
ERROR = {
    ("tpu", "highest"): 3e-7,
    ("tpu", "high"): 1e-5,
    ("tpu", "default"): 5e-3,
    ("gpu", "highest"): 5e-7,
    ("gpu", "default"): 5e-4,
}
"""Largest relative error of the whole operator, per implementation and precision."""


def lines_of(mask: jax.Array) -> int:
    return int(np.asarray(mask).sum((-2, -1)).max())


def interpreted(name, image, maps, mask, **options):
    """The operator by an interpreted kernel, with proof that nothing raced."""
    options = {"lines": lines_of(mask)} | options
    with compat.interpret(name):
        operator = functools.partial(dc.normal_operator, implementation=name, **options)
        result = jax.block_until_ready(jax.jit(operator)(image, maps, mask))
        assert not compat.races_found(name)
    return result


@pytest.mark.parametrize(("name", "precision"), list(ERROR))
def test_equals_the_reference_within_its_precision(name, precision):
    """Frames with masks of their own, maps they share, sizes that need padding."""
    image, maps, mask = oracle.problem("h", (12, 11), coils=2)
    case = (image[:, :2], maps, mask[:, :2])
    actual = interpreted(name, *case, precision=precision)
    exact = oracle.in_double(oracle.normal64, *case)
    assert oracle.error(actual, exact) < ERROR[name, precision]


@pytest.mark.parametrize("name", KERNELS)
def test_a_mask_along_the_width(name):
    image, maps, mask = oracle.problem("w", (7, 9), coils=2)
    case = (image[:1, :1], maps[:1], mask[:1, :1])
    exact = oracle.in_double(oracle.normal64, *case)
    assert oracle.error(interpreted(name, *case), exact) < 5e-7


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("magnitude", [1e-8, 1e6])
def test_any_magnitude_keeps_its_relative_accuracy(name, magnitude):
    image, maps, mask = oracle.problem("h", (12, 11), coils=2)
    case = (image[0, :1] * jnp.complex64(magnitude), maps[0], mask[0, :1])
    exact = oracle.in_double(oracle.normal64, *case)
    assert oracle.error(interpreted(name, *case), exact) < 5e-7


@pytest.mark.parametrize("name", KERNELS)
def test_zeros_stay_zero_and_nan_stays_in_its_image(name):
    image, maps, mask = oracle.problem("h", (12, 11), coils=2)
    image = image[0].at[0].set(0).at[1, 3, 4].set(jnp.nan)
    actual = interpreted(name, image, maps[0], mask[0])
    assert not np.asarray(actual[0]).any()
    assert np.isnan(np.asarray(actual[1])).any()
    assert np.isfinite(np.asarray(actual[2])).all()


@pytest.mark.parametrize("name", KERNELS)
def test_gradients_of_image_and_maps(name):
    image, maps, mask = oracle.problem("h", (12, 11), coils=2)
    image, maps, mask = image[:1, 0], maps[:1, 0], mask[:1, 0]
    target = oracle.cnormal(3, *image.shape)

    def loss(operator, image, maps, mask, target):
        return jnp.sum(jnp.abs(operator(image, maps, mask) - target) ** 2)

    ours = functools.partial(
        loss,
        functools.partial(
            dc.normal_operator, implementation=name, lines=lines_of(mask)
        ),
    )
    exact = functools.partial(loss, oracle.normal64)
    arrays = (image, maps, mask, target)
    with compat.interpret(name):
        actual = jax.jit(jax.grad(ours, argnums=(0, 1)))(*arrays)
        jax.block_until_ready(actual)
    expected = oracle.in_double(jax.grad(exact, argnums=(0, 1)), *arrays)
    for got, want in zip(actual, expected, strict=True):
        assert oracle.error(got, want) < 2e-6


@pytest.mark.parametrize("name", KERNELS)
def test_coils_dealt_to_several_blocks_and_every_other_operation(name):
    """The updates reach the kernel through the same projection."""
    image, maps, mask = (a[0, :1] for a in oracle.problem("h", (12, 11), coils=2))
    options = {"implementation": name, "lines": lines_of(mask)}
    measured = oracle.cnormal(4, *image.shape)
    with compat.interpret(name):
        blended = oracle.run(dc.blend_image, image, measured, mask, lam=0.5, **options)
        jax.block_until_ready(blended)
    plain = dc.blend_image(image, measured, mask, lam=0.5)
    np.testing.assert_allclose(blended, plain, atol=2e-6)


def lowered(name: str, transform, size: int = 64, coils: int = 2):
    """StableHLO for a chip that is not here; loops over lines are unrolled in it."""
    arrays = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (
            ((8, size, size), jnp.complex64),
            ((8, coils, size, size), jnp.complex64),
            ((8, size, 1), jnp.float32),
        )
    ]
    operator = functools.partial(dc.normal_operator, implementation=name, lines=64)
    with compat.target(name):
        platform = {"tpu": "tpu", "gpu": "cuda"}[name]
        traced = jax.jit(transform(operator)).trace(*arrays)
        return traced.lower(lowering_platforms=(platform,)).as_text()


def over_eight_devices(operator):
    auto = jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((8,), ("data",), axis_types=(auto,))
    spec = P("data")
    return jax.shard_map(operator, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec)


def gradient(operator):
    return jax.grad(
        lambda *arrays: jnp.sum(jnp.abs(operator(*arrays)) ** 2), argnums=(0, 1)
    )


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    ("transform", "kernels", "sizes"),
    [
        # Once of a size with several chunks of lines; the others are few to unroll.
        (lambda f: f, 1, {"size": 256, "coils": 8}),
        (gradient, 3, {}),
        (jax.vmap, 1, {}),
        (over_eight_devices, 1, {}),
    ],
    ids=["value", "gradient", "vmap", "shard_map"],
)
def test_lowers_to_one_kernel_an_application(name, transform, kernels, sizes):
    text = lowered(name, transform, **sizes)
    call = {"tpu": "tpu_custom_call", "gpu": "mosaic_gpu"}[name]
    assert text.count(f"custom_call @{call}") == kernels


def test_what_a_kernel_cannot_run_it_refuses_by_name():
    image, maps, mask = oracle.problem("h")
    plane = jnp.broadcast_to(mask, image.shape)
    refuse = functools.partial(pytest.raises, NotImplementedError)
    for name in KERNELS:
        with refuse(match=f"'{name}': it runs on .*, not on 'cpu'"):
            dc.normal_operator(image, maps, mask, implementation=name, lines=8)
        with compat.target(name), refuse(match="it takes line masks"):
            dc.normal_operator(image, maps, plane, implementation=name)
    with compat.target("gpu"), refuse(match="it needs lines="):
        dc.normal_operator(image, maps, mask, implementation="gpu")
    with compat.target("gpu"), refuse(match="do not fit into shared memory"):
        large = jnp.zeros((640, 8), jnp.complex64)
        ones = jnp.ones((640, 1))
        dc.normal_operator(large, large[None], ones, implementation="gpu", lines=160)


@pytest.mark.parametrize(
    ("blocks", "coils", "splits"), [(64, 16, 2), (256, 16, 1), (8, 16, 16), (1, 7, 7)]
)
def test_coils_are_dealt_so_that_the_chip_is_full(blocks, coils, splits):
    assert gpu.choose_splits(blocks, coils) == splits
