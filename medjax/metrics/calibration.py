"""Does a probability of 0.8 come true eight times in ten?

Expected calibration error (Naeini et al., AAAI 2015, the binary form): probabilities
are put into equal-width bins, and the gap between mean probability and observed
frequency is averaged over the bins by their size. `Calibration` holds the sums of each
bin, so that chunks can be counted apart and added.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


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
