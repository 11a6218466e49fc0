"""Messages along the edges of meshes, on tables that are never scattered.

On the tables of :mod:`medjax.nn.tables` stand a step of message passing
(:class:`MessageStep`) and a V-cycle over levels of a mesh (:class:`VCycle`), in which
news crosses the whole heart in a dozen steps. What they took from GraphCast (Lam et
al., Science 2023): products before the gather, sums in float32 with the aggregate
normalised, and residuals throughout. Of its sharding by space nothing: one heart is a
few megabytes of features, so ``data`` and ``fsdp`` are what is split.
"""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from medjax.nn.normalization import LayerNorm
from medjax.nn.tables import Table, gather, mean_of, spread


class MessageStep(nn.Module):
    """One round of messages between neighbours, with a residual.

    With h the normalised features, a vertex hears of each neighbour j
    m = W_2 silu(W_s h_j + W_r h_i + W_e e_ij + b_1) + b_2, takes the mean, normalises
    it, and adds W_4 silu(W_3 [h_i, mean m] + b_3) + b_4 to what it had. W_s and W_r are
    applied to vertices, before the gather, and W_2 to the mean: the same function with
    K times fewer products. A vertex without neighbours hears 0.
    """

    width: int
    dtype: DTypeLike = jnp.float32
    """Of products and messages; sums, norms and the residual are float32."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*b n c"],
        edges: Float[Array, "*b q k e"],
        table: Table,
    ) -> Float[Array, "*b n c"]:
        """Features after the step, float32.

        Args:
          x: of vertices.
          edges: of a vertex and its neighbours, slot by slot.
          table: who the neighbours are.
        """

        def dense(name: str, *, bias: bool = False) -> nn.Dense:
            return nn.Dense(self.width, use_bias=bias, dtype=self.dtype, name=name)

        h = LayerNorm(dtype="float32", name="norm")(x)
        heard = gather(dense("sender")(h), table) + dense("edge")(edges)
        told = spread(dense("receiver", bias=True)(h), table)
        message = nn.silu(heard + told[..., None, :])
        mean = mean_of(message, table)
        some = (table.share > 0).astype(np.float32)
        mean = dense("message", bias=True)(mean) * some.reshape(
            (1,) * (x.ndim - 2) + (-1, 1)
        ).astype(self.dtype)
        mean = LayerNorm(dtype="float32", name="message_norm")(mean)
        both = jnp.concatenate([h, mean], axis=-1)
        update = nn.silu(dense("update_0", bias=True)(both))
        return x + dense("update_1", bias=True)(update).astype(jnp.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Descent:
    """The way from one level of a mesh to the next coarser one, and back.

    Attributes:
        members: finer vertices of every coarse one; pooling is their mean.
        between: coarse vertices that every finer one lies between.
        weights: of those.
    """

    members: Table
    between: Table
    weights: Float[np.ndarray, "n j"]


class VCycle(nn.Module):
    """Messages on every level from fine to coarse and back, with skip connections."""

    steps: tuple[int, ...]
    """Rounds per level on the way down, at the bottom, and on the way up."""
    width: int
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    """Compute every step again on the way back instead of keeping its messages."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*b n c"],
        edges: Sequence[Float[Array, "*b _ _ _e"]],
        tables: Sequence[Table],
        descents: Sequence[Descent],
    ) -> Float[Array, "*b n c"]:
        """Features of the finest level after the cycle.

        Args:
          x: of the finest vertices.
          edges: features of edges per level, finest first.
          tables: neighbours per level.
          descents: between the levels, one fewer.

        Raises:
          ValueError: If steps, edges, tables and descents do not fit each other.
        """
        levels = len(tables)
        if (len(self.steps), len(edges), len(descents)) != (
            *(2 * levels - 1, levels, levels - 1),
        ):
            raise ValueError(
                f"{len(self.steps)} numbers of steps, {len(edges)} sets of edges and "
                f"{len(descents)} descents for {levels} levels, expected "
                f"{2 * levels - 1}, {levels} and {levels - 1}"
            )
        step = nn.remat(MessageStep, static_argnums=(3,)) if self.remat else MessageStep
        encoded = [
            nn.Dense(self.width, dtype=self.dtype, name=f"edges_{i}")(e)
            for i, e in enumerate(edges)
        ]

        def rounds(x: Array, stage: int, level: int) -> Array:
            for i in range(self.steps[stage]):
                made = step(self.width, self.dtype, name=f"step_{stage}_{i}")
                x = made(x, encoded[level], tables[level])
            return x

        kept = []
        for level, descent in enumerate(descents):
            x = rounds(x, level, level)
            kept.append(x)
            x = mean_of(gather(x, descent.members), descent.members)
        x = rounds(x, levels - 1, levels - 1)
        for level in reversed(range(levels - 1)):
            descent = descents[level]
            weights = descent.weights.astype(np.float32)
            weights = weights.reshape((1,) * (x.ndim - 2) + (*weights.shape, 1))
            x = jnp.sum(gather(x, descent.between) * weights, axis=-2)
            x = rounds(x + kept[level], 2 * levels - 2 - level, level)
        return x
