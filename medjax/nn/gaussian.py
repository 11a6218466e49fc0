"""Normal distributions of latents: drawn from, and how far one is from another."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Gaussian(NamedTuple):
    """Independent normal variables.

    Attributes:
        mean: Of each.
        log_variance: Of each.
    """

    mean: Float[Array, "*s"]
    log_variance: Float[Array, "*s"]

    def at(self, noise: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The value for a draw of a standard normal."""
        return self.mean + jnp.exp(0.5 * self.log_variance) * noise


def divergence(first: Gaussian, second: Gaussian) -> Float[Array, "*s"]:
    """Kullback-Leibler divergence of the first to the second, of each variable, nats.

    Args:
        first: The posterior.
        second: The prior; it broadcasts.
    """
    ratio = first.log_variance - second.log_variance
    gap = jnp.square(first.mean - second.mean) * jnp.exp(-second.log_variance)
    return 0.5 * (jnp.exp(ratio) + gap - 1.0 - ratio)
