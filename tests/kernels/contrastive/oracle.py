"""Random batches, and the reference loss in float64 with its gradient."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax_kernels import compat, contrastive
from medjax_kernels.contrastive import Dense, Groups, Identity, Similarity, reference

TARGETS = ("identity", "groups", "groups_full", "dense", "similarity", "gaussian")
LOSSES = ("softmax", "sigmoid")


def unit(a: np.ndarray) -> np.ndarray:
    return a / np.linalg.norm(a, axis=-1, keepdims=True)


def batch(n: int = 12, d: int = 8, dtype: Any = jnp.float32, seed: int = 0) -> tuple:
    """Paired features that resemble each other, and weights of which some are zero."""
    rng = np.random.default_rng(seed)
    x = unit(rng.normal(size=(n, d)))
    y = unit(x + 0.7 * rng.normal(size=(n, d)))
    weights = rng.uniform(0.2, 2.0, n) * (np.arange(n) % 5 != 3)
    return jnp.asarray(x, dtype), jnp.asarray(y, dtype), jnp.asarray(weights, "float32")


def target(kind: str, n: int = 12) -> Any:
    rng = np.random.default_rng(5)
    features = rng.normal(size=(n, 6)).astype(np.float32)
    match kind:
        case "identity":
            return Identity()
        case "groups":
            return Groups(jnp.asarray(rng.integers(0, n // 3, n)))
        case "groups_full":
            return Groups(jnp.asarray(rng.integers(0, n // 3, n)), normalise=False)
        case "dense":
            return Dense(jnp.asarray(rng.uniform(size=(n, n)), jnp.float32))
        case "similarity":
            return Similarity(jnp.asarray(features), strength=0.5)
        case _:
            return Similarity(
                jnp.asarray(features),
                jnp.asarray(features[::-1]),
                smoothing="gaussian",
                fill_diagonal=False,
            )


def loss(kind: str, **options: Any) -> Callable[..., jax.Array]:
    """One scalar of (x, y, scale, bias, targets, weights); both directions differ."""

    def scalar(x, y, scale, bias, targets, weights):
        options_here = dict(
            logit_scale=scale,
            logit_bias=bias,
            targets=targets,
            weights=weights,
            **options,
        )
        if kind == "sigmoid":
            return contrastive.sigmoid_loss(x, y, **options_here)
        xy, yx = contrastive.softmax_loss(x, y, **options_here)
        return xy + 0.6 * yx

    return scalar


def value_and_gradient(function: Callable, *arguments: Any) -> tuple:
    """Value and gradient in x, y, scale and bias, jitted."""
    return jax.jit(jax.value_and_grad(function, (0, 1, 2, 3)))(*arguments)


def run(engine: str, function: Callable, *arguments: Any) -> Any:
    """The function's result; kernels are interpreted, with proof that nothing raced."""
    if engine not in ("tpu", "gpu"):
        return function(*arguments)
    with compat.interpret(engine):
        result = jax.block_until_ready(function(*arguments))
        assert not compat.races_found(engine)
    return result


@functools.cache
def problem(
    kind: str, n: int, d: int, dtype: Any = jnp.float32, scale: float = 14.0
) -> tuple:
    """Arguments of :func:`loss`."""
    x, y, weights = batch(n, d, dtype)
    return x, y, np.float32(scale), np.float32(-3.0), target(kind, n), weights


@functools.cache
def exact(loss_kind: str, *of_problem: Any) -> tuple:
    """The reference in float64 on :func:`problem`."""
    return in_double(loss_kind, *problem(*of_problem))


def in_double(kind: str, x, y, scale, bias, targets, weights) -> tuple:
    """Value and gradient of the reference in float64."""

    def scalar(x, y, scale, bias):
        if kind == "sigmoid":
            return reference.sigmoid_loss(
                x,
                y,
                logit_scale=scale,
                logit_bias=bias,
                targets=targets64,
                weights=weights64,
            )
        xy, yx = reference.softmax_loss(
            x, y, logit_scale=scale, targets=targets64, weights=weights64
        )
        return xy + 0.6 * yx

    def double(a: Any) -> Any:
        floating = jnp.issubdtype(a.dtype, jnp.floating)
        return jnp.asarray(np.asarray(a, np.float64)) if floating else a

    with jax.enable_x64(True):
        targets64, weights64 = jax.tree.map(double, targets), double(weights)
        arguments = [double(jnp.asarray(a)) for a in (x, y, scale, bias)]
        value, gradient = jax.value_and_grad(scalar, (0, 1, 2, 3))(*arguments)
        return jax.tree.map(np.asarray, (value, gradient))


def errors(actual: tuple, expected: tuple) -> tuple[float, float]:
    """Relative error of the value, and of the feature gradients by norm."""
    value = abs(float(actual[0]) - float(expected[0])) / abs(float(expected[0]))
    both = zip(actual[1][:2], expected[1][:2], strict=True)
    gradient = max(
        np.linalg.norm(np.asarray(a, np.float64) - e) / np.linalg.norm(e)
        for a, e in both
    )
    return value, float(gradient)
