"""Normalisation layers with PyTorch's semantics and float32 statistics.

Batch normalisation (Ioffe and Szegedy, 2015) is where re-implementations drift apart
without a sound: Flax keeps 0.99 of the old statistics where PyTorch keeps 0.9 (and
calls the other share "momentum"), and updates the running variance with the biased
estimate where PyTorch takes the unbiased one. A network that starts from, or goes back
to, published weights needs PyTorch's. So do papers whose projection heads end in
a batch norm: there it decides what collapses and what does not.

Statistics are taken over the global batch, whatever devices hold it (PyTorch calls this
``SyncBatchNorm``). Most published runs did not: every device normalised its own share.
``statistics="device"`` gives those back, and saves what devices would tell each other
in the forward pass; ``"host"`` keeps it off the network between hosts. Both are read
from the mesh that the call runs under, so a run means the same on any number of devices
only with ``"global"``.

Everything here computes in float32 and returns ``dtype``.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from medjax.train.mesh import Statistics, batch_axes, statistics_groups


class BatchNorm(nn.Module):
    """PyTorch's ``BatchNorm1d``/``BatchNorm2d``, channels last.

    The collection ``batch_stats`` holds ``mean`` and ``var``; a call with
    ``train=True`` needs it mutable. ``affine=False`` leaves out scale and shift.
    """

    momentum: float = 0.1
    """Share of the new statistics in the running ones."""
    epsilon: float = 1e-5
    affine: bool = True
    frozen: bool = False
    """Always normalise with the running statistics, and never update them."""
    statistics: Statistics = "global"
    """Whose share of the batch is normalised with statistics of its own: each device's,
    each host's, or the whole. The running statistics take the mean over shares."""
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    """Of the scale, where there is one."""
    dtype: DTypeLike = "float32"
    """Of the output."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b *space c"],
        *,
        train: bool,
        present: Float[Array, " b"] | None = None,
    ) -> Float[Array, "b *space c"]:
        """Normalises each channel over the batch and all positions.

        Args:
          x: Features, any number of spatial axes between batch and channels.
          train: Whether to use, and remember, the statistics of this batch.
          present: 1 for examples that the statistics are taken over, 0 for those that
            are only normalised; None: all count. A share with fewer than two values
            takes the running statistics, and leaves them as they are.

        Returns:
          The normalised features, in ``dtype``.

        Raises:
          ValueError: The batch does not divide into shares, or a share holds a single
            value per channel, which has no variance.
        """
        channels = x.shape[-1]
        shape = (channels,)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        y = x.astype(jnp.float32)
        batch = train and not self.frozen and not self.is_initializing()
        if batch:
            y = self._split(y)
            axes = tuple(range(1, y.ndim - 1))
            weight = jnp.ones(y.shape[:2]) if present is None else present
            weight = weight.reshape(*y.shape[:2], *(1,) * (y.ndim - 2))
            positions = math.prod(y.shape[2:-1])
            count = jnp.sum(weight, axes, keepdims=True) * positions
            enough = count > 1
            # One pass over memory instead of two. E[x^2] - E[x]^2 loses its digits if
            # the mean is large beside the deviation; measured from a constant that is
            # about a deviation from the mean, the same formula does not.
            near, seen = self._near_mean(y, weight)
            shift = jnp.where(enough & seen, near, self._wide(mean.value, y))
            centred = y - shift
            share = jnp.where(enough, weight / jnp.maximum(count, 1.0), 0.0)
            if present is None:
                offset = jnp.mean(centred, axes, keepdims=True)
                square = jnp.mean(jnp.square(centred), axes, keepdims=True)
            else:
                offset = jnp.sum(share * centred, axes, keepdims=True)
                square = jnp.sum(share * jnp.square(centred), axes, keepdims=True)
            variance = jnp.maximum(square - jnp.square(offset), 0.0)
            unbiased = variance * (count / jnp.maximum(count - 1, 1.0))
            old = self._wide(var.value, y)
            variance = jnp.where(enough, variance, old)
            y = (centred - offset) * lax.rsqrt(variance + self.epsilon)
            y = y.reshape(x.shape)
            self._remember(mean, offset + shift, enough)
            self._remember(var, unbiased, enough)
        else:
            y = (y - self._wide(mean.value, y)) * self._wide(
                lax.rsqrt(var.value + self.epsilon), y
            )
        if self.affine:
            scale = self.param("scale", self.scale_init, shape)
            bias = self.param("bias", nn.initializers.zeros, shape)
            y = y * self._wide(scale, y) + self._wide(bias, y)
        return y.astype(self.dtype)

    def _split(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        """``[b, ..., c]`` as ``[shares, b / shares, ..., c]``, each where it lies."""
        size, shares = y.shape[0], statistics_groups(self.statistics)
        if size % shares:
            raise ValueError(
                f"BatchNorm: statistics per {self.statistics} need a batch that splits "
                f"evenly; got a batch of {size} for {shares} shares"
            )
        if y[..., 0].size <= shares:
            raise ValueError(
                "BatchNorm: training needs more than one value per channel in each "
                f"{self.statistics}'s share; got x of shape {y.shape} for {shares}"
            )
        y = y.reshape(shares, size // shares, *y.shape[1:])
        if self.statistics == "device" and shares > 1:
            # Nothing of a share may be split further, or leave its device.
            y = lax.with_sharding_constraint(y, PartitionSpec(batch_axes()))
        return y

    def _near_mean(
        self,
        y: Float[Array, "g n *space c"],
        weight: Float[Array, "g n *ones"],
    ) -> tuple[Float[Array, "g *ones c"], Bool[Array, "g *ones 1"]]:
        """Of each share, the mean of the first example of every device, if any counts.

        The running mean will not do alone: it is far away at first, and features of
        a projection that has just been drawn are nearly the same for all examples.
        """
        groups, size = y.shape[:2]
        devices = max(1, statistics_groups("device") // groups)
        devices = devices if size % devices == 0 else 1
        # One of each, so that no example leaves its device.
        rows = y.reshape(groups, devices, size // devices, *y.shape[2:])[:, :, 0]
        rows = jnp.mean(rows, axis=tuple(range(2, rows.ndim - 1)))
        counts = weight.reshape(groups, devices, size // devices)[:, :, :1]
        total = jnp.sum(counts, axis=1)
        near = jnp.sum(counts * rows, axis=1) / jnp.maximum(total, 1.0)
        near = lax.stop_gradient(near)
        wide = groups, *(1,) * (y.ndim - 2), -1
        return near.reshape(wide), (total > 0).reshape(wide)

    def _remember(
        self,
        running: nn.Variable,
        new: Float[Array, "g ... c"],
        enough: Bool[Array, "g ..."],
    ) -> None:
        """Moves towards the mean over shares that had values enough."""
        old = running.value
        new = lax.stop_gradient(new).reshape(-1, old.size)
        counted = enough.reshape(-1, 1).astype(jnp.float32)
        shares = jnp.sum(counted)
        mean = jnp.sum(counted * new, axis=0) / jnp.maximum(shares, 1.0)
        moved = (1 - self.momentum) * old + self.momentum * mean
        running.value = jnp.where(shares > 0, moved, old)

    @staticmethod
    def _wide(vector: Float[Array, "c"], like: jax.Array) -> jax.Array:
        return vector.reshape((1,) * (like.ndim - 1) + (-1,))


class LayerNorm(nn.Module):
    """PyTorch's ``LayerNorm`` over the last axis, two-pass variance in float32."""

    epsilon: float = 1e-5
    dtype: str = "float32"
    """Of the output."""

    @nn.compact
    def __call__(self, x: Float[Array, "*axes d"]) -> Float[Array, "*axes d"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        y = x.astype(jnp.float32)
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(y), axis=-1, keepdims=True)
        y = y * lax.rsqrt(variance + self.epsilon)
        wide = (1,) * (x.ndim - 1) + (-1,)
        return (y * scale.reshape(wide) + bias.reshape(wide)).astype(self.dtype)


class GroupNorm(nn.Module):
    """PyTorch's ``GroupNorm``: two-pass variance in float32 over a group's positions.

    Wu and He, "Group normalization", ECCV 2018. Flax's own takes E[x^2] - E[x]^2 in one
    pass, which loses digits that networks of published weights need.
    """

    groups: int
    epsilon: float = 1e-5
    dtype: str = "float32"
    """Of the output."""

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *space c"]:
        channels = x.shape[-1]
        if channels % self.groups:
            raise ValueError(
                f"groups: expected a divisor of {channels} channels, got {self.groups}"
            )
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        size = channels // self.groups
        y = x.astype(jnp.float32).reshape(x.shape[0], -1, self.groups, size)
        y = y - jnp.mean(y, axis=(1, 3), keepdims=True)
        variance = jnp.mean(jnp.square(y), axis=(1, 3), keepdims=True)
        y = (y * lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
        wide = (1,) * (x.ndim - 1) + (-1,)
        return (y * scale.reshape(wide) + bias.reshape(wide)).astype(self.dtype)
