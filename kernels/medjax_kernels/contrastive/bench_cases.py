"""What :mod:`medjax_kernels.bench` times of this operation, and against whom.

Bytes are those of the features and, in a step, of their gradients. FLOPs are the
schedule's: ``2 n^2 d`` for the logits, and in a step ``6 n^2 d`` where they are kept,
``8 n^2 d`` where they are computed twice; soft targets add ``2 n^2 p`` as often. Errors
are taken at logit scales of 14, 50 and 100, times at 50. All losses are the sum of both
directions (SigLIP's: its only one).
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from medjax_kernels import contrastive
from medjax_kernels.bench.case import Case, Contestant, Outputs
from medjax_kernels.contrastive import reference
from medjax_kernels.contrastive.shapes import SHAPES, Shape
from medjax_kernels.precision import accumulator

SCALES = (14.0, 50.0, 100.0)
TIMED_SCALE = 50.0
BIAS = -10.0
STRENGTH = 0.07
WHOLE_EXACT = 4096
"""Up to so many pairs the exact result comes from whole float64 matrices; beyond, from
the chunked engine in float64, which the tests hold to the same reference."""
Operation = Callable[..., Outputs]
Loss = Callable[..., Array]


def default_shapes(platform: str) -> tuple[str, ...]:
    """What is timed if no shape is named."""
    if platform == "cpu":
        return ("mflag", "imitate_global")
    return ("clip_4k", "clip_32k", "soft_32k")


def problem(shape: Shape, seed: int, scale: float = TIMED_SCALE) -> tuple:
    """Unit features, report features where the shape has such, the scale.

    Pairs resemble each other with a cosine of 0.1, as early in training: at 0.7 the
    loss is zero at a scale of 100, and there is no error relative to it.
    """
    rng = np.random.default_rng(seed)
    x, noise = rng.standard_normal((2, shape.n, shape.d), np.float32)
    y = x + 10 * noise
    x, y = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y))
    features = tuple(a.astype(jnp.dtype(shape.dtype)) for a in (x, y))
    if shape.p:
        features += (rng.standard_normal((shape.n, shape.p), np.float32),)
    return *features, np.asarray(scale, np.float32)


def softmax(
    x: Array, y: Array, scale: Array, reports: Array | None, **options: Any
) -> Array:
    """Ours: both directions."""
    targets: Any = contrastive.Identity()
    if reports is not None:
        targets = contrastive.Similarity(reports, strength=STRENGTH)
    options |= {"logit_scale": scale, "targets": targets}
    one, other = contrastive.softmax_loss(x, y, **options)
    return one + other


def sigmoid(
    x: Array, y: Array, scale: Array, reports: Array | None, **options: Any
) -> Array:
    """Ours, SigLIP's; hard targets."""
    del reports
    return contrastive.sigmoid_loss(x, y, logit_scale=scale, logit_bias=BIAS, **options)


def forward(loss: Loss, soft: bool) -> Operation:
    """The loss alone."""

    def run(x: Array, y: Array, *rest: Array) -> Outputs:
        reports = rest[0] if soft else None
        return {"loss": loss(x, y, rest[-1], reports)}

    return run


def step(loss: Loss, soft: bool) -> Operation:
    """The loss with the gradients of both features and the scale."""

    def run(x: Array, y: Array, *rest: Array) -> Outputs:
        reports = rest[0] if soft else None
        value, (by_x, by_y, by_scale) = jax.value_and_grad(loss, (0, 1, 2))(
            x, y, rest[-1], reports
        )
        return {"loss": value, "x": by_x, "y": by_y, "scale": by_scale}

    return run


def exact_loss(kind: str, soft: bool, n: int) -> Loss:
    """The loss in float64."""
    if n > WHOLE_EXACT:
        ours = softmax if kind == "softmax" else sigmoid
        return functools.partial(ours, implementation="xla_chunked")

    def loss(x: Array, y: Array, scale: Array, reports: Array | None) -> Array:
        weights = jnp.ones(n, x.dtype)
        targets: Any = contrastive.Identity()
        if kind == "sigmoid":
            return reference.sigmoid_loss(
                x,
                y,
                logit_scale=scale,
                logit_bias=BIAS,
                targets=targets,
                weights=weights,
            )
        if soft and reports is not None:
            targets = contrastive.Similarity(reports, strength=STRENGTH)
        one, other = reference.softmax_loss(
            x, y, logit_scale=scale, targets=targets, weights=weights
        )
        return one + other

    return loss


def naive(x: Array, y: Array, scale: Array, reports: Array | None = None) -> Array:
    """CLIP's loss as its paper's pseudocode has it: logits of all pairs, autodiff."""
    del reports
    logits = scale * _product(x, y)
    rows, columns = (jax.nn.log_softmax(logits, axis) for axis in (1, 0))
    return -jnp.mean(jnp.diagonal(rows)) - jnp.mean(jnp.diagonal(columns))


def checkpointed(
    x: Array, y: Array, scale: Array, reports: Array | None = None
) -> Array:
    """The same in 16 chunks of rows, each computed again in the backward pass."""
    del reports
    rows = x.reshape(16, -1, x.shape[1])
    positives = scale * jnp.sum(x.astype(scale.dtype) * y.astype(scale.dtype), 1)

    @jax.checkpoint
    def chunk(columns: Array, x: Array) -> tuple[Array, Array]:
        logits = scale * _product(x, y)
        columns = jnp.logaddexp(columns, jax.nn.logsumexp(logits, 0))
        return columns, jax.nn.logsumexp(logits, 1)

    empty = jnp.full(y.shape[0], -1e30, scale.dtype)
    by_column, by_row = jax.lax.scan(chunk, empty, rows)
    return jnp.mean(by_column) + jnp.mean(by_row) - 2 * jnp.mean(positives)


def _product(x: Array, y: Array) -> Array:
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jnp.matmul(
        x, y.T, precision=precision, preferred_element_type=accumulator(x.dtype)
    )


def _peer(module: str, name: str, *arguments: Any) -> Callable[[], Operation]:
    """A function of one of the adapters' modules, imported when it is wanted."""

    def make() -> Operation:
        path = f"medjax_kernels.contrastive.{module}"
        return getattr(importlib.import_module(path), name)(*arguments)

    return make


def cases(shape: str, platform: str) -> list[Case]:
    """The benchmarks of one named shape.

    Args:
        shape: a name of :data:`.shapes.SHAPES`.
        platform: of the chip: its engine takes part under that name.

    Returns:
        Forward pass and step with hard targets, the step with the shape's soft ones
        where it has such, and SigLIP's step.
    """
    s = SHAPES[shape]
    listed = [
        ("forward", "softmax", False),
        ("step", "softmax", False),
        ("sigmoid step", "sigmoid", False),
    ]
    if s.p:
        listed.insert(2, ("soft step", "softmax", True))
    return [_case(s, platform, *entry) for entry in listed]


def _case(s: Shape, platform: str, name: str, kind: str, soft: bool) -> Case:
    whole = forward if name == "forward" else step
    ours = softmax if kind == "softmax" else sigmoid
    engines = {"ours": None, "xla": "xla", "xla_chunked": "xla_chunked"}
    if platform != "cpu":
        engines[platform] = platform
    # Logits once, or once and twice more for the gradients; recomputed, once more.
    logits, targets = 2 * s.n**2 * s.d, 2 * s.n**2 * s.p * soft
    kept, again = (1, 1) if name == "forward" else (3, 4)
    unit = s.dtype
    contestants = [
        Contestant(
            label,
            functools.partial(
                whole, functools.partial(ours, implementation=engine), soft
            ),
            (kept if engine == "xla" else again) * logits
            + (1 if name == "forward" else 2) * targets,
            unit,
        )
        for label, engine in engines.items()
    ]
    if not soft:
        contestants += _peers(s, name, kind, whole, logits, unit)
    moved = 2 * s.n * s.d * np.dtype(jnp.dtype(s.dtype)).itemsize
    moved = (moved if name == "forward" else 2 * moved) + 4 * s.n * s.p * soft
    return Case(
        name,
        functools.partial(problem, s),
        whole(exact_loss(kind, soft, s.n), soft),
        moved,
        tuple(contestants),
        {f"scale {v:g}": functools.partial(problem, s, 0, v) for v in SCALES},
    )


def _peers(
    s: Shape, name: str, kind: str, whole: Any, logits: int, unit: str
) -> list[Contestant]:
    grad = name != "forward"
    kept, again = (3, 4) if grad else (1, 1)
    # Name, maker, logits' worth of FLOPs, --vs, modules.
    torch = ("torch",)
    triton = ("torch", "triton")
    listed: list[tuple[str, Any, int, str, tuple[str, ...]]] = [
        (
            "open_clip" if kind == "softmax" else "open_clip SigLIP",
            _peer("bench_torch", kind, grad),
            kept,
            "open_clip",
            torch,
        )
    ]
    if kind == "sigmoid":
        listed.append(
            (
                "siglip-kernel",
                _peer("bench_torch", "siglip_kernel", grad),
                kept,
                "siglip_kernel",
                (*triton, "siglip_kernel"),
            )
        )
    else:
        twice = 2 * kept
        listed += [
            ("xla naive", lambda: whole(naive, False), kept, "xla", ()),
            ("xla checkpointed", lambda: whole(checkpointed, False), again, "xla", ()),
            (
                "Inf-CL",
                _peer("bench_torch", "inf_cl", grad),
                10 if grad else 2,
                "inf_cl",
                (*triton, "inf_cl"),
            ),
            (
                "Liger",
                _peer("bench_torch", "liger", grad),
                twice,
                "liger",
                (*triton, "liger_kernel"),
            ),
            (
                "tokamax",
                _peer("bench_tokamax", "softmax", whole),
                twice,
                "tokamax",
                ("tokamax",),
            ),
        ]
    return [
        Contestant(label, make, times * logits, unit, peer, modules)
        for label, make, times, peer, modules in listed
    ]
