"""One measure of agreement for the tests of networks, whatever they agree with."""

from typing import Any

import jax
import numpy as np

TOLERANCE = 1e-4


def relative_error(ours: jax.Array | np.ndarray, theirs: Any) -> float:
    """Largest difference, in units of the largest value; of theirs, if in PyTorch."""
    if hasattr(theirs, "detach"):
        theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def close(ours: jax.Array | np.ndarray, theirs: Any) -> bool:
    return relative_error(ours, theirs) < TOLERANCE
