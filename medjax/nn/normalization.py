"""Normalisation layers with PyTorch's semantics and float32 statistics.

Batch normalisation (Ioffe and Szegedy, 2015) is where re-implementations drift apart
without a sound: Flax keeps 0.99 of the old statistics where PyTorch keeps 0.9 (and
calls the other share "momentum"), and updates the running variance with the biased
estimate where PyTorch takes the unbiased one. A network that starts from, or goes back
to, published weights needs PyTorch's. So do papers whose projection heads end in
a batch norm: there it decides what collapses and what does not.

Statistics are taken over the global batch, whatever devices hold it (PyTorch calls this
``SyncBatchNorm``). Most published runs did not: every device normalised its own share.
``groups`` gives those back, on any number of devices.

Everything here computes in float32 and returns ``dtype``.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


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
    groups: int = 1
    """Consecutive equal parts of the batch, each normalised with statistics of its own:
    the number of devices reproduces a run without ``SyncBatchNorm``. The running
    statistics take the mean over groups."""
    dtype: str = "float32"
    """Of the output."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b *space c"], *, train: bool
    ) -> Float[Array, "b *space c"]:
        """Normalises each channel over the batch and all positions.

        Args:
          x: Features, any number of spatial axes between batch and channels.
          train: Whether to use, and remember, the statistics of this batch.

        Returns:
          The normalised features, in ``dtype``.

        Raises:
          ValueError: The batch does not divide into ``groups``, or a group holds
            a single value per channel, which has no variance.
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
            count = y[0, ..., 0].size
            # One pass over memory instead of two. E[x^2] - E[x]^2 loses its digits when
            # the mean is large; measured from the running mean, a constant that is near
            # it, the same formula does not.
            shift = lax.stop_gradient(mean.value).reshape((1,) * (y.ndim - 1) + (-1,))
            centred = y - shift
            offset = jnp.mean(centred, axes, keepdims=True)
            square = jnp.mean(jnp.square(centred), axes, keepdims=True)
            variance = jnp.maximum(square - jnp.square(offset), 0.0)
            y = (centred - offset) * lax.rsqrt(variance + self.epsilon)
            y = y.reshape(x.shape)
            unbiased = variance * (count / (count - 1))
            self._remember(mean, (offset + shift).reshape(self.groups, channels))
            self._remember(var, unbiased.reshape(self.groups, channels))
        else:
            y = (y - self._wide(mean.value, y)) * self._wide(
                lax.rsqrt(var.value + self.epsilon), y
            )
        if self.affine:
            scale = self.param("scale", nn.initializers.ones, shape)
            bias = self.param("bias", nn.initializers.zeros, shape)
            y = y * self._wide(scale, y) + self._wide(bias, y)
        return y.astype(self.dtype)

    def _split(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        """``[b, ..., c]`` as ``[groups, b / groups, ..., c]``."""
        size = y.shape[0]
        if size % self.groups:
            raise ValueError(
                f"BatchNorm: groups must divide the batch; got a batch of {size} "
                f"for {self.groups} groups"
            )
        if y[..., 0].size <= self.groups:
            raise ValueError(
                "BatchNorm: training needs more than one value per channel in each "
                f"group; got x of shape {y.shape} for {self.groups} groups"
            )
        return y.reshape(self.groups, size // self.groups, *y.shape[1:])

    def _remember(self, running: nn.Variable, new: Float[Array, "g c"]) -> None:
        old, new = running.value, jnp.mean(lax.stop_gradient(new), axis=0)
        running.value = (1 - self.momentum) * old + self.momentum * new

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
