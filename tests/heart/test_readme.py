"""The ten lines of README.md do what they show."""

import doctest
from pathlib import Path

import medjax.heart

README = Path(medjax.heart.__path__[0]) / "README.md"


def test_the_example_in_the_readme_runs():
    found = doctest.testfile(str(README), module_relative=False)
    assert found.attempted >= 8 and found.failed == 0
