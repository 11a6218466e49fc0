"""Laws that linear operators obey, as assertions shared by every room's tests.

Operators are jitted here: one compilation each, instead of one per array operation.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def complex_normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A complex64 array of unit variance."""
    return jax.random.normal(key, shape, dtype=jnp.complex64)


def inner(x: jax.Array, y: jax.Array) -> complex:
    """The inner product <x, y>, conjugating x, in double precision."""
    return complex(np.vdot(np.asarray(x, np.complex128), np.asarray(y, np.complex128)))


def norm(x: jax.Array) -> float:
    """The Euclidean norm of a whole array."""
    return float(np.sqrt(inner(x, x).real))


def assert_adjoint(
    forward: Callable[[jax.Array], jax.Array],
    adjoint: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    y: jax.Array,
    *,
    rtol: float = 1e-5,
) -> None:
    """<A x, y> = <x, A^H y>, relative to the sizes of the two sides."""
    image, back = jax.jit(forward)(x), jax.jit(adjoint)(y)
    assert image.shape == y.shape and back.shape == x.shape
    left, right = inner(image, y), inner(x, back)
    scale = max(norm(image) * norm(y), norm(x) * norm(back))
    assert abs(left - right) <= rtol * scale, (left, right)


def assert_unitary(
    forward: Callable[[jax.Array], jax.Array],
    inverse: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    *,
    rtol: float = 1e-5,
) -> None:
    """The operator keeps the norm, and its adjoint undoes it."""
    y = jax.jit(forward)(x)
    np.testing.assert_allclose(norm(y), norm(x), rtol=rtol)
    back = jax.jit(inverse)(y)
    assert norm(np.asarray(back) - np.asarray(x)) <= rtol * norm(x)


def assert_projection(
    operator: Callable[[jax.Array], jax.Array], x: jax.Array, *, rtol: float = 1e-5
) -> None:
    """Applying the operator a second time changes nothing."""
    operator = jax.jit(operator)
    once = operator(x)
    assert norm(np.asarray(operator(once)) - np.asarray(once)) <= rtol * norm(once)


def assert_linear(
    operator: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    y: jax.Array,
    *,
    factor: complex = 0.7 - 1.3j,
    rtol: float = 1e-5,
) -> None:
    """A(x + a y) = A x + a A y."""
    operator = jax.jit(operator)
    x, y = np.asarray(x), np.asarray(y)
    a = x.dtype.type(factor)
    together = np.asarray(operator(x + a * y))
    apart = np.asarray(operator(x)) + a * np.asarray(operator(y))
    assert norm(together - apart) <= rtol * norm(together)
