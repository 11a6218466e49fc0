"""The losses as one would write them on a blackboard: the oracle of every engine.

Whole matrices, autodiff, no tricks; run it in float64 (``jax.enable_x64``) to judge.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax_kernels.contrastive.targets import Target


def target_matrix(targets: Target, alive: Float[Array, " n"]) -> Float[Array, "n n"]:
    """Y as a whole matrix, zero in the rows and columns of dead samples."""
    n = alive.shape[0]
    rule = targets.rule()
    rows, columns = targets.records(jnp.arange(n, dtype=jnp.int32))
    y = jnp.eye(n) if rule is None else rule(rows, columns)
    y = jax.lax.stop_gradient(y.astype(alive.dtype))
    return y * alive[:, None] * alive[None, :]


def logits(
    x: Float[Array, "n d"],
    y: Float[Array, "n d"],
    logit_scale: Float[Array, ""] | float,
    logit_bias: Float[Array, ""] | float,
) -> Float[Array, "n n"]:
    """S = logit_scale * x y^T + logit_bias."""
    precise = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    return logit_scale * precise + logit_bias


def softmax_loss(
    x: Float[Array, "n d"],
    y: Float[Array, "n d"],
    *,
    logit_scale: Float[Array, ""] | float,
    targets: Target,
    weights: Float[Array, " n"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """See :func:`medjax_kernels.contrastive.softmax_loss`."""
    s = logits(x, y, logit_scale, 0.0)
    alive = (weights > 0).astype(s.dtype)
    target = target_matrix(targets, alive)
    s = jnp.where(alive[:, None] * alive[None, :] > 0, s, -1e30)

    def one_way(s: jax.Array, target: jax.Array) -> jax.Array:
        mass = jnp.sum(target, axis=1, keepdims=True)
        if targets.normalise:
            target = target / jnp.where(mass > 0, mass, 1)
        cross_entropy = -jnp.sum(target * jax.nn.log_softmax(s, axis=1), axis=1)
        return jnp.sum(weights * cross_entropy) / jnp.sum(weights)

    return one_way(s, target), one_way(s.T, target.T)


def sigmoid_loss(
    x: Float[Array, "n d"],
    y: Float[Array, "n d"],
    *,
    logit_scale: Float[Array, ""] | float,
    logit_bias: Float[Array, ""] | float,
    targets: Target,
    weights: Float[Array, " n"],
) -> Float[Array, ""]:
    """See :func:`medjax_kernels.contrastive.sigmoid_loss`."""
    s = logits(x, y, logit_scale, logit_bias)
    alive = (weights > 0).astype(s.dtype)
    target = target_matrix(targets, alive)
    pairs = (weights[:, None] + weights[None, :]) / 2 * alive[:, None] * alive[None, :]
    likelihood = target * jax.nn.log_sigmoid(s) + (1 - target) * jax.nn.log_sigmoid(-s)
    return -jnp.sum(pairs * likelihood) / jnp.sum(weights)
