"""Means over cases that say what was empty.

A structure that a method misses has no surface, so its distance is undefined; whoever
drops the case from the mean rewards missing it (MONAI #9095). Metrics of masks here
give every case a value, by a rule each of them states, and this is how their means are
told: never without the number of cases that were empty on both sides, in the prediction
alone (missed) or in the truth alone (false). A value may still be NaN where the caller
asked for it or where a quantity has none (a correlation with a constant); then it is
left out of the mean, and counted too.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

EMPTY = {
    "n_both_empty": "empty in both",
    "n_missed": "missed",
    "n_false": "false",
}
"""What may be empty, and as tables call it."""


@dataclasses.dataclass(frozen=True)
class Cases:
    """The mean of a metric over cases, and what the cases were.

    Attributes:
        mean: over the cases that have a value; NaN if none has.
        sd: sample standard deviation over the same cases; NaN below two.
        n: cases altogether.
        n_both_empty: neither prediction nor truth holds the structure.
        n_missed: the truth holds it, the prediction does not.
        n_false: the prediction holds it, the truth does not.
        n_undefined: cases without a value, left out of the mean.
    """

    mean: float
    sd: float
    n: int
    n_both_empty: int
    n_missed: int
    n_false: int
    n_undefined: int

    @classmethod
    def of(
        cls,
        values: Float[np.ndarray | jax.Array, " b"],
        *,
        predicted: Bool[np.ndarray | jax.Array, " b"] | None = None,
        present: Bool[np.ndarray | jax.Array, " b"] | None = None,
    ) -> "Cases":
        """Summarises one number per case.

        Args:
            values: the metric; NaN where it has no value.
            predicted: whether the prediction holds the structure. ``None``: the metric
                is not one of structures, and nothing counts as empty.
            present: whether the truth holds it.

        Raises:
            ValueError: if the arrays differ in length or only one of the two is given.
        """
        if (predicted is None) != (present is None):
            raise ValueError("predicted and present: expected both or neither")
        values = np.asarray(values, np.float64)
        full = np.ones(len(values), bool)
        said = full if predicted is None else np.asarray(predicted)
        true = full if present is None else np.asarray(present)
        if not said.shape == true.shape == values.shape:
            raise ValueError(
                f"values {values.shape}, predicted {said.shape} and present "
                f"{true.shape} should have one length"
            )
        known = values[~np.isnan(values)]
        return cls(
            mean=float(known.mean()) if known.size else float("nan"),
            sd=float(known.std(ddof=1)) if known.size > 1 else float("nan"),
            n=values.size,
            n_both_empty=int((~said & ~true).sum()),
            n_missed=int((~said & true).sum()),
            n_false=int((said & ~true).sum()),
            n_undefined=int(values.size - known.size),
        )

    @property
    def empty(self) -> dict[str, int]:
        """What was empty, by the names of :data:`EMPTY`."""
        return {name: getattr(self, name) for name in EMPTY}

    def __str__(self) -> str:
        """Mean and spread, and every count that is not zero."""
        told = ", ".join([f"n = {self.n}", *in_words(dataclasses.asdict(self))])
        return f"{self.mean:.4g} ± {self.sd:.2g} ({told})"

    def as_row(self, name: str) -> dict[str, Any]:
        """Flat entries for a table or a log: ``dice``, ``dice_sd``, ``dice_n``, ..."""
        entries = dataclasses.asdict(self)
        row = {name: entries.pop("mean")}
        return row | {f"{name}_{key}": value for key, value in entries.items()}


def in_words(counts: Mapping[str, Any]) -> list[str]:
    """Every count of cases without a structure, or without a value, that is not zero.

    Args:
        counts: by the names of :class:`Cases`; some may be absent.
    """
    texts = EMPTY | {"n_undefined": "without a value"}
    return [f"{counts[name]} {texts[name]}" for name in texts if counts.get(name)]
