"""NumPy's array files, with the same faults as every other format's."""

from pathlib import Path

import numpy as np

from medjax.data.boundary import DataError, finite, reading

WHAT = ".npy file"
MAGIC = b"\x93NUMPY"
"""What such a file begins with."""


def read(path: str | Path) -> np.ndarray:
    """Read an array.

    Args:
        path: a ``.npy`` file of numbers.

    Returns:
        The array, as stored.

    Raises:
        FileNotFoundError: where there is no such file.
        DataError: where it is damaged, holds objects, or values that are not finite.
    """
    with reading(path, WHAT):
        # Mapped, a header that claims more than the file holds is refused for free.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(mapped, np.ndarray):
            raise DataError(f"{path}: an archive of arrays, expected one .npy array")
        return finite(path, np.array(mapped), "the array")
