"""One heart with an infarct, for all tests of this room."""

import numpy as np
import pytest

from medjax.heart.phantom import Heart, make_heart

TIMES = np.array([0.0, 0.2, 0.35, 0.6, 0.9])


def ill_heart(**changes: float) -> Heart:
    """A man's heart with an infarct in front, or with other measures."""
    measures = {
        "volume": 158.0,
        "mass": 103.0,
        "length": 96.0,
        "ejection_fraction": 0.58,
        "shortening": 0.16,
        "rv_volume": 170.0,
        "infarct": 0.8,
        "infarct_angle": 2.0,
        "infarct_z": 50.0,
    }
    return make_heart(**(measures | changes))


@pytest.fixture(scope="session")
def heart() -> Heart:
    return ill_heart()
