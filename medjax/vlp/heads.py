"""Projection heads: from what a tower knows to the space where pairs are compared."""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax.nn.normalization import BatchNorm
from medjax.train.mesh import Statistics


class ProjectionHead(nn.Module):
    """Linear, BatchNorm, ReLU, Linear, BatchNorm without scale or shift.

    The head of IMITATE, M-FLAG and MGCA. A bias in front of a BatchNorm is cancelled by
    it, so neither linear layer has one.
    """

    hidden: int
    features: int
    statistics: Statistics = "global"
    """Whose share of the batch has BatchNorm statistics of its own."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b d"],
        *,
        train: bool,
        present: Float[Array, " b"] | None = None,
    ) -> Float[Array, "b e"]:
        """Projects.

        Args:
          x: features.
          train: whether the BatchNorms take the statistics of this batch.
          present: 1 for rows that enter them; None: all.
        """
        norm = functools.partial(BatchNorm, statistics=self.statistics)
        x = x.astype(jnp.float32)
        x = nn.Dense(self.hidden, use_bias=False, name="linear1")(x)
        x = norm(name="bn1")(x, train=train, present=present)
        x = nn.Dense(self.features, use_bias=False, name="linear2")(nn.relu(x))
        return norm(affine=False, name="bn2")(x, train=train, present=present)


class LinearHead(nn.Module):
    """One linear layer: the head of GLoRIA."""

    features: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b d"], *, train: bool = False
    ) -> Float[Array, "b e"]:
        """Projects; ``train`` is there to be called like `ProjectionHead`."""
        return nn.Dense(self.features, name="linear1")(x.astype(jnp.float32))


class MlpHead(nn.Module):
    """Linear, ReLU, Linear: the head of ConVIRT (section 2.2 of its paper)."""

    hidden: int | None
    """None: as wide as what comes in."""
    features: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b d"], *, train: bool = False
    ) -> Float[Array, "b e"]:
        """Projects; ``train`` is there to be called like `ProjectionHead`."""
        hidden = self.hidden or x.shape[-1]
        x = nn.relu(nn.Dense(hidden, name="linear1")(x.astype(jnp.float32)))
        return nn.Dense(self.features, name="linear2")(x)
