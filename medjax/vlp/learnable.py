"""Labels that nothing can be learned from, or that are no choice, are refused."""

from collections.abc import Sequence

import numpy as np

from medjax.data.boundary import DataError


def check_learnable(names: Sequence[str], labels: dict[str, np.ndarray]) -> None:
    """Refuses labels of which nothing can be learned or judged.

    Raises:
        DataError: No label has both answers among the films of a split, or one has no
            known answer to train on.
    """
    for split, values in labels.items():
        both = (values == 1).any(0) & (values == 0).any(0)
        if not both.any():
            raise DataError(
                f"data: of the {len(values)} films of the {split} split no label has "
                "both answers, present and absent: take more films"
            )
    known = (~np.isnan(labels["train"])).sum(0)
    if not known.all():
        which = [name for name, count in zip(names, known, strict=True) if not count]
        raise DataError(f"target: no training film has a known {', '.join(which)}")


def check_exclusive(labels: dict[str, np.ndarray]) -> None:
    """Refuses labels that are no choice of one class; films may be unknown.

    Raises:
        DataError: A film is of several classes or of none, or all of a split are
            unknown.
    """
    for split, values in labels.items():
        told = values[~np.isnan(values).any(1)]
        wrong = int((told.sum(1) != 1).sum())
        if wrong or not len(told):
            raise DataError(
                f"exclusive: expected one class of every film; of the {len(values)} "
                f"films of the {split} split {wrong} are of several or of none, "
                f"{len(values) - len(told)} unknown"
            )
