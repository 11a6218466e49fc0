"""How far apart two sets of images are, by vectors of features of them.

*Fréchet distance* (Heusel et al., "GANs trained by a two time-scale update rule", NIPS
2017): of the normal distributions with the sets' means and covariances. With few images
it is too large, by an amount that depends on the features: it means something only
beside the distance of two halves of the real set, of the same size. *Kernel distance*
(Binkowski et al., "Demystifying MMD GANs", ICLR 2018): the squared maximum mean
discrepancy under a cubic kernel, whose estimate is right on average for any number.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import linalg

Features = Float[np.ndarray, "_ _"]


def frechet_distance(real: Features, other: Features) -> float:
    """``|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))``.

    The trace of the root is the sum of the singular values of the product of the two
    sets of centred vectors: no root of a product of covariances, which is complex by
    its rounding, is ever taken, and sets of fewer vectors than features are no
    special case.

    Args:
        real: features.
        other: features of the same kind.

    Raises:
        ValueError: fewer than two vectors, or of different widths.
    """
    x, y = _checked(real, other)
    means = x.mean(0), y.mean(0)
    x = (x - means[0]) / np.sqrt(len(x) - 1)
    y = (y - means[1]) / np.sqrt(len(y) - 1)
    apart = float(((means[0] - means[1]) ** 2).sum())
    spread = float(np.vdot(x, x) + np.vdot(y, y))
    return max(0.0, apart + spread - 2.0 * _common(x, y))


def _common(x: Features, y: Features) -> float:
    """The sum of the singular values of ``x y^T``.

    Of more vectors than features, by the eigenvalues of ``(x^T x)(y^T y)``, which are
    those of a symmetric matrix once one factor is split into triangles: a fraction of
    the time, and half of the digits, which leaves 1e-8 of the largest value.
    """
    if min(len(x), len(y)) <= x.shape[1]:
        return float(np.linalg.svd(x @ y.T, compute_uv=False).sum())
    squares: Any
    try:
        squares = linalg.eigvalsh(y.T @ y, x.T @ x, type=2, driver="gv")
    except linalg.LinAlgError:  # features that depend on each other
        triangle: Any = np.linalg.qr(x, mode="r")
        squares = np.linalg.eigvalsh(triangle @ (y.T @ y) @ triangle.T)
    return float(np.sqrt(np.maximum(squares, 0.0)).sum())


def kernel_distance(
    real: Features,
    other: Features,
    *,
    seed: int = 0,
    subsets: int = 20,
    size: int = 500,
) -> tuple[float, float]:
    """Squared maximum mean discrepancy under ``(x y / d + 1)^3``.

    Args:
        real: features.
        other: features of the same kind.
        seed: of the subsets.
        subsets: how many.
        size: of each, at most; all of a set that is no larger, and then every subset
            is the same and there is no deviation.

    Returns:
        Mean and standard deviation over the subsets.

    Raises:
        ValueError: fewer than two vectors, or of different widths.
    """
    x, y = _checked(real, other)
    rng = np.random.default_rng(seed)
    n = min(size, len(x), len(y))
    found = [
        _discrepancy(*(a[rng.choice(len(a), n, replace=False)] for a in (x, y)))
        for _ in range(subsets)
    ]
    return float(np.mean(found)), float(np.std(found))


def _discrepancy(x: Features, y: Features) -> float:
    n, d = x.shape

    def kernel(a: Features, b: Features) -> np.ndarray:
        return (a @ b.T / d + 1.0) ** 3

    within = sum(
        (k.sum() - np.trace(k)) / (n * (n - 1)) for k in (kernel(x, x), kernel(y, y))
    )
    return float(within - 2.0 * kernel(x, y).mean())


def _checked(real: Features, other: Features) -> tuple[Features, Features]:
    if min(len(real), len(other)) < 2 or real.shape[1] != other.shape[1]:
        raise ValueError(
            f"features: expected two vectors or more, of one width, got shapes "
            f"{real.shape} and {other.shape}"
        )
    return np.asarray(real, np.float64), np.asarray(other, np.float64)
