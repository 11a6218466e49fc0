"""How much memory a whole image takes, told before it is begun.

Tiles bound what the device holds (:mod:`.inference`). The host holds the image as the
network sees it and every map that is asked for, in the network's voxels and again in
the file's: a whole-body scan of 951x512x512 voxels is a gigabyte for each number per
voxel. Classes are not among these: labels are chosen plane by plane. Work of hours that
ends without memory ends without a word, so it is refused at the start.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from medjax.data.boundary import DataError

FLOAT = 4
"""Bytes of a number."""
SHARES = 4
"""Of a number that is said: so often it is there while its planes are passed on."""


def needed(
    seen: Sequence[int],
    original: Sequence[int],
    *,
    channels: int,
    kept: int,
    said: int,
    planes: int,
) -> int:
    """Bytes that the host holds at most while one image is segmented, about.

    Args:
        seen: Voxels along the axes as the network has them.
        original: The same of the file.
        channels: Of the image.
        kept: Numbers of every voxel that are held until the end: maps beside the
            labels, probabilities if they are asked for, and those of every draw.
        said: Numbers of every voxel that are held of a few planes: all classes.
        planes: How many, of the network's first axis.
    """
    # Pieces along the first axis are put together while they are still there.
    network = math.prod(seen) * (channels + 2 * kept)
    # Sums over tiles of this row and the last, what they come to, and the same turned.
    passing = SHARES * min(planes, seen[0]) * math.prod(seen[1:]) * said
    # On the file's grid: the image, what is written, labels, where voxels are seen, and
    # one volume at work in double precision.
    file = math.prod(original) * (channels + kept + 7)
    return FLOAT * (network + passing + file)


def available() -> int | None:
    """Bytes that can be had without swapping; None where the machine does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    told = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(told[0]) if told else None


def refuse_too_large(id: str, size: int, shape: Sequence[int]) -> None:
    """Refuses an image that there is no memory for.

    Args:
        id: Of the image.
        size: Bytes, of :func:`needed`.
        shape: Voxels as the network has them.

    Raises:
        DataError: Naming both sizes.
    """
    left = available()
    if left is not None and size > left:
        voxels = "x".join(map(str, shape))
        raise DataError(
            f"{id}: {voxels} voxels take about {size / 2**30:.1f} GiB of memory and "
            f"{left / 2**30:.1f} GiB are left (fewer maps or draws take less)"
        )
