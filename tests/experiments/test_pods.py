"""The page of the planner: what differs from what was planned is said to."""

import functools
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import drill
from experiments.compare import absent, planned, pods, pods_page
from experiments.results import pages

TRAVELS = {"all-reduce": [4, 1668]}
HELD = {
    "summed": [{"devices": 2, "axes": ["data"], "read": TRAVELS, "by_hand": TRAVELS}],
    "memory": [
        dict(step="a", state=8, written_over=8, need=120, compiled=100, measured=120)
    ],
    "loaded": {"bytes": 9, "loaded": 0.5, "run": 0.5},
    "suggested": {
        **{"need": 10, "limit": 5, "then": 4, "compilations": 6},
        "flags": ["--image.remat"],
    },
    "ring": {"temporaries": 1, "most": 2},
    "scaled": {
        "one_s": 1.0,
        "steps": [
            {"rows": n, "remat": False, "predicted_s": n, "measured_s": 1.2 * n}
            for n in (1, 2)
        ],
    },
}
WRONG = {
    "summed": [{**HELD["summed"][0], "by_hand": {"all-reduce": [4, 1664]}}],
    "memory": [{**HELD["memory"][0], "written_over": 9, "measured": 121}],
    "loaded": {"bytes": 9, "loaded": 0.5, "run": 0.25},
    "suggested": {**HELD["suggested"], "flags": None},
    "ring": {"temporaries": 2, "most": 2},
    "scaled": {
        "one_s": 1.0,
        "steps": [
            {"rows": n, "remat": False, "predicted_s": n, "measured_s": 1 / n}
            for n in (1, 2)
        ],
    },
}
SAID = {
    "summed": ("is equal to that", "**differs** from that"),
    "memory": ("first step in 1 of 1", "state is **not**"),
    "loaded": (": equal", "**not equal**"),
    "suggested": ("suggests `--image.remat`", "finds nothing in 6"),
    "ring": ("fewer than", "**not fewer**"),
    "scaled": ("are within", "four is **another**"),
}


@pytest.mark.parametrize("part", SAID)
def test_what_differs_is_said(part):
    table = getattr(planned, f"{part}_table")
    for found, words in zip((HELD, WRONG), SAID[part], strict=True):
        assert words in " ".join(table(found[part]).split())
        page = pods_page.page({"load": [0.5], "cores": 2, part: found[part]})
        assert table(found[part]) in page
        others = set(SAID) - {part}
        assert all(pods_page._ABOUT[name] in page for name in others), "not measured"


def test_a_drill_is_printed_with_the_command_that_repeats_it(monkeypatch):
    monkeypatch.setattr(pods_page.drill, "page", lambda found: "")
    usual = {"kills": 6, "seed": 3, "steps": 200, "processes": 4, "minutes": 5.0}
    settings = {**usual, "elastic": True, "heartbeat": 10.0}
    spent = {"steps": 600.0, "down": 1206.0}
    before = {"settings": settings, "kills": [0] * 6, "seconds": spent}
    words = "--kills 6 --seed 3 --steps 200 --processes 4 --minutes 5.0"
    assert f"drill --elastic {words}\n" in pods_page.told_drill(before)
    assert "goal" not in pods_page.told_drill(before)
    many = {**before, "kills": [0] * 50}
    words_of_it = "took 30.1 minutes: the goal of at most 30 is missed."
    assert words_of_it in pods_page.told_drill(many)
    fast = {**many, "seconds": {"steps": 1799.0}}
    assert "30.0 minutes: the goal of at most 30 is met." in pods_page.told_drill(fast)
    turned = {**settings, "in_turn": True, "heartbeat": 30.0}
    turns = {**before, "settings": turned}
    told = f"drill --elastic --in-turn {words} --heartbeat 30.0\n"
    assert told in pods_page.told_drill(turns)


def test_what_was_not_measured_now_stays_as_it_was():
    kept = {"load": [1.0, 3.0], "ring": HELD["ring"], "drills": [{"seed": 1}]}
    drills = [{"seed": 2}, {"seed": 1}]
    found = pods.joined(kept, {"load": [4.0], "loaded": 5, "drills": drills})
    assert found == {
        **{"load": [1.0, 4.0], "ring": HELD["ring"], "loaded": 5},
        "drills": [{"seed": 1}, {"seed": 2}],
    }


def test_other_work_is_told_of():
    said = {(0.5, 0.9): "nothing else ran.", (4, 9): "it.", (0.5, 9): "not always."}
    for loads, words in said.items():
        head = pods_page.page({"load": loads, "cores": 2}).split(
            "What `experiments.plan`"
        )[0]
        assert head.rstrip().endswith(words)


ELSEWHERE = {
    "topology": {"devices": 16},
    **{"batch": 64, "compiled": True, "memory": {"need": 7e7, "fits": True}},
    "collectives": [
        {"kind": "all-reduce", "count": 2, "bytes": 10},
        {"kind": "all-gather", "count": 1, "bytes": 7},
        {"kind": "all-reduce", "count": 3, "bytes": 5},
    ],
    "step": {"seconds": 0.0015, "binds": "memory"},
}
"""What of a plan's file is told."""


def test_plans_for_absent_machines_are_those_of_the_command(monkeypatch):
    """One could be given by hand; what travels is summed by kind."""
    given = []

    def taken(words):
        given.append(words)
        Path(words[-1]).write_text(json.dumps(ELSEWHERE))
        return {"cpu_s": 42.0, "memory": 2.1e9}

    monkeypatch.setattr(absent, "taken", taken)
    found = absent.absent()
    assert [row["topology"] for row in found] == list(absent.MACHINES)
    summed = {"all-reduce": {"count": 5, "bytes": 15}}
    summed["all-gather"] = {"count": 1, "bytes": 7}
    assert all(row["collectives"] == summed for row in found)
    assert [words[1:3] for words in given] == [["-m", "experiments.plan"]] * len(found)
    assert all("--no-cache" in words for words in given)
    table = absent.absent_table(found)
    for words in given:
        assert f"python -m {' '.join(words[2 : words.index('--no-cache')])}\n" in table
    row = "64 | 70 MB | 1 x all-gather, 0.00 MB in all; 5 x all-reduce, 0.00 MB in all"
    assert f"| v5e-16 | {row} | 1.50, memory | 42 | 2.1 GB |" in table
    assert "each plan is met" in table and "step, compiled for" in table
    for worse, said in {
        ("cpu_s", 181.0): "is **missed**",
        ("memory", 9.1e9): "is **missed**",
        ("compiled", False): "**not compiled** for",
        ("fits", False): "| does not fit: 70 MB |",
    }.items():
        changed = absent.absent_table([{**found[0], worse[0]: worse[1]}])
        assert said in " ".join(changed.split())


def test_what_a_command_takes_is_its_own(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--nonsense")
    ours = np.ones(700_000_000, np.uint8)  # counted as the command's, it would be more
    holds = "import os; assert 'XLA_FLAGS' not in os.environ; x = b'1' * 300_000_000"
    found = absent.taken([sys.executable, "-c", holds])
    assert 3e8 < found["memory"] < 6e8 < ours.nbytes and found["cpu_s"] > 0
    with pytest.raises(ValueError, match="exit.3. ended with 3"):
        absent.taken([sys.executable, "-c", "exit(3)"])


def drilled(seed):
    """A drill of one kill, as its command writes it down."""
    kill = {"processes": 2, "devices": 1, "killed": 0, "phase": "save", "step": 3}
    settings = {"kills": 1, "seed": seed, "steps": 9, "processes": 2, "minutes": 5.0}
    return {
        "settings": {**settings, "workdir": "/somebody/runs"},
        "kills": [{**kill, "statuses": [-9, 75], "gone_after_s": 2.0}],
        **{"undisturbed_s": 8.0, "last": [0, 0], "steps_missing": [], "starts": 2},
        **{"largest_relative_difference": 0.0, "weights_bit_equal": True},
        **{"survived": True, "seconds": dict.fromkeys((*drill.LOST, "steps"), 1.0)},
    }


def test_a_drill_is_added_and_nothing_else_is_touched(tmp_path, monkeypatch, capsys):
    """No part is measured for that, and none of what was published is gone."""
    kept = {"load": [1.0, 3.0], "cores": 2, "ring": HELD["ring"]}
    kept["drills"] = [{**drilled(1), "remark": "\nThe first.\n"}]
    kept["drills"][0]["settings"].pop("workdir")
    (tmp_path / "results").mkdir()
    page = tmp_path / "results/pods.md"
    page.write_text("# Title\n\n<!-- compare_pods -->\n<!-- /compare_pods -->\n")
    numbers = tmp_path / "results/compare_pods.json"
    numbers.write_text(json.dumps(kept))
    tables = {"compare_pods": pages.TABLES["compare_pods"]}
    held = functools.partial(pages.changed, tables, tmp_path)
    for module in (pods, pages):
        monkeypatch.setattr(module, "EXPERIMENTS", tmp_path)
    monkeypatch.setattr(pages, "changed", held)
    found = tmp_path / "drill.json"
    found.write_text(json.dumps(drilled(2)))
    words = ["pods", "--publish", "--drills", str(found)]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(tmp_path / "none.json")])
    told = {}
    for _ in range(2):
        assert pods.main() == 0, "once more adds nothing"
        told = json.loads(numbers.read_text())
        assert told["drills"][:1] == kept["drills"]
        second = drilled(2)
        second["settings"].pop("workdir")
        assert told["drills"][1:] == [second]
        assert {**told, "drills": kept["drills"]} == kept
        assert not held(), "the page is that of the numbers"
    text = page.read_text()
    assert text.count("## A drill") == 2 and "The first." in text
    assert "--kills 1 --seed 2" in text and "somebody" not in text
    found.write_text(json.dumps({"settings": {}}))
    assert pods.main() == 1
    assert "drill.json" in capsys.readouterr().err
    assert json.loads(numbers.read_text()) == told
