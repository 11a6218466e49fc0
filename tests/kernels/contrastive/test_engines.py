"""One contract for every engine: float64, gradients, scales, transformations.

The fused engines run interpreted on the CPU, which finds races but takes seconds a
tile: the GPU's gets few cases and small ones, and is lowered for the rest.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from medjax_kernels import compat, contrastive
from medjax_kernels.contrastive import schedules, tpu, xla
from medjax_kernels.contrastive.targets import SMOOTHINGS
from medjax_kernels.contrastive.tile import Block, Sums
from tests.kernels.contrastive import oracle

FUSED = ("tpu", "gpu")
BF16_GRADIENT = 5e-3
"""A bf16 gradient is rounded once at its end, and G once before its product."""


class Engine(NamedTuple):
    """What an engine is tried on; sizes are ragged and take several tiles or chunks."""

    n: int
    d: int
    options: dict[str, Any] = {}
    dtype: Any = jnp.float32


ENGINES = {
    "xla": Engine(12, 8),
    "xla_chunked": Engine(12, 8, {"chunk": 5}),
    "tpu": Engine(130, 24),
    "gpu": Engine(40, 72, dtype=jnp.bfloat16),
}
CASES = [
    ("softmax", "identity"),
    ("softmax", "groups"),
    ("softmax", "dense"),
    ("softmax", "similarity"),
    ("sigmoid", "identity"),
    ("sigmoid", "groups_full"),
    ("sigmoid", "gaussian"),
]
FEW = [("softmax", "dense"), ("softmax", "similarity"), ("sigmoid", "groups_full")]


@pytest.mark.parametrize(
    ("engine", "loss", "kind", "scale"),
    [
        *(("xla", *case, 14.0) for case in CASES),
        *((engine, *case, 14.0) for engine in ("xla_chunked", "tpu") for case in FEW),
        ("gpu", "sigmoid", "groups_full", 14.0),
        ("gpu", "softmax", "similarity", 50.0),
    ],
)
def test_value_and_gradient_equal_float64(engine, loss, kind, scale):
    n, d, options, dtype = ENGINES[engine]
    function = oracle.loss(loss, implementation=engine, **options)
    which = (kind, n, d, dtype, scale)
    step = functools.partial(oracle.value_and_gradient, function)
    actual = oracle.run(engine, step, *oracle.problem(*which))
    expected = oracle.exact(loss, *which)
    value, gradient = oracle.errors(actual, expected)
    narrow = dtype == jnp.bfloat16
    # Kernels round the unit rows of a Similarity to bf16 features' dtype; here these
    # have six entries, with hundreds of them the error is smaller.
    assert value < (1e-3 if narrow and kind == "similarity" else 2e-6)
    assert gradient < (BF16_GRADIENT if narrow else 2e-6)
    for a, e in zip(actual[1][2:], expected[1][2:], strict=True):
        np.testing.assert_allclose(a, e, rtol=2e-3 if narrow else 1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("engine", "dtype"),
    [
        ("xla", jnp.float32),
        ("xla", jnp.bfloat16),
        ("xla", jnp.float16),
        ("xla_chunked", jnp.bfloat16),
        ("tpu", jnp.float32),
        ("tpu", jnp.bfloat16),
    ],
)
def test_stays_accurate_at_large_scales(engine, dtype):
    options = ENGINES[engine].options
    function = oracle.loss("softmax", implementation=engine, **options)
    step = jax.jit(jax.value_and_grad(function, (0, 1, 2, 3)))
    for scale in (14.0, 50.0, 100.0):
        which = ("identity", 96, 64, dtype, scale)
        actual = oracle.run(engine, step, *oracle.problem(*which))
        value, gradient = oracle.errors(actual, oracle.exact("softmax", *which))
        assert value < 2e-6
        tolerance = {"float32": 5e-6, "bfloat16": BF16_GRADIENT, "float16": 1e-3}
        assert gradient < tolerance[jnp.dtype(dtype).name]


def test_gpu_walks_tiles_and_chunks():
    # A width of five steps, more than the ring of shared memory has slots.
    which = ("identity", 130, 300, jnp.bfloat16, 100.0)
    function = oracle.loss("softmax", implementation="gpu", chunk=128)
    step = functools.partial(oracle.value_and_gradient, function)
    actual = oracle.run("gpu", step, *oracle.problem(*which))
    value, gradient = oracle.errors(actual, oracle.exact("softmax", *which))
    assert value < 2e-6 and gradient < BF16_GRADIENT


@pytest.mark.parametrize("engine", [xla.whole, xla.chunked])
def test_tiny_cotangents_survive_fp16(engine):
    """As of a batch of a million pairs, whose G fp16 cannot hold."""
    x, y, _ = oracle.batch(12, 8, jnp.float16)
    alive = jnp.ones(12, bool)
    scalars = jnp.float32(14), jnp.float32(0)
    block = Block(x, y, *scalars, {}, {}, alive, alive)
    plan = schedules.Plan("softmax", None, engine, None, ())
    sums, residual = schedules.run_forward(plan, block)
    run = functools.partial(schedules.run_backward, plan, block, residual, sums)
    cotangent = Sums(*[jnp.linspace(0.5, 1.0, 12)] * 6)
    tiny = run(jax.tree.map(lambda c: c * 2.0**-20, cotangent))
    for small, large in zip(tiny, run(cotangent), strict=True):
        np.testing.assert_allclose(small * 2.0**20, large, rtol=1e-6)


@pytest.mark.parametrize("engine", ["xla", "xla_chunked", "tpu"])
def test_vmap_is_a_loop(engine, monkeypatch):
    # The interpreter does not count the axis that vmap adds to a kernel's grid.
    monkeypatch.setattr(tpu, "SEMANTICS", None)
    n, d, options, _ = ENGINES[engine]
    batches = [oracle.batch(n, d, seed=s) for s in (0, 1)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *batches)
    targets = oracle.target("groups", n)
    function = jax.value_and_grad(
        oracle.loss("softmax", implementation=engine, **options), (0, 1)
    )

    def call(x, y, weights):
        return function(x, y, 14.0, 0.0, targets, weights)

    batched = oracle.run(engine, jax.jit(jax.vmap(call)), *stacked)
    single = jax.jit(call)
    for i in (0, 1):
        alone = oracle.run(engine, single, *(a[i] for a in stacked))
        for b, s in zip(jax.tree.leaves(batched), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(b[i], s, rtol=1e-5, atol=1e-6)


def over_devices(function, devices: int, **options: Any):
    """The loss of a batch that is split over devices."""
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    spec = P("data")
    return jax.shard_map(
        functools.partial(function, axis_name="data", **options),
        mesh=mesh,
        in_specs=(spec, spec, P(), spec),
        out_specs=P(),
    )


def soft_loss(x, y, scale, features, **options: Any):
    targets = contrastive.Similarity(features, strength=0.3)
    both = contrastive.softmax_loss(x, y, logit_scale=scale, targets=targets, **options)
    return sum(both)


def test_a_fused_engine_over_devices():
    """Ring and gather, whose blocks are the engine's, with the types checked."""
    x, y, _ = oracle.batch(16, 8)
    features = np.random.default_rng(4).normal(size=(16, 6)).astype(np.float32)
    arguments = (x, y, np.float32(14), jnp.asarray(features))
    step = jax.value_and_grad(soft_loss, (0, 1, 2))
    expected = jax.jit(step)(*arguments)
    for distributed in ("ring", "all_gather", "all_gather_both"):
        loss = over_devices(soft_loss, 2, distributed=distributed, implementation="tpu")
        everywhere = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
        actual = oracle.run("tpu", everywhere, *arguments)
        for a, e in zip(
            jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
        ):
            np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)


def lowered(engine: str, function: Any, n: int = 1024, d: int = 64) -> str:
    """StableHLO for a chip that is not here."""
    arrays = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (
            ((n, d), jnp.bfloat16),
            ((n, d), jnp.bfloat16),
            ((), jnp.float32),
            ((n, 64), jnp.float32),
        )
    ]
    with compat.target(engine):
        traced = jax.jit(function).trace(*arrays)
        platform = {"tpu": "tpu", "gpu": "cuda"}[engine]
        return traced.lower(lowering_platforms=(platform,)).as_text()


def kernels(engine: str, text: str) -> int:
    name = {"tpu": "tpu_custom_call", "gpu": "mosaic_gpu"}[engine]
    return text.count(f"custom_call @{name}")


@pytest.mark.parametrize("engine", FUSED)
@pytest.mark.parametrize("distributed", ["ring", "all_gather", "all_gather_both"])
def test_lowers_over_eight_devices(engine, distributed):
    loss = over_devices(soft_loss, 8, distributed=distributed, implementation=engine)
    step = jax.value_and_grad(loss, (0, 1, 2))
    # Around the ring the first block is one's own, the others are one loop's.
    visits = 2 if distributed == "ring" else 1
    expected = visits * {"tpu": 3, "gpu": 2}[engine]
    if distributed == "all_gather_both" and engine == "gpu":
        # G of rows and G of columns; a TPU's two products have a kernel each anyway.
        expected += 1
    assert kernels(engine, lowered(engine, step)) == expected


@pytest.mark.parametrize("engine", FUSED)
def test_lowers_under_vmap(engine):
    def loss(x, y, scale, features):
        halves = [a.reshape(2, -1, a.shape[1]) for a in (x, y, features)]
        each = functools.partial(soft_loss, implementation=engine)
        return jnp.sum(jax.vmap(lambda a, b, f: each(a, b, scale, f))(*halves))

    step = jax.value_and_grad(loss, (0, 1, 2))
    expected = {"tpu": 3, "gpu": 2}[engine]
    assert kernels(engine, lowered(engine, step)) == expected


@pytest.mark.parametrize("engine", FUSED)
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_every_smoothing_lowers(engine, smoothing):
    def loss(x, y, scale, features):
        targets = contrastive.Similarity(
            features, smoothing=smoothing, fill_diagonal=False
        )
        options = dict(logit_scale=scale, targets=targets, implementation=engine)
        return contrastive.sigmoid_loss(x, y, **options)

    assert kernels(engine, lowered(engine, loss)) == 1


def test_what_an_engine_cannot_run_it_refuses_by_name():
    x, y, _ = oracle.batch()
    call = functools.partial(contrastive.softmax_loss, logit_scale=14.0)
    refuse = functools.partial(pytest.raises, NotImplementedError)
    for engine in FUSED:
        with refuse(match=f"'{engine}': it runs on .*, not on 'cpu'"):
            call(x, y, implementation=engine)
    half = x.astype(jnp.float16)
    with compat.target("tpu"), refuse(match="bfloat16 or float32 .*, not float16"):
        call(half, half, implementation="tpu")
    wide = jnp.zeros((8, 2**14))
    with compat.target("tpu"), refuse(match="width 16384 do not fit into VMEM"):
        call(wide, wide, implementation="tpu")
    with compat.target("gpu"), refuse(match="exactly, float32 not"):
        call(x, y, implementation="gpu")
    with compat.target("gpu"), refuse(match="a Dense matrix must be read anyway"):
        dense = contrastive.Dense(jnp.eye(12))
        call(half, half, targets=dense, implementation="gpu")


def test_without_a_name_an_untimed_kernel_never_runs():
    x, y, _ = oracle.batch()
    for engine in FUSED:
        loss = functools.partial(contrastive.softmax_loss, logit_scale=14.0)
        with compat.target(engine):
            text = str(jax.make_jaxpr(loss)(x, y))
        assert "pallas" not in text and "mosaic" not in text
