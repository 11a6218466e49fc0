"""The ten lines of README.md do what they show."""

import doctest
from pathlib import Path

import medjax.mri

README = Path(medjax.mri.__path__[0]) / "README.md"


def test_the_example_in_the_readme_runs():
    found = doctest.testfile(str(README), module_relative=False)
    assert found.attempted >= 8 and found.failed == 0


def test_every_file_named_in_it_exists():
    text = README.read_text()
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    assert links and all((README.parent / link).exists() for link in links)
