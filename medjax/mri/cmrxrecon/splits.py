"""Splits of the 120 training patients that published methods report on.

The challenge's validation set came without full k-space, so everyone splits the
training set: the numbers of two papers compare only where the split is the same.
"""

from collections.abc import Sequence

# 0-based places in the sorted list of 120 patients (Latent Transformer's repository).
_LT_VALIDATION = (0, 68, 115, 62, 54, 31, 42, 103, 21, 27)
_LT_TEST = (78, 18, 107, 2, 69, 108, 105, 36, 37, 92)


def latent_transformer_split(patients: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """100 / 10 / 10 patients as the Latent Transformer was trained (arXiv 2309.16853).

    Args:
        patients: the 120 patients of the training set, in any order.

    Returns:
        ``train``, ``validation`` and ``test`` patients, each sorted.

    Raises:
        ValueError: where there are not 120 patients.
    """
    ordered = _all_120(patients)
    validation = {ordered[i] for i in _LT_VALIDATION}
    test = {ordered[i] for i in _LT_TEST}
    return {
        "train": tuple(p for p in ordered if p not in validation | test),
        "validation": tuple(sorted(validation)),
        "test": tuple(sorted(test)),
    }


def promptmr_split(patients: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """P001-P100 for training, P101-P120 for validation, as PromptMR reports.

    Args:
        patients: the 120 patients of the training set, in any order.

    Returns:
        ``train`` and ``validation`` patients, each sorted.

    Raises:
        ValueError: where there are not 120 patients.
    """
    ordered = _all_120(patients)
    return {"train": ordered[:100], "validation": ordered[100:]}


def last_patients_split(
    patients: Sequence[str], *, share: float = 0.1
) -> dict[str, tuple[str, ...]]:
    """The last patients for testing, for trees of any size; nobody's published split.

    Args:
        patients: in any order.
        share: of the patients that is held out, one at least.

    Returns:
        ``train`` and ``test`` patients, each sorted.

    Raises:
        ValueError: where one part would be empty.
    """
    ordered = tuple(sorted(set(patients)))
    held = max(1, round(share * len(ordered)))
    if not 0 < share < 1 or held >= len(ordered):
        raise ValueError(
            f"share={share} of {len(ordered)} patients: expected something in (0, 1) "
            "that leaves at least one to train on and one to test on"
        )
    return {"train": ordered[:-held], "test": ordered[-held:]}


def _all_120(patients: Sequence[str]) -> tuple[str, ...]:
    ordered = tuple(sorted(set(patients)))
    if len(ordered) != 120:
        raise ValueError(f"the split is of 120 patients, got {len(ordered)} of them")
    return ordered
