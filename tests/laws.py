"""Laws that linear operators obey, as assertions shared by every room's tests."""

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
    image, back = forward(x), adjoint(y)
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
    y = forward(x)
    np.testing.assert_allclose(norm(y), norm(x), rtol=rtol)
    assert norm(inverse(y) - x) <= rtol * norm(x)


def assert_projection(
    operator: Callable[[jax.Array], jax.Array], x: jax.Array, *, rtol: float = 1e-5
) -> None:
    """Applying the operator a second time changes nothing."""
    once = operator(x)
    assert norm(operator(once) - once) <= rtol * norm(once)


def assert_linear(
    operator: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    y: jax.Array,
    *,
    factor: complex = 0.7 - 1.3j,
    rtol: float = 1e-5,
) -> None:
    """A(x + a y) = A x + a A y."""
    a = jnp.asarray(factor, x.dtype)
    together = operator(x + a * y)
    apart = operator(x) + a * operator(y)
    assert norm(together - apart) <= rtol * norm(together)
