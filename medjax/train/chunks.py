"""Losses that compare a whole batch, whose networks see it in chunks.

A contrastive loss wants many examples at once, and a tower's activations of so many do
not fit. What is compared is small, though: a vector or a few per example. So chunks are
encoded one after the other and nothing is kept of them but what is compared; the whole
batch is compared; and for the gradient each chunk is encoded again (Gao, Zhang, Han,
Callan, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
RepL4NLP 2021, who cache the gradient by hand). Here that is a loop over a function that
is computed again where its derivative is asked for, so that one derivative of the whole
loss is all there is to take. It costs one more forward pass, and memory of one chunk.

Loss and gradient are those of the whole batch. Two things are a chunk's own: what is
drawn inside a network (dropout), and the statistics of its BatchNorms. A network is
then normalised as if each chunk lay on a device of its own and devices told each other
nothing, running statistics included (:class:`medjax.nn.normalization.BatchNorm` with
``statistics="device"``); what a system leaves to the comparison, such as projection
heads, keeps the statistics of the batch.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from medjax.train.mesh import batch_axes
from medjax.typing import Batch, Key, Metrics, Variables

Result = tuple[jax.Array, tuple[Metrics, Mapping[str, Any]]]
Encode = Callable[[Any, Key], tuple[Any, Any]]
"""``encode(rows, key) -> encoded, statistics``: arrays that lead with the rows, and
updated collections, whose mean over chunks counts."""


WholeLoss = Callable[..., Result]
"""``loss(variables, batch, key, chunks=n)``: else a loss like any other."""


@dataclasses.dataclass(frozen=True)
class ChunkedLoss:
    """A loss of the whole batch; the training step accumulates by asking for chunks.

    Attributes:
      whole: The loss.
      chunks: How many the networks see a batch in.
    """

    whole: WholeLoss
    chunks: int = 1

    def __call__(self, variables: Variables, batch: Batch, key: Key) -> Result:
        """The loss, as the training step calls it."""
        return self.whole(variables, batch, key, chunks=self.chunks)

    def in_chunks(self, chunks: int) -> "ChunkedLoss":
        """The same loss and gradient in less memory."""
        return dataclasses.replace(self, chunks=chunks)


def encode_in_chunks(
    encode: Encode, rows: Any, key: Key, *, chunks: int
) -> tuple[Any, Any]:
    """Encodes a batch chunk by chunk, forwards and backwards.

    With n examples on each device a chunk has m = ceil(n / chunks) of them: every
    floor(n / m)-th, so that none moves between devices and a chunk is the same on any
    number of them where n is a multiple of ``chunks``. What is left over, fewer than m,
    is a last chunk.

    Args:
      encode: Sees a chunk, and may be differentiated by whatever it closes over.
      rows: Tree of arrays with leading axis b, the global batch.
      key: Of what is drawn inside networks; each chunk gets one of its own.
      chunks: At most so many; 1 calls ``encode`` as it is.

    Returns:
      What was encoded, leading axis b in the order of the rows, and the mean of the
      updated collections over examples.

    Raises:
      ValueError: There are fewer examples on a device than chunks.
    """
    if chunks == 1:
        return encode(rows, key)
    axes, shape = batch_axes(), jax.sharding.get_abstract_mesh().shape
    shards = math.prod(shape[axis] for axis in axes)
    size = len(jax.tree.leaves(rows)[0])
    each = size // shards
    if each < chunks:
        raise ValueError(
            f"train.accumulate: expected at most {each}, the examples of a batch of "
            f"{size} on each of {shards} devices, got {chunks}"
        )
    most = -(-each // chunks)
    count, rest = divmod(each, most)

    def keep(x: jax.Array, *before: None) -> jax.Array:
        spec = PartitionSpec(*before, axes)
        return jax.lax.with_sharding_constraint(x, spec) if axes else x

    def deal(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = keep(x.reshape(shards, each, *x.shape[1:]))
        even = x[:, : most * count].reshape(shards, most, count, *x.shape[2:])
        even = jnp.moveaxis(even, 2, 0).reshape(count, shards * most, *x.shape[2:])
        last = x[:, most * count :].reshape(shards * rest, *x.shape[2:])
        return keep(even, None), keep(last)

    def gather(even: jax.Array, last: jax.Array | None) -> jax.Array:
        even = keep(even, None).reshape(count, shards, most, *even.shape[2:])
        whole = jnp.moveaxis(even, 0, 2).reshape(shards, most * count, *even.shape[3:])
        if last is not None:
            last = keep(last).reshape(shards, rest, *last.shape[1:])
            whole = jnp.concatenate([whole, last], axis=1)
        return keep(whole.reshape(size, *whole.shape[2:]))

    leaves, tree = jax.tree.flatten(jax.tree.map(jnp.asarray, rows))
    even, last = (tree.unflatten(part) for part in zip(*map(deal, leaves), strict=True))
    again = jax.checkpoint(encode)

    def one(_: None, chunk: Any) -> tuple[None, Any]:
        index, part = chunk
        return None, again(part, jax.random.fold_in(key, index))

    _, (encoded, updated) = jax.lax.scan(one, None, (jnp.arange(count), even))
    if not rest:
        mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), updated)
        return jax.tree.map(lambda x: gather(x, None), encoded), mean
    ending, moved = again(last, jax.random.fold_in(key, count))
    share = rest / each
    mean = jax.tree.map(
        lambda x, y: (1 - share) * jnp.mean(x, axis=0) + share * y, updated, moved
    )
    return jax.tree.map(gather, encoded, ending), mean
