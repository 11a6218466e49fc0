"""Where findings lie on a film: masks and boxes of lesions, as sets keep them.

A prepared set has a packed mask for every finding that shows on a film (``lesions``,
eight pixels a byte, and ``lesion_findings``, the finding of each), or boxes, or
neither. Each can be had from the other, as the field does it: boxes filled are masks
(RSNA), and what hangs together in a mask has a box round it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

from medjax.data.boundary import DataError

NONE = ("", "-1")
"""Cells that say that there is nothing to see."""
APART = ("Support Devices",)
"""Not a lesion, though it shows."""


def whose(known: Sequence[str], named: Sequence[str]) -> list[int]:
    """Findings whose places are wanted, as places in the set's labels.

    Args:
        known: Names of the set's labels, in order.
        named: The findings; none: all but :data:`APART`.

    Raises:
        DataError: A finding that the set does not know.
    """
    if missing := [name for name in named if name not in known]:
        raise DataError(f"target: no {missing} among the labels {list(known)}")
    wanted = named or [name for name in known if name not in APART]
    return [known.index(name) for name in wanted]


def shows(row: Mapping[str, Any], wanted: Sequence[int]) -> bool:
    """Whether a row has a mask of a wanted finding, or a box, which says of none.

    Args:
        row: Of a prepared set, with ``lesion_findings``, ``boxes`` or both.
        wanted: Findings, as places in the set's labels.
    """
    masks = np.isin(row.get("lesion_findings", ()), wanted)
    return bool(masks.any()) or len(row.get("boxes", ())) > 0


def pack(
    masks: Mapping[str, Bool[np.ndarray, "s _s"]],
    findings: Sequence[str],
    size: int,
) -> tuple[UInt8[np.ndarray, "n bytes"], Int[np.ndarray, " n"]]:
    """Masks of a film as a prepared set keeps them.

    Args:
        masks: By finding; an empty one is left out.
        findings: Names of the set's labels, in order.
        size: Side of the film.

    Returns:
        One row of bytes per mask, and which finding it is.
    """
    kept = {findings.index(name): mask for name, mask in masks.items() if mask.any()}
    rows = [np.packbits(mask) for mask in kept.values()]
    empty = np.zeros((0, -(-size * size // 8)), np.uint8)
    return np.stack(rows) if rows else empty, np.asarray(list(kept), np.int32)


def unpack(
    row: Mapping[str, Any], size: int, wanted: Sequence[int]
) -> Bool[np.ndarray, "s _s"]:
    """Where any of the wanted findings shows.

    Args:
        row: Of a prepared set, with ``lesions`` and ``lesion_findings``.
        size: Side of the film.
        wanted: Findings, as places in the set's labels.
    """
    chosen = row["lesions"][np.isin(row["lesion_findings"], wanted)]
    flat = np.unpackbits(chosen, axis=1, count=size * size)
    return np.any(flat, axis=0).reshape(size, size)


def fill(boxes: Float[np.ndarray, "n 4"], size: int) -> Bool[np.ndarray, "s _s"]:
    """Boxes as a mask: pixels whose middle is in one."""
    middle = np.arange(size) + 0.5
    x, y = (
        (boxes[:, i, None] <= middle) & (middle < boxes[:, i + 2, None]) for i in (0, 1)
    )
    return np.asarray(np.any(y[:, :, None] & x[:, None, :], axis=0))


def surround(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "n 4"]:
    """Boxes round what hangs together in a mask, corners included."""
    parts: Any = ndimage.label(mask, structure=np.ones((3, 3)))
    found = [
        (x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(parts[0])
    ]
    return np.asarray(found, np.float32).reshape(-1, 4)


def draw_runs(runs: str, shape: tuple[int, int], where: str) -> Bool[np.ndarray, "h w"]:
    """A mask from run lengths, as the SIIM-ACR challenge writes them.

    Pairs of numbers: how many pixels to go on from the end of the last run, and how
    long the next one is. Pixels go down the columns.

    Args:
        runs: Numbers between blanks; of :data:`NONE`: nothing to see.
        shape: Of the mask.
        where: What an error names.

    Raises:
        DataError: It is no such list, or runs over the end.
    """
    flat = np.zeros(shape[0] * shape[1], bool)
    if runs.strip() in NONE:
        return flat.reshape(shape)
    words = runs.split()
    if len(words) % 2 or not all(word.isdecimal() for word in words):
        raise DataError(f"{where}: expected pairs of whole numbers as run lengths")
    pairs = np.asarray([int(word) for word in words], np.int64).reshape(-1, 2)
    ends = np.cumsum(pairs.sum(1))
    if ends[-1] > len(flat):
        raise DataError(
            f"{where}: run lengths go to pixel {ends[-1]}, the film has {len(flat)}"
        )
    for end, length in zip(ends, pairs[:, 1], strict=True):
        flat[end - length : end] = True
    return flat.reshape(shape[::-1]).T
