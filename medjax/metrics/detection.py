"""How well boxes are found: average precision as tables have it, and as it should be.

Boxes are ``x0 y0 x1 y1``. A detection is right if it overlaps a box of the truth that
no surer detection has taken, by an IoU of the threshold at least. Three numbers, each
the mean over thresholds from 0.4 to 0.75 (:data:`THRESHOLDS`):

* :func:`average_precision`: area under precision and recall over all images together,
  the precision read at 101 recalls as COCO does (Lin et al., ECCV 2014).
* the same with ``counted="both"``: as MGCA and its successors publish it. Their code
  leaves out every image without a box, whose false alarms then cost nothing, and every
  image without a detection, whose missed boxes then cost nothing.
* :func:`challenge_precision`: of the RSNA Pneumonia Detection Challenge (2018): per
  image TP / (TP + FP + FN), mean over thresholds and over images that have a box or a
  detection.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import Bool, Float

Boxes: TypeAlias = Float[np.ndarray, "_n 4"]
THRESHOLDS = tuple(round(0.4 + 0.05 * i, 2) for i in range(8))
RECALLS = np.linspace(0.0, 1.0, 101)


class Detections(NamedTuple):
    """What was found in one image."""

    boxes: Boxes
    scores: Float[np.ndarray, " _n"]
    """How sure; larger is surer."""


def iou(
    a: Float[np.ndarray | jax.Array, "*b n 4"],
    b: Float[np.ndarray | jax.Array, "*b m 4"],
) -> Any:
    """Intersection over union of every box of one side with every box of the other.

    Args:
        a: Boxes ``x0 y0 x1 y1``; NumPy or JAX.
        b: Likewise.

    Returns:
        ``*b n m``; 0 where both boxes are empty.
    """
    xp = a.__array_namespace__()
    low = xp.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = xp.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    both = xp.prod(xp.maximum(high - low, 0.0), axis=-1)
    one, other = (xp.prod(xp.maximum(x[..., 2:] - x[..., :2], 0.0), -1) for x in (a, b))
    either = one[..., :, None] + other[..., None, :] - both
    return both / xp.where(either > 0, either, 1.0)


def right(
    pairs: Sequence[tuple[Detections, Boxes]],
    thresholds: Sequence[float] = THRESHOLDS,
) -> list[Bool[np.ndarray, "t _d"]]:
    """Which detections are right at which threshold, the surest first.

    All images at once, detection by detection: a loop as long as the image with most.

    Args:
        pairs: What was found in each image, in any order, and its boxes.
        thresholds: Of the IoU.

    Returns:
        For each image and threshold, row by row of the detections as they are sorted
        by score.
    """
    found = [len(one.scores) for one, _ in pairs]
    boxes = [len(truth) for _, truth in pairs]
    # What is not there overlaps nothing.
    overlaps = np.full((len(pairs), max(found, default=0), max([1, *boxes])), -1.0)
    for image, (one, truth) in enumerate(pairs):
        order = np.argsort(-one.scores, kind="stable")
        overlaps[image, : len(order), : len(truth)] = iou(one.boxes[order], truth)
    free = np.ones((len(pairs), len(thresholds), overlaps.shape[2]), bool)
    hits = np.zeros((len(pairs), len(thresholds), overlaps.shape[1]), bool)
    for i in range(overlaps.shape[1]):
        left = np.where(free, overlaps[:, None, i], -1.0)
        best = left.argmax(axis=2)[..., None]
        at = np.take_along_axis(left, best, axis=2)
        hit = at >= np.asarray(thresholds)[:, None]
        np.put_along_axis(free, best, np.take_along_axis(free, best, 2) & ~hit, 2)
        hits[:, :, i] = hit[..., 0]
    return [rows[:, :n] for rows, n in zip(hits, found, strict=True)]


def average_precision(
    found: Sequence[Detections],
    truth: Sequence[Boxes],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    counted: Literal["all", "both"] = "all",
) -> float:
    """Mean over thresholds of the area under precision and recall.

    Args:
        found: Detections of each image.
        truth: Boxes of each image.
        thresholds: Of the IoU.
        counted: Every image, or (as published) those alone that have both a box and a
            detection.

    Returns:
        In [0, 1]; NaN where no image that counts has a box.

    Raises:
        ValueError: The numbers of images differ.
    """
    pairs = _pairs(found, truth)
    if counted == "both":
        pairs = [(f, t) for f, t in pairs if len(f.scores) and len(t)]
    boxes = sum(len(t) for _, t in pairs)
    if not boxes:
        return float("nan")
    scores = [np.sort(f.scores)[::-1] for f, _ in pairs]
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hits = np.concatenate(right(pairs, thresholds), axis=1)
    return float(np.mean([_area(row[order], boxes) for row in hits]))


def challenge_precision(
    found: Sequence[Detections],
    truth: Sequence[Boxes],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
) -> float:
    """Mean over images and thresholds of TP / (TP + FP + FN).

    Args:
        found: Detections of each image; how sure they are decides only which come
            first.
        truth: Boxes of each image.
        thresholds: Of the IoU.

    Returns:
        In [0, 1]; NaN where all images have neither box nor detection.

    Raises:
        ValueError: The numbers of images differ.
    """
    pairs = [(f, t) for f, t in _pairs(found, truth) if len(f.scores) or len(t)]
    each = []
    for (one, boxes), rows in zip(pairs, right(pairs, thresholds), strict=True):
        hits = rows.sum(1)
        each.append(np.mean(hits / (len(one.scores) + len(boxes) - hits)))
    return float(np.mean(each)) if each else float("nan")


def _pairs(
    found: Sequence[Detections], truth: Sequence[Boxes]
) -> list[tuple[Detections, Boxes]]:
    if len(found) != len(truth):
        raise ValueError(
            f"found and truth: expected one of each per image, got {len(found)} and "
            f"{len(truth)}"
        )
    return list(zip(found, truth, strict=True))


def _area(hits: Bool[np.ndarray, " n"], boxes: int) -> float:
    """Mean over recalls of the best precision at that recall or beyond."""
    total = np.cumsum(hits)
    precision = total / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(total / boxes, RECALLS, side="left")
    return float(np.mean(np.append(best, 0.0)[np.minimum(at, len(best))]))
