"""Contrast between radiographs and reports over the global batch.

Every contrastive system of this room calls :func:`contrast`, which hands the work to
``medjax_kernels.contrastive``: the similarity matrix is formed in tiles, soft targets
are computed per tile from report features, and nothing of size N x N is kept when
``chunk`` is set. Under a mesh the batch is sharded and the call runs inside
``jax.shard_map``, so that the loss and its gradient equal those of one device holding
the whole batch. Contrasts that share an embedding or a prior run inside one
(:func:`on_each_device`), where each travels once.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from medjax.train.mesh import batch_axes
from medjax_kernels.contrastive import Exchange, Identity, softmax_loss
from medjax_kernels.contrastive.exchange import Distributed
from medjax_kernels.contrastive.targets import Target
from medjax_kernels.precision import accumulator

ContrastImplementation = Literal["xla", "xla_chunked", "gpu", "tpu"]


@dataclasses.dataclass(frozen=True)
class ContrastConfig:
    """How the contrastive similarity is computed; never what it is."""

    chunk: int | None = None
    """Rows of the similarity matrix held at a time; None holds the whole matrix."""
    distributed: Distributed = "all_gather"
    """How devices see each other's features: one gather of y, whose gradient travels
    back; a gather of x as well, and no gradient travels; or a ring of neighbours."""
    negatives: Literal["global", "local"] = "global"
    """Contrast against the global batch, or (as released code does) per device."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the features that are multiplied. bfloat16 runs on tensor cores, as the
    ``gpu`` kernel insists; logits and sums are fp32 in both cases."""
    wire: Literal["float32", "bfloat16"] = "float32"
    """Of float32 features and priors on their way between devices that gather them.
    bfloat16 halves what travels and rounds it once, by 2^-8 at most: a logit moves by
    2^-8 / temperature at the most (twice that where x travels too), usually by a
    fiftieth of it. Priors are rounded on both sides, and multiplied at the rate of
    bfloat16. Gradients that travel are float32, and are added so."""
    implementation: ContrastImplementation | None = None
    """Kernel implementation; None picks the best for platform and shape."""


def normalise(x: Float[Array, "*b d"], *, eps: float = 1e-12) -> Float[Array, "*b d"]:
    """Unit L2 norm along the last axis; a zero vector stays zero.

    In fp32, or in fp64 where that comes in.
    """
    x = x.astype(accumulator(x.dtype))
    # The maximum is taken on the square: the norm itself has no gradient at zero.
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, eps**2))


def on_each_device(
    losses: Callable[..., Any], config: ContrastConfig | None = None
) -> Callable[..., Any]:
    """Losses of the global batch from what each device holds of it.

    Args:
      losses: Of an exchange, to be handed to every :func:`contrast` in it, and of trees
        whose arrays lead with the batch axis; returns a tree of scalars.
      config: Of the contrasts.

    Returns:
      The same function without the exchange, of the global batch, sharded or not.
    """
    config = config or ContrastConfig()
    axes = batch_axes()
    everywhere = axes if config.negatives == "global" else ()

    def local(*arguments: Any) -> Any:
        exchange = Exchange(everywhere, config.distributed, config.wire)
        found = losses(exchange, *arguments)
        return jax.lax.pmean(found, axes) if axes and not everywhere else found

    # Leaves of a target (features, ids, dense rows) lead with the batch axis too.
    return jax.shard_map(local, in_specs=P(axes), out_specs=P()) if axes else local


def contrast(
    x: Float[Array, "b d"],
    y: Float[Array, "b d"],
    *,
    temperature: float,
    targets: Target | None = None,
    weights: Float[Array, " b"] | None = None,
    config: ContrastConfig | None = None,
    exchange: Exchange | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Symmetric softmax contrast of paired features, one number per direction.

    With S = x y^T / temperature and targets Y, the first number is the weighted mean
    over rows of -sum_j Y_ij log softmax_j(S_i), the second the same of S^T and Y^T.
    Published systems add the two (GLoRIA, MGCA, IMITATE), average them (CLIP) or weigh
    them (ConVIRT): that is the caller's line.

    Args:
      x: unit-norm features, fp32 (fp64 stays so); the global batch, sharded or not.
      y: unit-norm features paired with x row by row.
      temperature: divisor of the cosine similarity.
      targets: a target of ``medjax_kernels.contrastive``; None: the pair alone.
      weights: one non-negative weight per pair. A pair of weight zero takes no part,
        neither as anchor nor as negative.
      config: tiling, distribution and kernel choice.
      exchange: of :func:`on_each_device`, if this is one of its contrasts.

    Returns:
      The contrast of x against y and of y against x.
    """
    config = config or ContrastConfig()
    targets = Identity() if targets is None else targets
    if exchange is None:

        def alone(exchange: Exchange, *arrays: Any) -> tuple[Array, Array]:
            x, y, targets, weights = arrays
            return contrast(
                x,
                y,
                temperature=temperature,
                targets=targets,
                weights=weights,
                config=config,
                exchange=exchange,
            )

        return on_each_device(alone, config)(x, y, targets, weights)
    dtype = x.dtype if x.dtype == jnp.float64 else jnp.dtype(config.dtype)

    def multiplied(features: Array) -> Array:
        return exchange.once(("as", dtype), features, lambda: features.astype(dtype))

    return softmax_loss(
        multiplied(x),
        multiplied(y),
        logit_scale=1.0 / temperature,
        targets=targets,
        weights=weights,
        exchange=exchange,
        chunk=config.chunk,
        implementation=config.implementation,
    )
