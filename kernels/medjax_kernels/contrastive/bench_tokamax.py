"""tokamax's linear cross-entropy as a contrastive loss: once per direction.

The other modality's features are the weights of the vocabulary. Written for 0.0.17.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import tokamax  # pyright: ignore[reportMissingImports]
from jaxtyping import Array


def softmax(whole: Callable[..., Any]) -> Callable[..., Any]:
    """The contestant.

    Args:
        whole: forward pass or step around a loss.
    """

    def loss(x: Array, y: Array, scale: Array, reports: Array | None = None) -> Array:
        del reports
        labels = jnp.arange(x.shape[0])
        one, other = (
            tokamax.linear_softmax_cross_entropy_loss(
                a * scale.astype(a.dtype), labels, b.T, reduction="mean"
            )
            for a, b in ((x, y), (y, x))
        )
        return one + other

    return whole(loss, False)
