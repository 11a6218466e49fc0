"""Arms that differ in their films alone, films that are made once, and the answer."""

import dataclasses
import functools
from typing import Any
from unittest.mock import Mock

import jax
import numpy as np
import pytest

from experiments import synthetic_films, synthetic_places, synthetic_pretraining
from experiments.compare.pretraining_runs import initial
from experiments.compare.publishing import differences, keep, spread
from experiments.synthetic_films import Made, judge, real_films, remembered
from experiments.synthetic_places import asked, leave_untrained, place_scores
from experiments.synthetic_pretraining import (
    SYSTEMS,
    Comparison,
    chosen,
    films_of,
    judgement,
    others,
    trained_generator,
)
from experiments.synthetic_tables import ARMS, answer, table
from medjax.vlp.contrastive import ContrastConfig
from medjax.vlp.corpus import CorpusConfig, open_corpus
from medjax.vlp.diffusion.generator import DiffusionGenerator
from medjax.vlp.pretraining import describe
from medjax.vlp.rendering import generator
from medjax.vlp.starts import find_start
from medjax.vlp.systems import PairRecord
from medjax.vlp.towers import ImageTowerConfig


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "data"
    config = CorpusConfig(patients=40, image_size=32)
    return open_corpus(config, folder, tokenizer=None, max_tokens=32)


@pytest.fixture
def made(corpus, tmp_path):
    """The drawn films of other seeds stand for synthetic ones."""
    return Made(corpus, generator("drawn", size=32), seed=7, folder=tmp_path)


def test_films_are_made_once_and_not_mistaken_for_others(made, corpus, monkeypatch):
    films = made.films("train", 0)
    assert films.shape == (len(corpus.column("train", "id")), 32, 32)
    assert (films != real_films(corpus, "train")).any()
    assert (made.films("train", 1) != films).any()

    def never(*_, **__):
        raise AssertionError("drawn again")

    monkeypatch.setattr(made, "draw", never)
    np.testing.assert_array_equal(made.films("train", 0), films)
    made.described["steps"] = 3
    with pytest.raises(ValueError, match="how films are made"):
        made.films("train", 0)


@pytest.mark.parametrize("arm", ARMS)
def test_arms_have_the_films_that_they_are_called_after(arm, made, corpus):
    kept = np.array([0, 3, 5])
    found = films_of(arm, Comparison(copies=3), corpus, made, kept)
    real, one = real_films(corpus, "train"), made.films("train", 0)
    if arm in ("real", "random"):
        assert found is None
        return
    assert found is not None and len(found.images) == len(real)
    assert found.images.dtype == np.uint8
    first = found.images[:, 0]
    drawn = {"name": "drawn", "section": "report", "size": 32}
    assert found.generators == {
        "mixed": ({**drawn, "seed": 0}, {**drawn, "seed": 7}),
        "several": tuple({**drawn, "seed": seed} for seed in (7, 8, 9)),
        "shuffled": ({**drawn, "seed": 7, "reports": "of other patients"},),
        "null": ({"name": "noise", "seed": 0},),
    }.get(arm, ({**drawn, "seed": 7},))
    if arm in ("synthetic", "curated", "several"):
        np.testing.assert_array_equal(first, one)
        assert found.images.shape[1] == (3 if arm == "several" else 1)
    if arm == "mixed":
        np.testing.assert_array_equal(found.images[:, 0], real)
        np.testing.assert_array_equal(found.images[:, 1], one)
    if arm == "shuffled":
        patients = np.asarray(corpus.column("train", "patient"))
        whose = [int(np.flatnonzero((one == film).all((1, 2)))[0]) for film in first]
        assert sorted(whose) == list(range(len(one))), "each film once"
        assert (patients[whose] != patients).all()
    if arm == "null":
        assert np.abs(first.mean((1, 2)) - 127.5).max() < 10
    assert (found.rows is kept) == (arm == "curated")


def test_a_record_says_what_made_the_films_that_a_run_learned_from(
    made, corpus, tmp_path
):
    preset, build = SYSTEMS["convirt"]
    size = corpus.tokenizer.vocab_size
    text = dataclasses.replace(preset.text, vocab_size=size)
    system = build(preset.system, preset.image, text, ContrastConfig())
    films = films_of("mixed", Comparison(), corpus, made, np.array([0]))
    assert films is not None
    for other, seeds in ((None, [0]), (films, [0, 7])):
        record = describe(preset, text, system, corpus, other)
        record.save(tmp_path, corpus.tokenizer)
        read = PairRecord.load(tmp_path)
        assert read.generators == record.generators
        assert [said["seed"] for said in read.generators] == seeds


def test_others_are_of_other_patients():
    patients = np.array([3, 1, 1, 2, 2, 3, 4, 5])
    found = others(patients)
    assert (patients[found] != patients).all()
    assert sorted(found.tolist()) == list(range(8))


def test_planted_copies_are_found_by_pixels(made, corpus):
    """Darker and with other grain, they are copies still."""
    train, test = made.films("train", 0), made.films("test", 0)

    def features(films: np.ndarray) -> np.ndarray:
        return films.reshape(len(films), -1)[:, ::17].astype(np.float64)

    real = {s: features(real_films(corpus, s)) for s in ("train", "test")}
    synthetic = {"train": features(train), "test": features(test)}
    found = remembered(corpus, real, synthetic, train, test, features)
    assert found["pixels"]["planted copies found"] == 1.0
    assert found["pixels"]["share"] < 0.2
    across = found["pixels"]["across the split"]
    assert across["limit"] > 0 and 0 <= across["share"] <= across["floor"] + 0.2


def test_a_leak_across_the_split_is_seen(made, corpus, monkeypatch):
    """Training films that were exposed otherwise, held out: each is told."""
    known = real_films(corpus, "train")
    leaked = np.clip(0.95 * known[:6] + 3, 0, 255).astype(np.uint8)
    films = {"train": known, "test": leaked}
    monkeypatch.setattr(synthetic_films, "real_films", lambda _, split: films[split])

    def features(films: np.ndarray) -> np.ndarray:
        return films.reshape(len(films), -1)[:, ::17].astype(np.float64)

    real = {"train": features(known), "test": features(leaked)}
    found = remembered(corpus, real, real, known, leaked, features)
    across = found["pixels"]["across the split"]
    assert across["found"] == 6 and across["share"] == 1.0 > across["floor"]


def test_films_are_judged_beside_real_ones(made, corpus, tmp_path):
    """Films of the very generator that drew the real ones are as good as these."""
    rng = np.random.default_rng(0)
    projection = rng.normal(size=(32 * 32, 6)) / 32

    def features(films: np.ndarray) -> np.ndarray:
        return films.reshape(len(films), -1) / 255.0 @ projection

    pictures = tmp_path / "films.html"
    found = judge(corpus, made, features, held_out=10, pictures=pictures)
    near = found["distances"]
    assert near["synthetic"]["frechet"] < near["noise"]["frechet"] / 2
    assert set(found["agreement"]) == {"real", "synthetic", "shuffled"}
    assert abs(found["likeness"]["synthetic"] - found["likeness"]["real"]) < 0.1
    names = [name for name, *_ in found["curation"]]
    assert names == ["quality", "agreement", "distinct", "balance"]
    assert found["curation"][-1][1] == len(found["kept"]) > 0
    page = pictures.read_text()
    assert "nearest to" in page and "As near as a copy: " in page
    said = found["reference"]
    assert (said["films"], said["size"]) == (len(real_films(corpus, "test")), [32, 32])
    again = judge(corpus, made, features, held_out=10, pictures=pictures)
    assert again["reference"] == said


def test_an_untrained_generator_is_judged_beside_the_trained_one(corpus, tmp_path):
    """Films that show nothing stand for its own: no report can be read off them."""
    drawn = generator("drawn", size=32)

    def grey(reports: list[str], *, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return rng.integers(120, 136, (len(reports), 32, 32)).astype(np.uint8)

    draw, bare = Mock(spec=DiffusionGenerator), Mock(spec=DiffusionGenerator)
    for one, makes, weights in ((draw, drawn, "ab"), (bare, grey, "")):
        one.side_effect = makes
        one.described.return_value = {"weights_sha256": weights}
    draw.untrained.return_value = bare
    made = Made(corpus, draw, seed=7, folder=tmp_path)
    assert Made(corpus, drawn, seed=7, folder=tmp_path).untrained() is None

    def features(films: np.ndarray) -> np.ndarray:
        return films.reshape(len(films), 8, 4, 8, 4).mean((2, 4)).reshape(-1, 64) / 255

    pictures = tmp_path / "films.html"
    found = judge(corpus, made, features, held_out=4, pictures=pictures)
    near = found["distances"]
    assert list(near) == ["real", "synthetic", "untrained", "noise"]
    assert {row["n"] for row in near.values()} == {4}
    assert near["untrained"]["frechet"] > near["synthetic"]["frechet"]
    assert list(found["agreement"]) == ["real", "synthetic", "shuffled", "untrained"]
    ((texts,), seeds) = bare.call_args
    assert len(texts) == 4 and seeds == {"seed": 7}


def test_a_generator_is_trained_and_its_films_are_judged_once(
    made, corpus, tmp_path, monkeypatch
):
    """The same command goes on behind both, and another is refused."""
    asked: list[str] = []
    for name, says in (
        ("train_generator", {}),
        ("trained_witness", None),
        ("judge", {"agreement": {"real": 0.9}, "kept": np.array([0, 4])}),
    ):
        monkeypatch.setattr(
            synthetic_pretraining,
            name,
            lambda *_, name=name, says=says, **__: asked.append(name) or says,
        )
    config = Comparison(workdir=tmp_path)
    first = (
        trained_generator(config, corpus),
        judgement(config, corpus, CorpusConfig(), made),
    )
    assert asked == ["train_generator", "trained_witness", "judge"]
    assert first[1]["films"] == {"agreement": {"real": 0.9}}
    assert first[1]["kept"] == [0, 4]
    again = (
        trained_generator(config, corpus),
        judgement(config, corpus, CorpusConfig(), made),
    )
    assert again == first and len(asked) == 3
    with pytest.raises(ValueError, match="generator_steps"):
        trained_generator(dataclasses.replace(config, generator_steps=9), corpus)
    made.described["steps"] = 3
    with pytest.raises(ValueError, match="judged was run with"):
        judgement(config, corpus, CorpusConfig(), made)


def results(synthetic: float) -> dict:
    """As a comparison would leave them, of one seed."""
    scores = {"real": 0.9, "synthetic": synthetic, "random": 0.7, "shuffled": 0.71}
    rows = [
        {"system": f"convirt/{arm}", "seeds": 1, "probe 100 %": spread([score])}
        for arm, score in scores.items()
    ]
    memory: dict[str, Any] = {
        "share": 0.01,
        "expected": 0.01,
        "planted copies found": 1.0,
    }
    memory["ratio"] = {"made": 0.9, "held out": 0.9}
    distance = {"frechet": 2.0, "kernel": 0.1, "kernel_sd": 0.01, "n": 50}
    films = {
        "distances": {"real": distance, "synthetic": {**distance, "frechet": 7.0}},
        "agreement": {"real": 0.95, "synthetic": 0.8, "shuffled": 0.5},
        "likeness": {"synthetic": 0.4, "real": 0.3},
        "memorisation": {"features": memory, "pixels": memory},
        "curation": [["quality", 90, 10]],
    }
    found = {"films": films, "summary": rows, "differences": []}
    return {**found, "answer": answer(found)}


@pytest.mark.parametrize("synthetic, gain", [(0.9, "100%"), (0.8, "50%"), (0.7, "0%")])
def test_the_answer_says_what_synthetic_films_give(synthetic, gain):
    told = answer(results(synthetic))
    assert f"give {gain} of what real ones add" in told
    assert "0.710" in told and "0.800" in told


def test_tables_say_floors_and_counts():
    shown = table(results(0.8))
    assert "| synthetic | 7.00 | 3.5 |" in shown
    assert "| quality | 90 | 10 |" in shown
    assert "| ConVIRT | films of noise |" not in shown
    assert "untrained" not in shown.split("macro AUC of")[0]
    found = results(0.8)
    found["films"]["distances"]["untrained"] = found["films"]["distances"]["real"]
    found["films"]["agreement"]["untrained"] = 0.51
    more = table(found)
    assert "| untrained | 2.00 | 1.0 |" in more and "| untrained | 0.510 |" in more
    assert shown.count("| ConVIRT |") == 4


def test_tables_say_what_distances_are_to_and_what_crosses_the_split():
    found = results(0.8)
    shown = table(found)
    assert "SHA-256" not in shown and "by chance" not in shown
    found["films"]["reference"] = {
        "films": 50,
        "size": [64, 64],
        "pixels_sha256": "ab" * 32,
        "preparation_sha256": "cd" * 32,
    }
    memory = found["films"]["memorisation"]["pixels"]
    memory["across the split"] = {"found": 7, "share": 0.14, "floor": 0.02}
    shown = table(found)
    assert (
        "to 50 held-out films of 64 by 64 pixels" in shown and "cdcdcdcdcdcd" in shown
    )
    assert "| pixels | 7 | 14.0% | 2.0% |" in shown


def test_differences_are_taken_seed_by_seed():
    found = results(0.8)
    assert "minus real films" not in table(found)
    scores = {"real": (0.9, 0.8, 0.85), "synthetic": (0.88, 0.79, 0.83)}
    runs = [
        {"system": f"convirt/{arm}", "seed": seed, "probe 100 %": score}
        for arm, row in scores.items()
        for seed, score in enumerate(row)
    ]
    found["differences"] = differences(runs, "convirt/real")
    shown = table(found)
    assert "| ConVIRT | one synthetic film per report | -0.017 [-0.0" in shown
    assert "Synthetic minus real, seed by seed: -0.017 [-0.0" in answer(found)


def test_columns_that_are_not_asked_for_are_left_out():
    row = {"system": "convirt/real", "seed": 0, "probe 1 %": 0.5, "zero-shot": 0.6}
    row |= {"R@10 image to text": 0.1}
    assert chosen(row, ("probe", "zero-shot", "retrieval")) == row
    assert chosen(row, ("zero-shot",)) == {
        "system": "convirt/real", "seed": 0, "zero-shot": 0.6
    }  # fmt: skip


def test_the_answer_tells_of_places_where_they_were_asked_for():
    found = results(0.8)
    scores = {"real": 0.5, "synthetic": 0.4, "random": 0.3, "shuffled": 0.2}
    for entry in found["summary"]:
        entry["mAP"] = spread([scores[entry["system"].split("/")[1]]])
    assert "Boxes are found to 0.500, 0.400 and 0.300 (mAP)" in answer(found)
    for entry in found["summary"]:
        del entry["probe 100 %"]
    assert "macro AUC" not in answer(found)
    nothing = results(0.8)
    nothing["summary"][0]["probe 100 %"] = spread([0.6])  # below random weights
    assert "nan" not in answer(nothing) and "add nothing" in answer(nothing)


def test_places_are_learnt_on_weights_of_no_step_and_kept(
    corpus, tmp_path, monkeypatch
):
    """Of the weights that an untrained arm is probed with, once."""
    preset, build = SYSTEMS["convirt"]
    config = dataclasses.replace(
        preset,
        text=dataclasses.replace(
            preset.text, tokenizer=str(corpus.folder / "tokenizer")
        ),
        data=dataclasses.replace(preset.data, root=corpus.folder),
        workdir=tmp_path / "run",
    )
    vocabulary = corpus.tokenizer.vocab_size
    text = dataclasses.replace(config.text, vocab_size=vocabulary)
    config = dataclasses.replace(config, text=text)
    begun = []

    def once(*given):
        begun.append(initial(*given))
        return begun[-1]

    monkeypatch.setattr(synthetic_places, "initial", once)
    leave_untrained(config, build)
    leave_untrained(config, build)
    ((_, variables, _),) = begun
    start = find_start(str(config.workdir), ImageTowerConfig())
    jax.tree.map(
        np.testing.assert_array_equal,
        start.variables["params"]["image"],
        variables["params"]["image"],
    )
    wanted = asked("boxes", config.workdir, corpus, steps=8, seed=3)
    assert wanted.method == "linear" and wanted.films.target == ("boxes",)
    assert (wanted.train.steps, wanted.train.eval_every) == (8, 2)
    kept = {"budget": [8], "scores": {"mAP": 0.25}}
    keep(config.workdir / "boxes" / "result.json", kept)
    places = functools.partial(place_scores, ("boxes",), config.workdir, corpus)
    assert places(steps=8, seed=3) == {"mAP": 0.25}
    with pytest.raises(ValueError, match="place_steps"):
        places(steps=9, seed=3)


def test_a_comparison_is_flags():
    names = {field.name for field in dataclasses.fields(Comparison)}
    assert {"arms", "systems", "seeds", "workdir", "publish", "launch"} <= names
