"""In which dtype products and sums are taken, whatever the features are."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def accumulator(dtype: Any) -> Any:
    """The dtype of logits, scores and sums: fp32, or fp64 if the features are."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


def product(
    subscripts: str, a: Float[Array, "..."], b: Float[Array, "..."]
) -> Float[Array, "..."]:
    """A matrix product with fp32 accumulation.

    fp32 features are taken at their word (no TF32, no bf16 passes): at a logit scale of
    100 an error of 1e-3 in a cosine is an error of 0.1 in a logit. bf16 features are
    multiplied exactly, at tensor-core rate.

    Args:
        subscripts: of ``jnp.einsum``.
        a: one factor.
        b: the other, of the same dtype.

    Returns:
        fp32, or fp64 if the factors are.
    """
    exact = a.dtype in (jnp.float32, jnp.float64)
    return jnp.einsum(
        subscripts,
        a,
        b,
        precision=jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.DEFAULT,
        preferred_element_type=accumulator(a.dtype),
    )
