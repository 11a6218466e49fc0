"""Does a probability of 0.8 come true eight times in ten?

Expected calibration error (Naeini et al., AAAI 2015, the binary form): probabilities
are put into equal-width bins, and the gap between mean probability and observed
frequency is averaged over the bins by their size. `Calibration` holds the sums of each
bin, so that chunks can be counted apart and added.

Of a segmentation, say where: over a whole image the background, which is easy, dilutes
the error to nothing, so `roi_calibration` counts near the structure alone. And where
the true probability of every label is known (a phantom whose annotators are a
distribution), negative log-likelihood and Brier score have a floor that no model can
pass; what lies above it, `excess_nll` and `excess_brier`, is the model's.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import ndimage


@dataclass(frozen=True)
class Calibration:
    """Per class and bin: how many, the sum of probabilities, the sum of labels."""

    count: Float[np.ndarray, "k bins"]
    probability: Float[np.ndarray, "k bins"]
    positive: Float[np.ndarray, "k bins"]

    @classmethod
    def of(
        cls,
        probabilities: Float[np.ndarray, "b k"],
        labels: Float[np.ndarray, "b k"],
        *,
        bins: int = 15,
    ) -> "Calibration":
        """Counts one chunk; labels of NaN are left out.

        Raises:
            ValueError: if shapes differ or a probability lies outside [0, 1].
        """
        if probabilities.shape != labels.shape:
            raise ValueError(
                f"probabilities {probabilities.shape} and labels {labels.shape} should "
                "have one shape"
            )
        if not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise ValueError("probabilities: expected values in [0, 1]")
        # Left-open bins, so that 1 falls into the last and a bin edge into the lower.
        index = np.clip(np.ceil(probabilities * bins).astype(int) - 1, 0, bins - 1)
        sums = []
        for values in (np.ones_like(labels), probabilities, labels):
            rows = [
                np.bincount(i[known], v[known], minlength=bins)
                for i, v, known in zip(
                    index.T, values.T, ~np.isnan(labels).T, strict=True
                )
            ]
            sums.append(np.stack(rows).astype(np.float64))
        return cls(*sums)

    def __add__(self, other: "Calibration") -> "Calibration":
        """The sums of both chunks."""
        return Calibration(
            self.count + other.count,
            self.probability + other.probability,
            self.positive + other.positive,
        )

    def expected_error(self) -> Float[np.ndarray, " k"]:
        """The expected calibration error of each class; NaN for one without labels."""
        gap = np.abs(self.probability - self.positive).sum(1)
        total = self.count.sum(1)
        return np.divide(gap, total, out=np.full_like(gap, np.nan), where=total > 0)


def roi_calibration(
    probabilities: Float[np.ndarray, "*space k"],
    truth: Int[np.ndarray, "*space"],
    *,
    voxels: float = 5.0,
    bins: int = 15,
) -> Calibration:
    """Calibration of each class against the others near the foreground.

    Args:
        probabilities: of every class; 0 is the background.
        truth: label map, or one annotator's.
        voxels: the region of interest reaches this far (Euclidean, in voxels) from
            where the prediction or the truth has a foreground label.
        bins: of the probabilities.

    Returns:
        Counts that add up over cases; with no foreground on either side nothing is
        counted, and the expected error is NaN.

    Raises:
        ValueError: if a probability lies outside [0, 1].
    """
    classes = probabilities.shape[-1]
    foreground = (truth > 0) | (probabilities.argmax(-1) > 0)
    if foreground.any():
        near = np.asarray(ndimage.distance_transform_edt(~foreground)) <= voxels
    else:
        near = foreground
    labels = truth[near][:, None] == np.arange(classes)
    return Calibration.of(
        probabilities[near].astype(np.float64), labels.astype(np.float64), bins=bins
    )


def nll(
    probabilities: Float[Array, "*space k"],
    truth: Float[Array, "*space k"],
    *,
    floor: float = 1e-8,
) -> Float[Array, ""]:
    """Mean negative log-likelihood per voxel, in nats.

    Args:
        probabilities: of every class.
        truth: one-hot labels, or the labels' probabilities for the expectation.
        floor: probabilities below it count as this.
    """
    log_p = jnp.log(jnp.maximum(probabilities, floor))
    return -jnp.mean(jnp.sum(truth * log_p, axis=-1))


def brier(
    probabilities: Float[Array, "*space k"], truth: Float[Array, "*space k"]
) -> Float[Array, ""]:
    """Mean over voxels of ``sum_c (p_c - y_c)^2``: twice the binary score.

    Args:
        probabilities: of every class.
        truth: one-hot labels.
    """
    return jnp.mean(jnp.sum((probabilities - truth) ** 2, axis=-1))


def excess_nll(
    probabilities: Float[Array, "*space k"],
    truth: Float[Array, "*space k"],
    *,
    floor: float = 1e-8,
) -> Float[Array, ""]:
    """Expected negative log-likelihood above its floor, the entropy of the truth.

    Args:
        probabilities: of every class.
        truth: the probabilities that the labels are drawn from.
        floor: predicted probabilities below it count as this.

    Returns:
        Nats, not negative: the mean Kullback-Leibler divergence.
    """
    # xlogy: a class that never occurs has no entropy.
    entropy = -jnp.mean(jnp.sum(jax.scipy.special.xlogy(truth, truth), axis=-1))
    return nll(probabilities, truth, floor=floor) - entropy


def excess_brier(
    probabilities: Float[Array, "*space k"], truth: Float[Array, "*space k"]
) -> Float[Array, ""]:
    """Expected Brier score above its floor, ``sum_c p*_c (1 - p*_c)``.

    Args:
        probabilities: of every class.
        truth: the probabilities that the labels are drawn from.

    Returns:
        Not negative. With the noise of the labels gone it is the squared distance of
        the two.
    """
    return brier(probabilities, truth)
