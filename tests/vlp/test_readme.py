"""The example of the room's README runs as it is written."""

import doctest
from pathlib import Path

import numpy as np
from PIL import Image

from tests.vlp.pairs import random_pair

README = Path(__file__).resolve().parents[2] / "medjax" / "vlp" / "README.md"


def test_the_example_is_true(tmp_path, monkeypatch):
    random_pair(tmp_path / "runs/imitate-tiny", ["No pneumothorax.", "Right effusion."])
    (tmp_path / "films").mkdir()
    for i in range(3):
        film = np.random.default_rng(i).integers(0, 255, (40, 30)).astype(np.uint8)
        Image.fromarray(film).save(tmp_path / "films" / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(str(README), module_relative=False)
    assert result.attempted >= 10 and not result.failed
