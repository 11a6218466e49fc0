"""Do samples of a segmenter spread as the annotators do?

Generalised energy distance (Kohl et al. 2018, arXiv 1806.05034), the correlation of
uncertainty with disagreement (NCC) as PHiSeg computes it (Baumgartner et al. 2019,
arXiv 1906.04045), and the overlap of uncertainty with error (UEO: the U-E Dice of
Jungo, Balsiger and Reyes 2020, 10.3389/fnins.2020.00282, at its best threshold). Pure
functions of one image, under ``jit`` and ``vmap``.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

LOG_FLOOR = 1e-8
"""Added to probabilities inside logarithms, as PHiSeg does."""


@partial(jax.jit, static_argnames="labels")
def ged_squared(
    samples: Int[Array, "s *space"],
    annotations: Int[Array, "a *space"],
    *,
    labels: tuple[int, ...],
) -> Float[Array, ""]:
    """Squared generalised energy distance between samples and annotations.

    ``2 E d(S, Y) - E d(S, S') - E d(Y, Y')`` with ``d = 1 - mean IoU``. A label absent
    from both maps has IoU 1, absent from one 0. The expectations are over all pairs,
    each with itself included (the V-statistic, as PHiSeg's code has it): equal sets
    give 0, and few samples of the right distribution do not. The mean is over the
    labels given; PHiSeg's known slip is to leave the background out of the sum and to
    count it in the divisor.

    Args:
        samples: label maps from the segmenter.
        annotations: label maps of the annotators.
        labels: the foreground labels.

    Returns:
        From 0 (alike) to 2.
    """
    s, y = _one_hot(samples, labels), _one_hot(annotations, labels)
    across, within_s, within_y = (
        1.0 - jnp.mean(_iou(*pair)) for pair in ((s, y), (s, s), (y, y))
    )
    return 2.0 * across - within_s - within_y


@jax.jit
def ncc(
    probabilities: Float[Array, "s *space k"], annotations: Float[Array, "a *space k"]
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Correlation of the samples' disagreement among themselves and with annotators.

    The map of cross-entropies of the samples against their mean is correlated with that
    against each annotation; the correlations are averaged.

    Args:
        probabilities: class probabilities of each sample.
        annotations: one-hot maps, or probabilities.

    Returns:
        The mean correlation, and how many of the correlations were with a constant map.
        Those are 0 here (NaN in PHiSeg's code).
    """
    log_p = jnp.log(probabilities + LOG_FLOOR)
    mean_log = jnp.mean(log_p, axis=0)
    own = -jnp.sum(jnp.mean(probabilities, axis=0) * mean_log, axis=-1)
    theirs = -jnp.sum(annotations * mean_log[None], axis=-1)
    a, a_constant = _standardised(own.reshape(1, -1))
    b, b_constant = _standardised(theirs.reshape(theirs.shape[0], -1))
    return jnp.mean(jnp.mean(a * b, axis=1)), jnp.sum(a_constant | b_constant)


@partial(jax.jit, static_argnames="thresholds")
def ueo(
    uncertainty: Float[Array, "*space"],
    error: Bool[Array, "*space"],
    *,
    thresholds: int = 64,
) -> Float[Array, ""]:
    """Largest Dice overlap of thresholded uncertainty with the segmentation's error.

    Args:
        uncertainty: any map that is higher where the segmenter is less sure.
        error: where prediction and truth differ.
        thresholds: how many quantiles of the map are tried.

    Returns:
        From 0 to 1; NaN without an error (nothing to overlap with: count it with
        :class:`medjax.metrics.cases.Cases`).
    """
    flat, wrong = uncertainty.reshape(-1), error.reshape(-1)
    levels = jnp.quantile(flat, jnp.linspace(0.0, 1.0, thresholds))

    def dice(level: Float[Array, ""]) -> Float[Array, ""]:
        unsure = flat > level
        both = jnp.sum(unsure & wrong)
        return 2 * both / jnp.maximum(jnp.sum(unsure) + jnp.sum(wrong), 1)

    best = jnp.max(jax.lax.map(dice, levels))
    return jnp.where(jnp.any(wrong), best, jnp.nan)


def _standardised(maps: Float[Array, "m v"]) -> tuple[Array, Bool[Array, " m"]]:
    """Mean 0 and variance 1 per row, or zeros and true where it is constant."""
    mean = jnp.mean(maps, axis=1, keepdims=True)
    sd = jnp.std(maps, axis=1, keepdims=True)
    # What rounding leaves of a constant is of the size of an ulp.
    constant = sd <= 1e-6 * jnp.max(jnp.abs(maps), axis=1, keepdims=True)
    scaled = jnp.where(constant, 0.0, (maps - mean) / jnp.where(constant, 1.0, sd))
    return scaled, constant[:, 0]


def _one_hot(maps: Array, labels: tuple[int, ...]) -> Float[Array, "k m voxels"]:
    flat = maps.reshape(1, maps.shape[0], -1)
    return (flat == jnp.asarray(labels, maps.dtype)[:, None, None]).astype(jnp.float32)


def _iou(a: Array, b: Array) -> Float[Array, "k m n"]:
    """IoU of every pair; counts are exact below 2^24 voxels."""
    both = jnp.einsum("kmv,knv->kmn", a, b, precision="highest")
    either = jnp.sum(a, -1)[:, :, None] + jnp.sum(b, -1)[:, None, :] - both
    return jnp.where(either > 0, both / jnp.maximum(either, 1.0), 1.0)
