"""The comparison of motion: one mesh at end-diastole, tables and claims of what ran."""

import dataclasses

import numpy as np
import pytest

from experiments.compare import motion
from experiments.compare.motion import ARMS, CLINIC, PLACES, STILL, Comparison, table
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
    for name in ("deepmesh", "graph"):
        assert asked[f"{name}_sax"] == asked[name]


def test_claims_are_judged_by_differences_over_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(motion, "open_motion", lambda *_: None)
    config = dataclasses.replace(
        CONFIG, systems=("images", "deepmesh"), workdir=tmp_path
    )
    rng = np.random.default_rng(0)
    budget = [config.steps, repr(config.data)]
    for name in config.systems:
        for seed in config.seeds:
            worse = {STILL: 5.0, "images": 3.0, "deepmesh": 1.0}
            rows = [
                {
                    "system": which,
                    "seed": seed,
                    **{
                        k: worse[which] + rng.random() / 100
                        for k in {**PLACES, **CLINIC}
                    },
                    "seconds": 1,
                }
                for which in (STILL, name)
            ]
            folder = tmp_path / f"{name}-{seed}"
            keep(folder / "result.json", {"budget": budget, "rows": rows})
    results = motion.compare(config)
    assert [row["system"] for row in results["summary"]] == [STILL, *config.systems]
    assert {row["seeds"] for row in results["summary"]} == {2}
    told = {one["claim"]: one["difference"]["mean"] for one in results["claims"]}
    # The others need systems that did not run.
    assert len(told) == 4
    assert told["a mesh beats registered images, by vertices"] == pytest.approx(
        -2, abs=1
    )
    text = table(results)
    assert text.count("| no motion |") == text.count("| DeepMesh |") == 2
    assert text.count("| yes |") == 4
    with pytest.raises(ValueError, match="use another workdir"):
        motion.compare(dataclasses.replace(config, steps=3))
