"""Whether a generator gives back what it was trained on.

A made film is a copy if it is nearer to a film of the training set than real people's
films are to each other. What is near is asked twice: of features, and of small pixels;
and what real held-out films do is told beside, since patients with several films, and
duplicates across the border of a split, are near as well. Of such duplicates it is said
how many there are, and how many there would be among films of different people.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.spatial.distance import cdist

SIDE = 32
"""Of the small pixels."""
QUANTILE = 0.01
"""Of real films' distances to their nearest training film: nearer ones are suspects."""
SAME = 0.95
"""Of the distances of films to altered copies of themselves: no farther, no other."""
BLOCK = 512


class Nearest(NamedTuple):
    """The training films next to each film."""

    row: Int[np.ndarray, " n"]
    """The nearest one."""
    distance: Float[np.ndarray, " n"]
    second: Float[np.ndarray, " n"]
    """Distance of the one after."""


def nearest(
    films: Float[np.ndarray, "n d"], known: Float[np.ndarray, "m d"]
) -> Nearest:
    """The two nearest of known films.

    Args:
        films: features, or pixels.
        known: of the training films, two at least.

    Raises:
        ValueError: fewer than two.
    """
    if len(known) < 2:
        raise ValueError(f"known: expected two films at least, got {len(known)}")
    rows, first, second = [], [], []
    for start in range(0, len(films), BLOCK):
        table = cdist(films[start : start + BLOCK], known)
        two = np.partition(table, 1, axis=1)
        rows.append(table.argmin(1))
        first.append(two[:, 0])
        second.append(two[:, 1])
    if not rows:
        return Nearest(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    return Nearest(np.concatenate(rows), np.concatenate(first), np.concatenate(second))


def small_pixels(films: UInt8[np.ndarray, "n h w"]) -> Float[np.ndarray, "n d"]:
    """Films of 32 pixels, each of mean 0 and deviation 1: exposure is nobody's mark.

    Args:
        films: of 32 pixels a side, or a multiple; others are cut.
    """
    n, h, w = films.shape
    a, b = max(1, h // SIDE), max(1, w // SIDE)
    cut = films[:, : h // a * a, : w // b * b].astype(np.float32)
    flat = cut.reshape(n, h // a, a, w // b, b).mean((2, 4)).reshape(n, -1)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.maximum(flat.std(1, keepdims=True), 1e-6)


def suspects(
    made: Nearest, held_out: Nearest, *, quantile: float = QUANTILE
) -> dict[str, Any]:
    """How many made films lie suspiciously near to a training film.

    Args:
        made: of the generated films.
        held_out: of real films that the generator has not seen.
        quantile: of the real ones that counts as near.

    Returns:
        ``limit`` (a distance), ``share`` of made films below it (a generator without
        memory has ``expected``), how many ``held_out`` films lie at exactly 0, and
        ``ratio``: median of first to second distance, made and held out; it falls where
        one training film in particular is given back.
    """
    limit = float(np.quantile(held_out.distance, quantile))
    # An exact copy is one however near held-out films are, twins among them.
    below = (made.distance < limit) | (made.distance <= 1e-9)

    def ratio(found: Nearest) -> float:
        return float(np.median(found.distance / np.maximum(found.second, 1e-12)))

    return {
        "limit": limit,
        "share": float(below.mean()),
        "expected": quantile,
        "held_out_copies": int((held_out.distance <= 1e-9).sum()),
        "ratio": {"made": ratio(made), "held out": ratio(held_out)},
    }


def near_duplicates(
    held_out: Nearest,
    strangers: Nearest,
    altered: Float[np.ndarray, " c"],
    *,
    quantile: float = SAME,
) -> dict[str, Any]:
    """Held-out films that are as near to a training film as copies of it would be.

    A split that lets one film into both its halves, saved anew or exposed otherwise,
    makes every number of the held-out half too good, and copies by a generator look
    like what real films do.

    Args:
        held_out: of the held-out films, among those of training.
        strangers: of training films of different people, among themselves; their
            ``second`` is the nearest that is not the film itself.
        altered: distances of films to altered copies of themselves.
        quantile: of these, up to which films are taken for the same one.

    Returns:
        ``limit`` (a distance), ``found`` films that are no farther and their ``share``;
        the ``floor`` is that share among strangers, who look alike by chance.
    """
    limit = float(np.quantile(altered, quantile))
    near = held_out.distance <= limit
    return {
        "limit": limit,
        "found": int(near.sum()),
        "share": float(near.mean()),
        "floor": float((strangers.second <= limit).mean()),
    }


def worst(made: Nearest, most: int = 20) -> Int[np.ndarray, " k"]:
    """Rows of the made films that are nearest to training films, nearest first."""
    return np.argsort(made.distance, kind="stable")[:most]
