"""NumPy archives that the software keeps for itself: named arrays of plain numbers."""

from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from medjax.data.boundary import DataError, finite, reading


def read(path: str | Path) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Read every array of an archive.

    Args:
        path: an ``.npz`` file.

    Returns:
        Arrays by name.

    Raises:
        FileNotFoundError: where there is no such file.
        DataError: where it is damaged, or holds something else than finite numbers.
    """
    with reading(path, "npz file"), np.load(path, allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: one array, expected an archive of several")
        arrays = {name: np.asarray(archive[name]) for name in archive.files}
    for name, array in arrays.items():
        if array.dtype.kind not in "biufc":
            raise DataError(f"{path}: {name!r} has dtype {array.dtype}, not numbers")
        finite(path, array, repr(name))
    return arrays
