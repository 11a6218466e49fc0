"""The fused engines, lowered for chips that are not here, and what they refuse."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from medjax_kernels import compat
from medjax_kernels.word_region import global_similarity, word_region_similarity
from medjax_kernels.word_region.shapes import SHAPES
from tests.kernels.word_region import oracle


def lowered(name: str, transform, shape: str = "gloria_bf16") -> str:
    """StableHLO for a chip that is not here."""
    s = SHAPES[shape]
    words = jax.ShapeDtypeStruct((s.reports, s.words, s.d), s.dtype)
    regions = jax.ShapeDtypeStruct((s.images, s.regions, s.d), s.dtype)
    function = functools.partial(word_region_similarity, implementation=name)
    with compat.target(name):
        platform = {"tpu": "tpu", "gpu": "cuda"}[name]
        traced = jax.jit(transform(function)).trace(words, regions)
        return traced.lower(lowering_platforms=(platform,)).as_text()


def gradient(function):
    return jax.grad(lambda *arrays: jnp.sum(function(*arrays) ** 2), argnums=(0, 1))


def mapped(function):
    return lambda words, regions: jax.vmap(function)(words[None], regions[None])


def over_eight_devices(function):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    local = functools.partial(global_similarity, axis_name="data", **function.keywords)
    spec = P("data")
    return jax.shard_map(local, mesh=mesh, in_specs=(spec, spec), out_specs=spec)


@pytest.mark.parametrize("name", oracle.FUSED)
@pytest.mark.parametrize(
    "transform", [lambda f: f, mapped, over_eight_devices], ids=["", "vmap", "shards"]
)
def test_lowers_to_one_kernel(name, transform):
    text = lowered(name, transform)
    call = {"tpu": "tpu_custom_call", "gpu": "mosaic_gpu"}[name]
    assert text.count(f"custom_call @{call}") == 1


@pytest.mark.parametrize(("name", "kernels"), [("tpu", 3), ("gpu", 1)])
def test_gradient_is_two_kernels_more_on_a_tpu_and_xla_on_a_gpu(name, kernels):
    call = {"tpu": "tpu_custom_call", "gpu": "mosaic_gpu"}[name]
    text = lowered(name, gradient)
    assert text.count(f"custom_call @{call}") == kernels
    assert ("stablehlo.while" in text) == (name == "gpu")


@pytest.mark.parametrize(
    ("name", "dtype", "sizes", "options", "message"),
    [
        ("tpu", "float16", (7, 10, 16), {}, "bfloat16 or float32 .*, not float16"),
        ("tpu", "float32", (1024, 1024, 1024), {}, "do not fit into VMEM"),
        ("gpu", "float32", (7, 10, 16), {}, "float16 features, not float32"),
        ("gpu", "float16", (7, 10, 16), {"temp1": 50.0}, "temp1 up to 40.0, not 50.0"),
        ("gpu", "float16", (200, 10, 16), {}, "up to 128 words, not 200"),
        ("gpu", "float16", (128, 1024, 16), {}, "do not fit into shared memory"),
    ],
)
def test_what_an_engine_cannot_run_it_refuses_by_name(
    name, dtype, sizes, options, message
):
    t, r, d = sizes
    shapes = (jax.ShapeDtypeStruct((2, n, d), dtype) for n in (t, r))
    call = functools.partial(word_region_similarity, implementation=name, **options)
    with compat.target(name), pytest.raises(NotImplementedError, match=message):
        jax.eval_shape(call, *shapes)


@pytest.mark.parametrize("name", oracle.FUSED)
def test_a_chip_that_is_not_here_is_refused(name):
    b = oracle.batch()
    with pytest.raises(
        NotImplementedError, match=f"'{name}': it runs .*, not on 'cpu'"
    ):
        word_region_similarity(b.words, b.regions, implementation=name)
