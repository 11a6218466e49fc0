"""The boundary between a file and the arrays made of it: one kind of error, in words.

Format libraries raise whatever their insides raise: zlib's errors, HDF5's KeyError and
RuntimeError, struct, codec and csv errors, MemoryError, RecursionError; and most do
not say which file it was. A reader does all its work inside :func:`reading`, checks
sizes that a header claims with :func:`affordable` before it asks for memory, and values
with :func:`finite` where they come in. What leaves a reader is then either an array or
one of the documented errors, with the file's name.
"""

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

EXPANSION = 1100
"""Bytes that one byte of a file can stand for: deflate reaches 1032."""
LONGEST = 1600
"""Characters of a message: paths are long, and lists of columns."""


class DataError(ValueError):
    """A fault in the data: names what is at fault and what was expected.

    A file can hold a name of any length. Of a message that is no sentence any more the
    middle is left out.
    """

    def __init__(self, told: str = "") -> None:
        if len(told) > LONGEST:
            told = f"{told[: LONGEST // 2]} ... {told[-LONGEST // 2 :]}"
        super().__init__(told)


@contextlib.contextmanager
def reading(
    path: str | os.PathLike[str],
    what: str,
    *,
    key: str | None = None,
    quote: bool = True,
) -> Iterator[None]:
    """Turns whatever is raised inside into a documented error that names the file.

    Args:
        path: The file that is read.
        what: What it was taken for, as a message says it: ``"NIfTI file"``.
        key: The data set, tag or column at work, where there is one.
        quote: Whether the message may repeat the inner error's text. Not for files of
            patients whose library quotes what a field holds.

    Raises:
        FileNotFoundError: If the file is missing.
        ImportError: If a library that reads it is not installed.
        DataError: In place of every other exception; a `DataError` passes unchanged.
    """
    where = f"{path}: {key!r}" if key is not None else f"{path}"
    try:
        yield
    except (DataError, ImportError):
        raise
    except FileNotFoundError:
        if os.path.exists(path):
            raise DataError(f"{where}: not an intact {what}") from None
        raise FileNotFoundError(f"{path}: no such file") from None
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise DataError(f"{where}: {error.strerror}") from None
    except Exception as error:
        kind = type(error).__name__
        text = " ".join(str(error).split())[:300] if quote else ""
        told = f"{kind}: {text}" if text else kind
        cause = error if quote else None
        raise DataError(f"{where}: not an intact {what} ({told})") from cause


def affordable(
    path: str | Path, shape: Sequence[int], dtype: np.typing.DTypeLike, what: str
) -> None:
    """Refuses a size that the file is too small to hold, before memory is asked for.

    Args:
        path: The file whose header claims the size.
        shape: The claimed shape.
        dtype: The claimed dtype.
        what: What has that size, as a message says it.

    Raises:
        DataError: If an axis is negative, or the array is larger than the file could
            hold even if compressed as well as deflate can.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    held = os.path.getsize(path)
    if min(shape, default=0) < 0 or size > EXPANSION * held + 4096:
        raise DataError(
            f"{path}: {what} claims shape {tuple(shape)}, {size} bytes, in a file of "
            f"{held} bytes"
        )


def finite(
    path: str | Path,
    array: np.ndarray,
    what: str,
    axes: Sequence[str] = (),
    start: Sequence[int] = (),
) -> np.ndarray:
    """Hands an array on if all its values are numbers.

    Args:
        path: The file that it was read from.
        array: Any dtype; those without NaN pass unseen.
        what: What it is, as a message says it.
        axes: What its axes are called, where that is known.
        start: Where in the file's array it starts, along the first axes; else 0.

    Raises:
        DataError: If a value is NaN or infinite; the message says how many and where
            the first is.
    """
    if array.dtype.kind not in "fc" and "float" not in array.dtype.name:  # bfloat16
        return array
    good = np.isfinite(array)
    if not good.all():
        bad = int(good.size - np.count_nonzero(good))
        first = np.unravel_index(int(np.argmin(good)), good.shape)
        place = [int(i) for i in first]
        place[: len(start)] = [
            i + s for i, s in zip(place[: len(start)], start, strict=True)
        ]
        told = f"{tuple(place)}"
        if len(axes) == array.ndim:
            told = ", ".join(f"{a} {i}" for a, i in zip(axes, place, strict=True))
        raise DataError(
            f"{path}: {what} has {bad} values that are NaN or infinite of "
            f"{array.size}, the first at {told}"
        )
    return array


def in_short(names: Iterable[object], most: int = 8) -> str:
    """Names in a message: the first of them, cut short, and how many more there are.

    Args:
        names: What a file holds or lacks; a damaged one may hold thousands.
        most: How many to write out.
    """
    every = list(names)
    shown = ", ".join(repr(name)[:160] for name in every[:most])
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return f"[{shown}]{more}"
