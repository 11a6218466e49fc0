"""The comparison under motion: equal runs, numbers by grade, tables of what was run."""

import dataclasses

import numpy as np
import pytest

from experiments.compare import cmrxmotion
from experiments.compare.publishing import asked_for, keep
from medjax.segmentation.cmrxmotion.reader import LABELS

CONFIG = cmrxmotion.Comparison(seeds=(0, 1))


def results(seed, *, grades=(1, 2, 3)):
    """As `experiments.cmrxmotion` evaluates a run; breathing gains 0.1 at grade 3."""
    rng = np.random.default_rng(seed)
    rows = []
    for arm in cmrxmotion.ARMS:
        for grade in grades:
            gain = 0.1 * (arm == "physiological" and grade == 3)
            row = {"trained on": arm, "grade": grade, "n": 4, "acquisitions": 2}
            for number, name in enumerate(LABELS):
                row[f"{name}_dice"] = 0.8
                row[f"{name}_hd95"] = float(number)
            row["dice"] = 0.8 + gain + float(rng.random()) / 1e3
            row |= {"n_both_empty": 0, "n_missed": grade, "n_false": 0}
            row["EF error"] = float("nan") if grade == 1 else 5.0
            rows.append(row)
    confusion = [[6, 1, 0], [1, 2, 0], [0, 1, 1]]
    graded = [
        {"method": name, "kappa": 0.5, "accuracy": 0.75, "confusion": confusion}
        for name in ("softmax", "ordinal", "uncertainty")
    ]
    breathing = [
        {**{key: row[key] for key in row if key != "grade"}, "breathing": way}
        for row in rows
        if row["grade"] == 1
        for way in cmrxmotion.WAYS
    ]
    return {"segmentation": rows, "breathing": breathing, "grading": graded}


def test_runs_differ_in_their_seed_alone():
    runs = [cmrxmotion.settings(seed, CONFIG) for seed in (0, 1)]
    assert [run.data.seed for run in runs] == [run.train.seed for run in runs] == [0, 1]
    first, second = runs
    alike = dataclasses.replace(
        second,
        about=first.about,
        data=first.data,
        train=first.train,
        workdir=first.workdir,
    )
    assert alike == first
    assert first.train.steps == CONFIG.steps
    assert first.grading.steps == CONFIG.grading_steps


def test_an_evaluation_is_told_by_segmenter_and_by_grader():
    told = cmrxmotion.headline(results(0), 7)
    row = told["segmentation"][0]
    assert (row["system"], row["seed"]) == ("clean", 7)
    assert row["hd95 2"] == np.mean(range(len(LABELS))) and row["n_missed 3"] == 3
    # An ejection fraction needs both phases: where none has them nothing is told.
    assert "EF 1" not in row and row["EF 3"] == 5.0
    assert row["dice free"] == row["dice 1"] and row["n_missed free"] == 1
    assert told["scans"] == [7, 3, 2]
    commonest = told["grading"][-1]
    assert commonest["system"] == "commonest"
    assert commonest["accuracy"] == pytest.approx(7 / 12)


def test_the_table_tells_differences_of_grades_that_every_run_has(tmp_path):
    config = dataclasses.replace(CONFIG, workdir=tmp_path)
    budget = asked_for(config, cmrxmotion.BUDGET)
    for seed, grades in ((0, (1, 2, 3)), (1, (1, 3))):
        told = cmrxmotion.headline(results(seed, grades=grades), seed)
        kept = {"budget": budget, **told, "seconds": 1}
        keep(tmp_path / f"seed-{seed}" / "result.json", kept)
    found = cmrxmotion.compare(config)
    assert found["scans"] == [14, 6, 4]
    block, breathing = found["segmentation"]["differences"]
    assert block["dice 3"]["mean"] == pytest.approx(0.0, abs=2e-3)
    assert breathing["dice 3"]["mean"] == pytest.approx(0.1, abs=2e-3)
    assert breathing["dice 1"]["mean"] == pytest.approx(0.0, abs=2e-3)
    text = cmrxmotion.table(found)
    assert "Dice, grade 3" in text and "Dice, grade 2" not in text
    assert "missed, grade 3" in text and "missed, grade 2" not in text
    # Scores and differences, by grade and by way of breathing, and what is empty.
    assert text.count("| at rest, and breathing |") == 5
    assert "Dice, breath hold" in text and "missed, intensive" not in text
    assert "minus at rest" in text and "*the commonest grade for all*" in text
    with pytest.raises(ValueError, match="use another workdir"):
        cmrxmotion.compare(dataclasses.replace(config, steps=3))
