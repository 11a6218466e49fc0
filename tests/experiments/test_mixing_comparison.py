"""The comparison of mixes: equal budgets, a known law, tables of what was run."""

import dataclasses
import json
import math

import numpy as np
import pytest

from experiments.compare import mixing
from experiments.compare.mixing import ARMS, SCORES, TESTED, Comparison, table
from experiments.compare.publishing import asked_for, keep
from medjax.metrics.cases import EMPTY
from medjax.segmentation.phantoms.lesions import load_moments
from medjax.segmentation.pretrained import Segmenter

CONFIG = Comparison(seeds=(0, 1), train_cases=(2,))


def test_arms_differ_in_their_mixing_alone():
    runs = [mixing.settings(name, 4, 1, CONFIG) for name in ARMS]
    plain = [
        dataclasses.replace(
            run, about="", workdir=runs[0].workdir, mixing=runs[0].mixing
        )
        for run in runs
    ]
    assert plain == [plain[0]] * len(plain)
    assert (
        len({run.mixing for run in runs}) == len({r.workdir for r in runs}) == len(runs)
    )
    first = runs[0]
    assert first.data.train_cases == 4 and first.data.seed == first.train.seed == 1


def test_the_log_normal_law_has_the_moments_of_the_loads():
    mean, sd = load_moments(TESTED)
    mu, s = mixing.log_normal(TESTED)
    assert math.exp(mu + s**2 / 2) == pytest.approx(mean)
    assert math.sqrt(math.expm1(s**2)) * mean == pytest.approx(sd)


def test_brains_without_lesions_on_a_side_are_counted(monkeypatch):
    """Of four brains one is missed, one has none, and one only by the network."""
    none, some = np.zeros((6, 6, 1), bool), np.zeros((6, 6, 1), bool)
    some[1:4, 1:4] = True
    pairs = [(some, some), (none, some), (some, none), (none, none)]
    masks = [(*pair, (1.0, 1.0, 1.0)) for pair in pairs]
    monkeypatch.setattr(mixing, "predicted", lambda *_: masks)
    found = mixing.scored(Segmenter.__new__(Segmenter), CONFIG)
    assert found["dice"] == 0.5
    assert [found[name] for name in EMPTY] == [1, 1, 1]


def test_the_table_has_a_row_for_each_method_and_its_difference(tmp_path):
    config = dataclasses.replace(CONFIG, systems=("none", "cutmix"), workdir=tmp_path)
    rng = np.random.default_rng(0)
    budget = asked_for(config, mixing.BUDGET)
    for name in config.systems:
        for seed in config.seeds:
            better = 0.1 * (name == "cutmix")
            scores = {key: better + float(rng.random()) / 1e3 for key in SCORES}
            row = {"system": name, "seed": seed, **scores, "seconds": 1}
            folder = tmp_path / f"{name}-2-{seed}"
            keep(folder / "result.json", {"budget": budget, "row": row})
    results = mixing.compare(config)
    assert "missed" not in table(results), "runs of before counted nothing"
    for seed in config.seeds:  # runs of now do
        for name in config.systems:
            path = tmp_path / f"{name}-2-{seed}" / "result.json"
            kept = json.loads(path.read_text())
            kept["row"] |= {"n_both_empty": 0, "n_missed": 2 + seed, "n_false": 0}
            keep(path, kept)
        results = mixing.compare(config)
        assert ("| missed |" in table(results)) == (seed == config.seeds[-1])
    assert "| 2.5 ± 0.7 |" in table(results)
    (against,) = results["differences"]["2"]
    assert against["system"] == "cutmix"
    assert against["dice"]["mean"] == pytest.approx(0.1, abs=2e-3)
    text = table(results)
    assert text.count("| CutMix |") == 3 and text.count("| no mixing |") == 2
    assert "2 brains, minus no mixing" in text
    with pytest.raises(ValueError, match="use another workdir"):
        mixing.compare(dataclasses.replace(config, steps=3))
