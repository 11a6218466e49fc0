"""The ten lines of the room's README do what they say."""

import doctest
from pathlib import Path

import medjax.segmentation

README = Path(medjax.segmentation.__path__[0]) / "README.md"


def test_the_example_runs():
    found = doctest.testfile(str(README), module_relative=False)
    assert found.attempted >= 10 and not found.failed
