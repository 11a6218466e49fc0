"""Where findings lie on a film: masks and boxes of lesions, as sets keep them.

A prepared set has a packed mask for every finding that shows on a film (``lesions``,
eight pixels a byte, and ``lesion_findings``, the finding of each), or boxes, or
neither, or both. Each can be had from the other, as the field does it: boxes filled are
masks (RSNA), and what hangs together in a mask has a box round it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

from medjax.data.boundary import DataError
from medjax.data.images import read_image

NONE = ("", "-1")
"""Cells that say that there is nothing to see."""
APART = ("Support Devices",)
"""Not a lesion, though it shows."""


Box = tuple[float, float, float, float]
"""``x, y, width, height`` in pixels of a film's file."""


@dataclass(frozen=True)
class Shape:
    """A closed outline on a film.

    Attributes:
        kind: What it is.
        points: ``x, y`` in pixels of the film: the upper left and the lower right
            corner, of an ellipse those of the box round it; or all corners of a
            polygon, in turn.
    """

    kind: Literal["rectangle", "ellipse", "polygon"]
    points: tuple[tuple[float, float], ...]

    @property
    def box(self) -> Box:
        """The smallest box round it."""
        x, y = zip(*self.points, strict=True)
        return min(x), min(y), max(x) - min(x), max(y) - min(y)


Lesion = str | Shape | Path
"""What a data set says of a lesion: run lengths, an outline, or the file of a mask."""


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


def draw_shape(shape: Shape, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """An outline as a mask: the pixels whose middle is inside.

    Args:
        shape: What lies beside the film is left out; of a polygon that crosses itself,
            what is inside an even number of times is outside.
        size: Of the mask.
    """
    mask = np.zeros(size, bool)
    left, top, width, height = shape.box
    ends = ((top, top + height), (left, left + width))
    window = tuple(
        slice(*np.clip(np.ceil(np.asarray(end) - 0.5), 0, most).astype(int))
        for end, most in zip(ends, size, strict=True)
    )
    y, x = (np.arange(part.start, part.stop) + 0.5 for part in window)
    inside = np.ones((len(y), len(x)), bool)
    if shape.kind == "ellipse":
        across = (x - left - width / 2) / (width / 2)
        down = (y - top - height / 2) / (height / 2)
        inside = across**2 + down[:, None] ** 2 <= 1
    elif shape.kind == "polygon":
        inside[:] = False
        corners = np.asarray(shape.points)
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, 0), strict=True):
            rows = np.flatnonzero((y0 <= y) != (y1 <= y))
            crossing = x0 + (y[rows] - y0) * (x1 - x0) / (y1 - y0)
            inside[rows] ^= crossing[:, None] <= x
    mask[window] = inside
    return mask


def draw_all(
    lesions: Sequence[Lesion], size: tuple[int, int], where: str
) -> Bool[np.ndarray, "h w"]:
    """All lesions as one mask.

    Args:
        lesions: Of one finding of a film.
        size: Of the film, which is that of the mask.
        where: What an error names.

    Raises:
        DataError: One does not fit the film.
    """
    mask = np.zeros(size, bool)
    for lesion in lesions:
        if isinstance(lesion, Shape):
            mask |= draw_shape(lesion, size)
        elif isinstance(lesion, Path):
            mask |= read_mask(lesion, size)
        else:
            mask |= draw_runs(lesion, size, where)
    return mask


def read_mask(path: Path, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """A mask from an image file: 0 where nothing is, and one other value.

    Args:
        path: Any image that films may be; a JPEG blurs the borders and is refused.
        size: Of the film, which must be that of the mask.

    Raises:
        DataError: It cannot be read, holds more values, or has another size.
        FileNotFoundError: It is missing.
    """
    image = read_image(path)
    if image.shape != size:
        raise DataError(
            f"{path}: a mask of {image.shape[1]} x {image.shape[0]} pixels, its film "
            f"has {size[1]} x {size[0]}"
        )
    values = np.unique(image)
    if len(values) > 2 or (len(values) == 2 and values[0]):
        raise DataError(
            f"{path}: a mask of {len(values)} values from {values[0]} to {values[-1]}, "
            "expected 0 where nothing is and one other; save it as PNG"
        )
    return image > 0


def check_boxes(
    boxes: Sequence[Box],
    size: tuple[int, int],
    where: str,
) -> None:
    """Refuses boxes that are of another film, or say something else.

    Args:
        boxes: Of one film.
        size: Height and width of the film.
        where: What an error names.

    Raises:
        DataError: More of a box lies beside the film than on it.
    """
    height, width = size
    for n, (x, y, w, h) in enumerate(boxes, 1):
        seen = [
            max(0.0, min(begin + length, most) - max(begin, 0.0))
            for begin, length, most in ((x, w, width), (y, h, height))
        ]
        if seen[0] * seen[1] < 0.5 * w * h:
            raise DataError(
                f"{where}: most of box {n} lies beside the film of {width} x {height} "
                "pixels"
            )
