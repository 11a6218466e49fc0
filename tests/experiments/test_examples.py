"""Every example runs, at small size, and says what it promises."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.vlp.pairs import random_pair

EXAMPLES = Path(__file__).resolve().parents[2] / "experiments" / "examples"


def a_run_and_films(folder: Path) -> list[str]:
    """A run of two towers, and three films."""
    run = random_pair(folder / "run", ["The lungs are clear.", "Right effusion."])
    rng = np.random.default_rng(0)
    (folder / "films").mkdir()
    for i in range(3):
        film = rng.integers(0, 255, (40, 30)).astype(np.uint8)
        Image.fromarray(film).save(folder / "films" / f"{i}.png")
    return [str(run), str(folder / "films")]


def nothing(folder: Path) -> list[str]:
    """An example that brings its own data."""
    del folder
    return []


CASES = [
    ("kernels_alone", nothing, [], ["found 8 of 8", "films and reports (8, 8)"]),
    ("reconstruct_and_map", nothing, ["36"], ["nominal R 4", "t1.nii.gz written"]),
    ("embed_and_search", a_run_and_films, [], ["3 films", "like 0.png: 0.png"]),
    ("two_towers", nothing, ["2", "40"], ["step 2 ", "R@10"]),
]
"""Example, what it is given, further arguments, and what it has to say."""


@pytest.mark.parametrize(
    ("name", "given", "arguments", "said"), CASES, ids=[case[0] for case in CASES]
)
def test_an_example_runs(name, given, arguments, said, tmp_path, monkeypatch, capsys):
    script = EXAMPLES / f"{name}.py"
    assert script.read_text().count("# %% ") >= 4
    monkeypatch.setattr(sys, "argv", [str(script), *given(tmp_path), *arguments])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr()
    for words in said:
        assert words in printed.out + printed.err
