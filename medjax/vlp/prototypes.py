"""Prototypes: what a radiograph belongs to, told by its report, and vice versa.

MGCA compares radiographs and reports over the whole data set by a few hundred learned
directions of their shared space. Each side of a pair is assigned to them softly, in
such a way that over a batch every prototype gets the same share (Sinkhorn and Knopp),
and the other side has to predict the assignment (the swapped prediction of Caron et
al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
NeurIPS 2020).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax.vlp.contrastive import normalise
from medjax_kernels.precision import accumulator


def sinkhorn(
    scores: Float[Array, "b k"], *, epsilon: float, iterations: int
) -> Float[Array, "b k"]:
    """Soft assignment of examples to prototypes, the prototypes of equal share.

    exp(scores / epsilon), whose columns and rows are scaled in turn, columns to b / k
    and rows, which come last, to 1. In logarithms, so that no epsilon overflows; no
    gradient flows. The batch is the global one: of what devices hold they exchange the
    sums over prototypes alone.

    Args:
      scores: similarity of each example to each prototype.
      epsilon: the smaller, the harder the assignment.
      iterations: how often both are scaled; 0 scales the rows alone.

    Returns:
      The assignment, fp32 (fp64 for fp64 scores); rows sum to 1.
    """
    scores = jax.lax.stop_gradient(scores)
    log = scores.astype(accumulator(scores.dtype)) / epsilon

    def scale(_: Array, log: Array) -> Array:
        # The constant share of a prototype cancels in the rows.
        log = log - jax.nn.logsumexp(log, axis=0, keepdims=True)
        return log - jax.nn.logsumexp(log, axis=1, keepdims=True)

    log = jax.lax.fori_loop(0, iterations, scale, log)
    return jax.nn.softmax(log, axis=1)


def swapped_prediction(
    image: Float[Array, "b d"],
    text: Float[Array, "b d"],
    prototypes: Float[Array, "k d"],
    *,
    temperature: float,
    epsilon: float,
    iterations: int,
) -> Float[Array, ""]:
    """Cross-entropy of each side's assignment and the other side's prediction.

    Prototypes count by their direction. The released code normalises them in place in
    every forward pass; the function is the same, and what an optimiser's weight decay
    takes from their length has no effect.

    Args:
      image: unit-norm radiographs of the global batch.
      text: unit-norm reports.
      prototypes: learned directions.
      temperature: of the predictions.
      epsilon: of the assignments; see :func:`sinkhorn`.
      iterations: of the assignments.

    Returns:
      Mean of both directions, each the mean over the batch.
    """
    unit = normalise(prototypes)
    by_image, by_text = (
        # Divided by epsilon these cosines are exponents: rounded ones would show.
        jnp.matmul(side, unit.T, precision=jax.lax.Precision.HIGHEST)
        for side in (image, text)
    )

    def predicted(scores: Array, others: Array) -> Array:
        target = sinkhorn(others, epsilon=epsilon, iterations=iterations)
        log = jax.nn.log_softmax(scores / temperature, axis=1)
        return -jnp.mean(jnp.sum(target * log, axis=1))

    return (predicted(by_text, by_image) + predicted(by_image, by_text)) / 2.0
