"""CHeart from flags to report, a few steps on few people; its folder opens again."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

import medjax
from experiments.cheart import PRESETS, TINY
from experiments.compare import anatomy
from medjax.data.boundary import DataError
from medjax.heart.appearance import LABELS, heart_labels
from medjax.heart.completion import mean_dice
from medjax.heart.data import AnatomyConfig, align, nearest_frames, open_anatomies
from medjax.heart.exporting import anatomy_grid, export_cheart
from medjax.heart.generation import GenerationConfig, run
from medjax.heart.label_maps import Labels
from medjax.heart.phantom import make_heart
from medjax.heart.population import person
from medjax.heart.validation import ValidationConfig
from medjax.train.checkpoint import load_variables
from medjax.train.stopping import best_step, past_scores
from tests.compiling import quickly

DATA = AnatomyConfig(
    frames=3,
    shape=(16, 16, 16),
    spacing=(7.0, 8.0, 8.0),
    people=10,
    test_people=4,
    batch_size=8,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "cheart"
    config = dataclasses.replace(
        TINY,
        system=dataclasses.replace(TINY.system, latent=4, width=2),
        data=DATA,
        train=dataclasses.replace(TINY.train, steps=2, log_every=1),
        validation=ValidationConfig(keep="best"),
        evaluation=GenerationConfig(draws=2, samples=2, sweep=1),
        workdir=folder,
    )
    with quickly():
        yield run(config), folder


def test_a_run_ends_with_scores_beside_controls_and_a_page(finished):
    results, folder = finished
    kept = json.loads((folder / "evaluation.json").read_text())
    rows = {row["method"]: row for row in kept["completion"]}
    assert list(rows)[0] == "first frame repeated" and "CHeart" in rows
    assert rows["first frame repeated"]["dice_first"] == 1
    assert rows["shape space"]["dice"] > rows["first frame repeated"]["dice"]
    assert rows["first frame repeated"]["ef_mae"] > 20
    groups = {row["group"] for row in kept["generation"]}
    assert {"CHeart", "floor", "copy", "unconditional"} <= groups
    assert kept["left_out"] == []
    assert kept["ef_deviation"] == 4.0 and results["people"] == {
        "train": 8,
        "valid": 2,
        "test": 4,
    }
    page = (folder / "report.html").read_text()
    assert "phantoms of one sex deviate by 4" in page and "no method can" not in page
    # Few steps may draw hearts without a left ventricle, which have no sweep.
    assert "age sweep" in page or not any(kept["age_slope"].values())
    assert page.count("<img") >= 7 and "data:image/webp" in page and "://" not in page


def test_a_comparison_tells_presets_over_seeds_and_peers_once(finished, monkeypatch):
    results, _ = finished
    few = functools.partial(anatomy.known_slopes, 200)
    monkeypatch.setattr(anatomy, "known_slopes", few)
    rows = [
        {"system": name, "seed": seed, "results": results}
        for seed in (0, 1)
        for name in ("repo", "improved")
    ]
    summary = anatomy.summarise(rows)
    for part, key in (("completion", "method"), ("generation", "group")):
        peers = [row[key] for row in results[part] if row[key] != "CHeart"]
        told = {row["method"]: row for row in summary[part]}
        labels = [anatomy.ARMS[name][0] for name in ("repo", "improved")]
        assert list(told) == labels + peers
        assert told[labels[0]]["seeds"] == 2 and told[peers[0]]["seeds"] == 1
    mine = next(r for r in results["completion"] if r["method"] == "CHeart")
    first = summary["completion"][0]["dice"]
    assert first["mean"] == pytest.approx(mine["dice"]) and first["sd"] == 0
    better = {**results, "completion": [{**mine, "dice": mine["dice"] + 0.1}]}
    for row in rows[1::2]:
        row["results"] = better
    (pair,) = anatomy.paired(rows)
    assert pair["system"] == "repo" and pair["seeds"] == 2
    assert pair["dice"]["mean"] == pytest.approx(-0.1) and pair["js"]["mean"] == 0
    text = anatomy.table({"summary": summary, "runs": rows})
    assert "| CHeart, as released |" in text and "| first frame repeated |" in text
    assert "| CHeart, as released | -0.100 [-0.100, -0.100] |" in text
    # Nobody can know an ejection fraction better than by the sex: a deviation of 4.
    assert f"| {anatomy.FLOOR} |  |  |  | 3.2 | 4.0 |\n" in text
    slopes = {row["slope"]: row for row in summary["adherence"]}
    assert list(slopes) == list(anatomy.SLOPES)
    assert slopes["LVEF by sex"]["known"] == few()[3]
    told = f"| LVEF by sex, points, men minus women | {few()[3]:.1f} |"
    assert text.count(told) == 1
    drawn = results["adherence"][3]["drawn"]
    assert slopes["LVEF by sex"]["repo"]["mean"] == pytest.approx(drawn, nan_ok=True)
    samples = summary["samples"]
    assert [row["structure"] for row in samples] == ["lv", "myo", "rv"] * 2
    best = results["samples"][1]["dice_best"]
    assert samples[1]["dice_best"]["mean"] == pytest.approx(best, nan_ok=True)
    assert text.count("| CHeart, as released | myo |") == 1
    # Hearts without a left ventricle have no features, and no distances of them.
    less = [{**row} for row in results["generation"]]
    for row in less:
        for name in anatomy.GENERATION if row["group"] == "CHeart" else ():
            row.pop(name, None)
    bare = [{**row, "results": {**results, "generation": less}} for row in rows]
    told = anatomy.table({"summary": anatomy.summarise(bare), "runs": bare})
    assert "| nan ± nan |" in told and "Wasserstein" not in told.split(", paired")[1]
    # Runs from before samples were drawn have no such table.
    older = [
        {**row, "results": {k: v for k, v in results.items() if k != "samples"}}
        for row in rows
    ]
    assert "samples" not in anatomy.summarise(older)


def test_presets_compared_differ_in_what_they_are_named_for():
    arms = {name: arm.system for name, (_, arm) in anatomy.ARMS.items()}
    assert len({(s.latent, s.width, s.shape) for s in arms.values()}) == 1
    assert [s.temporal for s in arms.values()] == ["lstm"] * 3 + ["transformer"]
    assert [s.norm for s in arms.values()] == ["frame", "batch", "group", "group"]
    assert [s.learned_prior for s in arms.values()] == [False, False, True, True]
    assert not anatomy.ARMS["repo"][1].standardise


def test_a_run_opens_again_and_completes_and_generates(finished):
    _, folder = finished
    opened = medjax.load(folder)
    people = open_anatomies(DATA).test.arrays
    cycle = opened.complete(people["labels"][:, 0], people["conditions"])
    assert cycle.shape == (4, 3, 16, 16, 16) and cycle.dtype == np.uint8
    key = jax.random.key(0)
    drawn = opened.generate(people["conditions"], key=key)
    np.testing.assert_array_equal(drawn, opened.generate(people["conditions"], key=key))
    # Asked after every pass over eight people in batches of eight.
    rule = opened.trained.stopping
    scores = past_scores(folder, rule.metric)
    assert list(scores) == [1, 2] and rule.best(scores) == best_step(folder, rule)
    kept = load_variables(folder, step=rule.best(scores))
    jax.tree.map(np.testing.assert_array_equal, opened.variables, kept)
    with pytest.raises(ValueError, match=r"\(16, 16, 8\) voxels, the run's are"):
        opened.complete(people["labels"][:, 0, :, :, :8], people["conditions"])
    with pytest.raises(
        ValueError, match=r"conditions: \(4, 3\) for 4 people, expected"
    ):
        opened.complete(people["labels"][:, 0], people["conditions"][:, :3])
    # The conditions' statistics of the training people went into the record.
    mean = opened.trained.system.condition_mean
    assert 50 < mean[0] < 75 and opened.trained.can == ("complete", "generate")


def test_held_out_people_are_the_same_for_every_seed():
    config = dataclasses.replace(DATA, people=2, test_people=1)
    one, other = (open_anatomies(dataclasses.replace(config, seed=s)) for s in (0, 1))
    np.testing.assert_array_equal(
        one.test.arrays["labels"], other.test.arrays["labels"]
    )
    gap = one.train.arrays["conditions"] - other.train.arrays["conditions"]
    assert np.abs(gap).max() > 1


def test_people_too_few_to_score_are_refused_before_training(tmp_path):
    data = dataclasses.replace(DATA, people=2, test_people=1)
    with pytest.raises(ValueError, match="2 people to train on and 1 held out"):
        run(dataclasses.replace(TINY, data=data, workdir=tmp_path))
    assert not list(tmp_path.iterdir())


def test_two_frames_are_no_cycle(tmp_path):
    """Nor would end-systole, three times as long, be one."""
    shape, spacing = DATA.shape, DATA.spacing
    people = {part: [person(0, 0)] for part in ("train", "test")}
    export_cheart(tmp_path, people, frames=2, shape=shape, spacing=spacing)
    tree = dataclasses.replace(DATA, root=tmp_path, format="cheart")
    with pytest.raises(DataError, match="labels of 2 frames, data.frames is 3"):
        open_anatomies(tree)
    found = open_anatomies(dataclasses.replace(tree, frames=2))
    assert found.train.arrays["labels"].shape == (1, 2, *shape) and not found.filled
    # Of a condition that nobody tells there is no mean.
    table = tmp_path / "conditions.csv"
    rows = [line.rpartition(",")[0] for line in table.read_text().splitlines()]
    table.write_text("\n".join(rows))
    found = open_anatomies(dataclasses.replace(tree, frames=2))
    assert found.filled == {"blood_pressure": 2}
    np.testing.assert_array_equal(found.test.arrays["conditions"][:, -1], 0)


def test_people_of_the_part_val_are_set_aside_or_it_is_said(tmp_path, capsys):
    shape, spacing = DATA.shape, DATA.spacing
    people = {p: [person(0, i)] for i, p in enumerate(("train", "val", "test"))}
    export_cheart(tmp_path, people, frames=2, shape=shape, spacing=spacing)
    tree = dataclasses.replace(DATA, root=tmp_path, format="cheart", frames=2)
    found = open_anatomies(tree)
    told = "1 people of the part 'val' are not read: --validation.keep best"
    assert told in "".join(capsys.readouterr()) and found.valid is None
    found = open_anatomies(tree, aside=7)
    assert "not read" not in "".join(capsys.readouterr())
    for part, (one,) in people.items():
        rows = {"val": found.valid, "train": found.train, "test": found.test}[part]
        np.testing.assert_allclose(
            rows.arrays["conditions"], [one.conditions], rtol=1e-5
        )
    (tmp_path / "label" / "val_sequence.txt").write_text("")
    with pytest.raises(DataError, match="has nobody in the part 'val'"):
        open_anatomies(tree, aside=7)


def test_people_set_aside_are_the_last_and_never_everybody():
    few = dataclasses.replace(DATA, people=3, test_people=1)
    whole, less = open_anatomies(few), open_anatomies(few, aside=2)
    every = whole.train.arrays["labels"]
    assert less.valid is not None
    np.testing.assert_array_equal(less.train.arrays["labels"], every[:1])
    np.testing.assert_array_equal(less.valid.arrays["labels"], every[1:])
    with pytest.raises(ValueError, match=r"1 and validation\.people 3 of 4 people: "):
        open_anatomies(few, aside=3)


def test_frames_between_are_the_nearer_ones_of_the_cycle():
    np.testing.assert_array_equal(nearest_frames(4, 4), [0, 1, 2, 3])
    np.testing.assert_array_equal(nearest_frames(20, 10), np.arange(0, 20, 2))
    np.testing.assert_array_equal(nearest_frames(3, 4), [0, 1, 2, 2])
    assert nearest_frames(25, 20).max() < 25


def test_a_scan_in_any_position_is_brought_into_the_phantoms_frame():
    heart = make_heart(
        volume=150,
        mass=100,
        length=94,
        ejection_fraction=0.6,
        shortening=0.17,
        rv_volume=160,
    )
    times, fine = np.array([0.0, 0.35]), anatomy_grid((32, 36, 36), (4.0, 4.0, 4.0))
    labels = np.transpose(heart_labels(heart, times, fine, samples=1), (0, 3, 2, 1))
    rotation = np.linalg.qr(np.random.default_rng(2).standard_normal((3, 3)))[0]
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation * np.linalg.det(rotation), (40, -90, 200)
    affine = pose @ fine.affine[:, [2, 1, 0, 3]]
    # Slices from base to apex, as some scanners store them.
    flipped = affine.copy()
    flipped[:3, 2], flipped[:3, 3] = -affine[:3, 2], affine[:3, 3] + 31 * affine[:3, 2]
    wanted = heart_labels(heart, times, anatomy_grid(DATA.shape, DATA.spacing))
    for data, where in ((labels, affine), (labels[..., ::-1], flipped)):
        found = align(Labels(data, (0, 1), where), DATA.shape, DATA.spacing, "x")
        assert mean_dice(found[0], wanted[:1])[0] > 0.8
        assert mean_dice(found[1], wanted[1:])[0] > 0.75
    empty = Labels(np.where(labels == LABELS["rv"], 0, labels), (0, 1), affine)
    with pytest.raises(DataError, match="no label of both ventricles"):
        align(empty, DATA.shape, DATA.spacing, "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"people": 0}, "data.people is 0"),
        ({"frames": 1}, "data.frames is 1, expected 2 at least"),
        ({"seed": -1}, "data.seed is -1, expected 0"),
        ({"spacing": (0.0, 1.0, 1.0)}, "expected positive numbers"),
        ({"format": "cheart"}, "a tree needs both"),
    ],
)
def test_impossible_data_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        open_anatomies(dataclasses.replace(DATA, **change))


def test_the_published_sizes_are_presets():
    assert {"tiny", "repo", "paper", "improved"} == set(PRESETS)
    assert PRESETS["repo"].data.shape == (64, 128, 128)
    assert not PRESETS["repo"].standardise and PRESETS["paper"].standardise
    keep = {name: preset.validation.keep for name, preset in PRESETS.items()}
    assert keep.pop("paper") == "best" and set(keep.values()) == {"last"}
