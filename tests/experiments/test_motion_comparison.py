"""The comparison of motion: one mesh at end-diastole, tables and claims of what ran."""

import dataclasses

import numpy as np
import pytest

from experiments.compare import motion
from experiments.compare.motion import Comparison, table
from experiments.compare.motion_arms import ARMS, STILL, shown
from experiments.compare.motion_claims import (
    CLAIMED,
    CLAIMS,
    CLINIC,
    DEEPMESH,
    PLACES,
    claims,
    numbers,
    of_people,
)
from experiments.compare.publishing import keep
from medjax.heart.motion_systems import stages

CONFIG = Comparison(seeds=(0, 1))


def test_every_system_is_given_the_mesh_and_learns_from_as_much():
    asked = {name: ARMS[name][1] for name in CONFIG.systems}
    assert all(list(stages(run.system)) == ["."] for run in asked.values())
    deep = [asked[name].system for name in ("images", "deepmesh", "projection")]
    assert len({system.network for system in deep}) == 1
    assert deep[0].plane == 0.0 and deep[2].slice == "projection"
    # Of the same settings: what differs is what is seen.
    for name, others in (
        ("deepmesh", ("sax",)),
        ("graph", ("sax", "plain", "aligned")),
    ):
        assert all(asked[f"{name}_{other}"] == asked[name] for other in others)
    whole = CONFIG.data
    assert {shown(name, whole) for name in ("graph", "voxelmorph", "images")} == {whole}
    assert shown("graph_sax", whole) == dataclasses.replace(whole, views="sax")
    scans = {name: shown(f"graph_{name}", whole).scan for name in ("plain", "aligned")}
    plain, line = scans.values()
    assert plain == dataclasses.replace(whole.scan, texture=0.0)
    assert line == dataclasses.replace(whole.scan, shift=0.0, through=0.0)


def test_published_scores_are_kept_by_their_names_and_people_by_their_size():
    views = [
        {"view": view, "method": method, "contour": 1.0 + i, "dice": 0.5}
        | {f"deepmesh_{score}": 2.0 + i for score in ("hd", "mcd", "boundf", "dropped")}
        for method in ("no motion", "VoxelMorph")
        for i, view in enumerate(("sax", "2ch", "4ch"))
    ]
    method = {"method": "VoxelMorph", "vertex": 3.0, "infarct": float("nan")}
    found = numbers(method, {"contours": views})
    assert set(DEEPMESH) < set(found)
    assert found["deepmesh_hd 4ch"] == 4.0 and found["contour 2ch"] == 2.0
    assert found["vertex"] == 3.0
    # Nobody had an infarct: there is no number, which is not one that is no number.
    assert "infarct" not in found
    one = {"basal": -2.0, "contours": {"sax": {"contour": 1.5}}}
    assert of_people([one, one], "basal") == [2.0, 2.0]
    assert of_people([one], "contour sax") == [1.5]


def made(name: str, seed: int, rng: np.random.Generator, *, people: int) -> dict:
    """What a run leaves, whose errors are those of its name give or take little."""
    size = {STILL: 5.0, "images": 3.0, "deepmesh": 1.0}.get(name, 2.0)
    every = {**PLACES, **DEEPMESH, **CLINIC}
    rows, each = [], []
    for which in (STILL, name):
        here = 5.0 if which == STILL else size
        start = {"system": which, "seed": seed}
        rows.append(start | {k: here + rng.random() / 100 for k in every})
        rows[-1]["seconds"] = 1
        each.append(
            start | {k: (here + rng.random(people) / 100).tolist() for k in CLAIMED}
        )
    return {"rows": rows, "people": each}


def test_claims_are_judged_by_people_and_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(motion, "open_motion", lambda *_: None)
    config = dataclasses.replace(
        CONFIG, systems=("images", "deepmesh"), workdir=tmp_path
    )
    rng = np.random.default_rng(0)
    budget = [config.steps, repr(config.data)]
    for name in config.systems:
        for seed in config.seeds:
            left = {"budget": budget, **made(name, seed, rng, people=4)}
            keep(tmp_path / f"{name}-{seed}" / "result.json", left)
    results = motion.compare(config)
    assert [row["system"] for row in results["summary"]] == [STILL, *config.systems]
    assert {row["seeds"] for row in results["summary"]} == {2}
    assert len(results["people"]) == len(results["runs"]) == 6
    told = {one["claim"]: one for one in results["claims"]}
    # The others need systems that did not run.
    assert len(told) == 4
    found = told["a mesh beats registered images, by vertices"]
    assert found["mean"] == pytest.approx(-2, abs=1)
    assert (found["verdict"], found["seeds"], found["subjects"]) == ("better", 2, 4)
    text = table(results)
    assert text.count("| no motion |") == text.count("| DeepMesh |") == 3
    assert text.count("| better (0.2) |") == text.count("| better (0.05) |") == 2
    assert "earlier runs" not in text
    with pytest.raises(ValueError, match="use another workdir"):
        motion.compare(dataclasses.replace(config, steps=3))

    # Another system beside these: their rows stay, and what has no people is told so.
    del results["people"]
    for row in results["runs"]:
        del row["deepmesh_hd sax"]
    keep(tmp_path / "before.json", results)
    other = dataclasses.replace(
        config, systems=("graph_plain",), beside=tmp_path / "before.json"
    )
    for seed in config.seeds:
        left = {"budget": budget, **made("graph_plain", seed, rng, people=4)}
        keep(tmp_path / f"graph_plain-{seed}" / "result.json", left)
    results = motion.compare(other)
    names = [row["system"] for row in results["summary"]]
    # No motion on scans that are otherwise is not that of the others.
    assert names == ["images", "deepmesh", "graph_plain"]
    told = {one["claim"]: one["subjects"] for one in results["claims"]}
    assert set(told.values()) == {1} and len(told) == 2
    text = table(results)
    assert "of every person: images registered; DeepMesh." in text
    assert any(line.startswith("| DeepMesh |  |") for line in text.splitlines())
    with pytest.raises(ValueError, match="beside: .*expected"):
        motion.compare(dataclasses.replace(other, steps=3))


def test_who_has_no_number_is_left_out_of_both():
    claim = next(c for c in CLAIMS if c.error == "basal")
    two = claim.first, claim.second
    rows = [{"system": s, "seed": k, "basal": 1.0} for s in two for k in (0, 1)]
    people = [
        {"system": s, "seed": k, "basal": [2.0 + i, 2.5 + i, 3.0]}
        for i, s in enumerate(two)
        for k in (0, 1)
    ]
    people[0]["basal"][2] = float("nan")
    (found,) = claims(rows, people)
    assert found["subjects"] == 2
    assert found["mean"] == pytest.approx(-1.0) and found["verdict"] == "better"
