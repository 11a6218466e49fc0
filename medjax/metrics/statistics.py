"""Is A better than B, as good, or can these data not tell?

Two methods are trained with the same seeds and measured on the same subjects; only the
paired differences count. Both seeds and subjects are samples, so both are drawn again
(crossed: all subjects of a drawn seed are the drawn subjects; Owen 2007's pigeonhole
bootstrap, which errs on the wide side).

A bootstrap over three or five seeds is too narrow by itself: it sees the variance of n
values divided by n, not n - 1, and can never leave their range. The default interval
therefore takes the bootstrap's standard error, widened by ``sqrt(n / (n - 1))``, and
Student's t of ``n - 1`` degrees of freedom, n being the smaller of the two counts that
is more than one. The percentile interval is there for large n.

The verdict knows four words. *equivalent*: the interval at twice the error rate (90 %
for 95 %) lies within the margin, which is the two one-sided tests procedure (Schuirmann
1987); a difference may be different from zero and still too small to matter. *better*
or *worse*: not equivalent, and the interval excludes zero. Otherwise *undecided*, which
is not "no difference". Margin, endpoint and seeds are named before the data are seen.
"""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import stats

Interval = Literal["t", "percentile"]
Verdict = Literal["better", "worse", "equivalent", "undecided"]


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """The difference between two methods, in the units of the metric.

    Attributes:
        mean: first method minus second.
        low: lower end of the interval.
        high: upper end of the interval.
        inner_low: lower end of the interval at twice the error rate.
        inner_high: upper end of the interval at twice the error rate.
        confidence: of the outer interval.
        seeds: how many.
        subjects: how many.
    """

    mean: float
    low: float
    high: float
    inner_low: float
    inner_high: float
    confidence: float
    seeds: int
    subjects: int

    def verdict(self, *, margin: float, lower_is_better: bool) -> Verdict:
        """What may be said about the first method.

        Args:
            margin: the largest difference that does not matter, in the metric's unit.
            lower_is_better: whether the metric is an error.

        Raises:
            ValueError: for a margin that is not positive.
        """
        if not margin > 0:
            raise ValueError(f"margin={margin}: expected a positive number")
        if -margin < self.inner_low and self.inner_high < margin:
            return "equivalent"
        if self.low > 0 or self.high < 0:
            return "better" if (self.mean < 0) == lower_is_better else "worse"
        return "undecided"

    def __str__(self) -> str:
        """Mean and interval, and what they come from."""
        return (
            f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}] "
            f"({self.confidence:.0%}, {self.seeds} seeds, {self.subjects} subjects)"
        )


def paired_bootstrap(
    first: Float[np.ndarray, "seeds subjects"],
    second: Float[np.ndarray, "seeds subjects"],
    *,
    seed: int,
    interval: Interval = "t",
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> PairedDifference:
    """The mean difference of two methods with an interval over seeds and subjects.

    Args:
        first: one number per seed and subject.
        second: of the same seeds and subjects, in the same order.
        seed: of the resampling.
        interval: ``t`` for few seeds or subjects, or ``percentile``.
        confidence: the mass inside.
        resamples: how many.

    Raises:
        ValueError: if shapes differ, a value is NaN (decide what an undefined value
            means before comparing), or there is nothing to resample.
    """
    if first.shape != second.shape or max(first.shape, default=0) < 2:
        raise ValueError(
            f"first {first.shape} and second {second.shape}: expected one shape with "
            "at least two seeds or two subjects"
        )
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    if not np.isfinite(difference).all():
        bad = int((~np.isfinite(difference)).sum())
        raise ValueError(
            f"{bad} of {difference.size} differences are NaN or infinite: give such "
            "cases a value, or leave them out of both methods"
        )
    rng = np.random.default_rng(seed)
    draws = [rng.multinomial(n, np.full(n, 1 / n), resamples) / n for n in first.shape]
    means = np.einsum("rs,sh,rh->r", draws[0], difference, draws[1], optimize=True)
    tail = (1 - confidence) / 2
    if interval == "percentile":
        inner, outer = (
            np.quantile(means, (share, 1 - share)) for share in (2 * tail, tail)
        )
    else:
        n = min(count for count in first.shape if count > 1)
        error = means.std() * np.sqrt(n / (n - 1))
        reach = error * stats.t.ppf(1 - np.array([2 * tail, tail]), n - 1)
        inner, outer = (difference.mean() + np.array([-r, r]) for r in reach)
    return PairedDifference(
        mean=float(difference.mean()),
        low=float(outer[0]),
        high=float(outer[1]),
        inner_low=float(inner[0]),
        inner_high=float(inner[1]),
        confidence=confidence,
        seeds=first.shape[0],
        subjects=first.shape[1],
    )
