"""Published tables are what their committed results say."""

import json
import re

import pytest

from experiments.compare.publishing import (
    cell,
    difference,
    differences,
    finished,
    interval,
    keep,
    spread,
)
from experiments.results.pages import EXPERIMENTS, TABLES, Table, changed, rendered
from medjax.data.boundary import DataError


@pytest.mark.parametrize("name", TABLES)
def test_a_page_shows_the_committed_numbers(name):
    text = (EXPERIMENTS / TABLES[name].page).read_text()
    shown = text.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0]
    assert shown.strip() == rendered(TABLES[name])
    assert shown.count("\n|") > 3


def test_every_mark_is_a_table_and_every_link_a_file():
    pages = [EXPERIMENTS / "README.md", *(EXPERIMENTS / "results").glob("*.md")]
    marked = set()
    for page in pages:
        text = page.read_text()
        marked |= set(re.findall(r"<!-- (\w+) -->", text))
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
    assert marked == set(TABLES)
    front = (EXPERIMENTS / "README.md").read_text()
    assert all(f"(results/{page.name})" in front for page in pages[1:])


def test_only_what_is_between_the_marks_changes(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results/a.json").write_text('{"x": 1}')
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- a -->\nold\n<!-- /a -->\nbelow\n")
    tables = {"a": Table("page.md", ("a.json",), lambda found: f"| {found['x']} |")}
    (text,) = changed(tables, tmp_path).values()
    assert text == "above\n<!-- a -->\n\n| 1 |\n\n<!-- /a -->\nbelow\n"
    page.write_text(text)
    assert not changed(tables, tmp_path)
    with pytest.raises(ValueError, match="<!-- b -->"):
        changed({"b": tables["a"]}, tmp_path)
    (tmp_path / "results/a.json").write_text("{")
    with pytest.raises(DataError, match=r"a\.json"):
        changed(tables, tmp_path)


def test_one_seed_has_no_deviation():
    assert cell(spread([0.5])) == "0.500"
    assert cell(spread([1.0, 3.0]), places=1) == "2.0 ± 1.4"


def test_a_difference_is_paired_and_has_students_interval():
    # Of two seeds Student's t has one degree of freedom: 12.7 standard errors.
    found = difference([1.0, 3.0], [0.5, 2.3])
    assert found["mean"] == pytest.approx(0.6)
    assert found["high"] - 0.6 == pytest.approx(12.706 * 0.1, rel=0.03)
    assert interval(found, places=1) == "+0.6 [-0.7, +1.9]"
    rows = [
        {"system": s, "seed": seed, "a": a}
        for s, seed, a in [("random", 0, 0.1), ("random", 1, 0.2), ("imitate", 1, 0.9)]
    ]
    assert not differences(rows, "random")  # one common seed tells nothing
    rows.append({"system": "imitate", "seed": 0, "a": 0.4})
    (entry,) = differences(rows, "random")
    assert entry["a"]["mean"] == pytest.approx(0.5)


def test_a_finished_run_is_kept_with_its_budget(tmp_path):
    assert finished(tmp_path / "run", [3], "steps") is None
    keep(tmp_path / "run/result.json", {"budget": [3], "row": {}})
    assert finished(tmp_path / "run", [3], "steps") == {"budget": [3], "row": {}}
    with pytest.raises(ValueError, match=r"steps = \[3\], now \[4\]"):
        finished(tmp_path / "run", [4], "steps")
    (tmp_path / "run/result.json").write_text(json.dumps({"row": {}}))
    with pytest.raises(DataError, match=r"result\.json"):
        finished(tmp_path / "run", [3], "steps")
