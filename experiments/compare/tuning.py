"""Weights of methods without training, chosen as well as they can be."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from medjax.mri import series

WIDER, WIDENINGS = 2.0, 6
"""Factor from the edge of a grid to the next value unless a caller says otherwise, and
how often one is added."""


def tuned(
    method: Any,
    grid: Mapping[str, Sequence[float]],
    batches: Sequence[Mapping[str, Any]],
    *,
    wider: float = WIDER,
    slack: float = 0.0,
    errors: dict[tuple[float, ...], float] | None = None,
) -> dict[str, float]:
    """The weights of least NMSE, none of them at an edge of its grid.

    An error that is no number, as of a rate with which training diverged, is larger
    than any that is one.

    Args:
      method: Takes a batch and the weights.
      grid: Values of each weight, rising. Where the best is the first or last of them,
        there is one more at `wider` times beyond; 0 is the least there is.
      batches: What the error is summed over.
      wider: That factor.
      slack: Of weights whose error is within this share of the least, the smallest.
      errors: Gets the error of all weights that were tried.

    Raises:
      ValueError: The error still falls after `WIDENINGS` more values, or no weights
        give a number.
    """
    axes = {name: list(values) for name, values in grid.items()}
    errors = {} if errors is None else errors
    for _ in range(1 + WIDENINGS):
        for point in itertools.product(*axes.values()):
            if point not in errors:
                weights = dict(zip(axes, point, strict=True))
                found = [series.nmse(method(one, **weights), one) for one in batches]
                error = float(sum(map(float, found)))
                errors[point] = math.inf if math.isnan(error) else error
        least = min(errors, key=errors.__getitem__)
        if math.isinf(errors[least]):
            raise ValueError(f"weights: NMSE is no finite number anywhere in {axes}")
        best = min(p for p in errors if errors[p] <= (1 + slack) * errors[least])
        inside = True
        for values, low, high in zip(axes.values(), best, least, strict=True):
            if high == values[-1]:
                values.append(high * wider)
            elif low == values[0] and low > 0:
                values.insert(0, low / wider)
            else:
                continue
            inside = False
        if inside:
            return dict(zip(axes, best, strict=True))
    raise ValueError(f"weights: NMSE still falls at the edge of {axes}")
