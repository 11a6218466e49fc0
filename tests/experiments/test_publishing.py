"""Published tables are what their committed results say."""

import json

import pytest

from experiments.compare import pretraining as compare_pretraining
from experiments.compare import reconstruction as compare_reconstruction
from experiments.compare.publishing import HERE, cell, publish, spread


@pytest.mark.parametrize("comparison", [compare_pretraining, compare_reconstruction])
def test_the_readme_shows_the_committed_results(comparison):
    name = f"compare_{comparison.__name__.rpartition('.')[2]}"
    results = json.loads((HERE / "results" / f"{name}.json").read_text())
    _, _, rest = (HERE / "README.md").read_text().partition(f"<!-- {name} -->")
    shown = rest.partition(f"<!-- /{name} -->")[0]
    assert shown.strip() == comparison.table(results)


def test_only_what_is_between_the_marks_changes(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("above\n<!-- a -->\nold\n<!-- /a -->\nbelow\n")
    publish("a", {"x": 1}, "| new |", folder=tmp_path)
    text = readme.read_text()
    assert text == "above\n<!-- a -->\n\n| new |\n\n<!-- /a -->\nbelow\n"
    assert json.loads((tmp_path / "results/a.json").read_text()) == {"x": 1}
    with pytest.raises(ValueError, match="<!-- b -->"):
        publish("b", {}, "", folder=tmp_path)
    assert readme.read_text() == text
    assert not (tmp_path / "results/b.json").exists()


def test_one_seed_has_no_deviation():
    assert cell(spread([0.5])) == "0.500"
    assert cell(spread([1.0, 3.0]), places=1, sign="+") == "+2.0 ± 1.4"
