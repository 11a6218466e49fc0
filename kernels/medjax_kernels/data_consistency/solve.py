"""Conjugate gradients for ``(A^H A + lambda) x = r``, with an implicit gradient.

The solve is differentiated through the equation it solves instead of through its
iterations (MoDL, Aggarwal et al. 2018, arXiv 1712.02862): the backward pass is one more
solve with the cotangent on the right-hand side, and memory does not grow with the
number of iterations. Like MoDL's, that gradient is the exact one of the *converged*
solution; with few iterations it is as approximate as the solution itself.

A line mask makes the operator block-diagonal over readout positions. Then each of them
may run its own recurrence (``axes`` = the sampled axis), with its own step sizes: at
least as fast per iteration as one recurrence per image (MoDL's), and with no sum over
the image, which is what lets a kernel keep it on the chip.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Real

from medjax_kernels.data_consistency import layout

Operator = Callable[[Array, Array, Array], Array]
"""``(image, maps, mask) -> A^H A image``."""

Fused = Callable[[Array, Array, Array, Array], Array]
"""``(rhs, maps, mask, lam) -> x``: all iterations in one kernel."""


def conjugate_gradient(
    matvec: Callable[[Array], Array],
    rhs: Complex[Array, "*b h w"],
    *,
    axes: tuple[int, ...],
    iterations: int,
    tolerance: float,
) -> Complex[Array, "*b h w"]:
    """Hestenes and Stiefel's iteration from zero, one recurrence per block.

    Args:
        matvec: Hermitian positive (semi)definite operator on arrays like ``rhs``.
        rhs: right-hand sides; each is scaled by a power of two, so that squared norms
            neither overflow nor vanish.
        axes: the axes of one block; inner products are sums over them.
        iterations: at most so many.
        tolerance: a block stops once its residual is below ``tolerance`` times its
            right-hand side, and in any case once it is below the rounding error.

    Returns:
        The solutions. NaN in a block stays in that block.
    """
    peak = jnp.max(
        jnp.maximum(jnp.abs(rhs.real), jnp.abs(rhs.imag)), axes, keepdims=True
    )
    factor = layout.power_of_two(peak)
    rhs = layout.scale(rhs, factor)

    def inner(a: Array, b: Array) -> Array:
        return jnp.sum(a.real * b.real + a.imag * b.imag, axes, keepdims=True)

    start = inner(rhs, rhs)
    floor = max(tolerance, float(jnp.finfo(start.dtype).eps)) ** 2 * start

    def unfinished(residual: Array) -> Array:
        return ~(residual <= floor)  # true for NaN: it has to reach the solution

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        i, x, r, p, residual = state
        active = unfinished(residual)
        ap = matvec(p)
        curvature = jnp.where(active, inner(p, ap), 1)
        alpha = jnp.where(active, residual, 0) / curvature
        x = x + layout.scale(p, alpha)
        r = r - layout.scale(ap, alpha)
        updated = jnp.where(active, inner(r, r), residual)
        beta = jnp.where(active, updated / jnp.where(active, residual, 1), 0)
        return i + 1, x, r, r + layout.scale(p, beta), updated

    state = (jnp.zeros((), jnp.int32), jnp.zeros_like(rhs), rhs, rhs, start)
    if tolerance > 0:
        state = jax.lax.while_loop(
            lambda s: (s[0] < iterations) & jnp.any(unfinished(s[4])), step, state
        )
    else:
        # A fixed count lets a GPU run all iterations without asking the host.
        state = jax.lax.fori_loop(0, iterations, lambda _, s: step(s), state)
    return layout.scale(state[1], 1 / factor)


def _regularised(
    operator: Operator, x: Array, maps: Array, mask: Array, lam: Array
) -> Array:
    return operator(x, maps, mask) + layout.scale(x, lam)


def solve(
    operator: Operator,
    rhs: Complex[Array, "*b h w"],
    maps: Complex[Array, "*m c h w"],
    mask: Real[Array, "*k mh mw"],
    lam: Real[Array, "*l 1 1"],
    *,
    axes: tuple[int, ...],
    iterations: int,
    tolerance: float,
    fused: Fused | None = None,
) -> Complex[Array, "*b h w"]:
    """``x`` with ``A^H A x + lambda x = r``, differentiable in all four arrays.

    Args:
        operator: the normal operator, itself differentiable.
        rhs: right-hand sides ``r``.
        maps: sensitivity maps.
        mask: sampling weights.
        lam: weight of the identity, broadcast over the plane.
        axes: the axes of one block.
        iterations: at most so many.
        tolerance: relative to each block's right-hand side.
        fused: runs the same iterations instead of :func:`conjugate_gradient`.

    Returns:
        The solutions.
    """
    settings = (axes, iterations, tolerance, fused)
    return _solve(operator, settings, rhs, maps, mask, lam)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _solve(
    operator: Operator,
    settings: tuple[tuple[int, ...], int, float, Fused | None],
    rhs: Array,
    maps: Array,
    mask: Array,
    lam: Array,
) -> Array:
    axes, iterations, tolerance, fused = settings
    if fused is not None:
        return fused(rhs, maps, mask, lam)
    return conjugate_gradient(
        lambda x: _regularised(operator, x, maps, mask, lam),
        rhs,
        axes=axes,
        iterations=iterations,
        tolerance=tolerance,
    )


def _forward(operator: Operator, settings: tuple, *arrays: Array) -> tuple:
    x = _solve(operator, settings, *arrays)
    return x, (x, *arrays[1:])


def _backward(
    operator: Operator, settings: tuple, saved: tuple[Array, ...], cotangent: Array
) -> tuple[Array, ...]:
    x, *parameters = saved
    # JAX's cotangents transpose without conjugating; B is Hermitian, so B^T = conj(B).
    adjoint = jnp.conj(_solve(operator, settings, jnp.conj(cotangent), *parameters))
    _, pull = jax.vjp(functools.partial(_regularised, operator, x), *parameters)
    return (adjoint, *pull(-adjoint))


_solve.defvjp(_forward, _backward)
