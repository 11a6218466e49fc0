"""Sentences of a class as one score: laws of each way, and a command that asks."""

import csv
import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

import medjax
from experiments import zero_shot
from medjax.vlp.ensembles import (
    EnsembleConfig,
    class_scores,
    sentences,
    standardised,
)
from medjax.vlp.gloria import GloriaConfig
from medjax.vlp.prompts import PARTS, PROMPTS_VERSION, prompts
from tests.vlp.pairs import SYSTEM, random_pair

CLASSES = {"A": (["a", "b"], ["c"]), "B": (["d"], [])}


def test_sides_are_put_together_and_absence_is_taken_off():
    asked = sentences(CLASSES)
    assert asked.texts == list("abcd")
    found = np.array([[1.0, 3.0, 0.5, 7.0], [-1.0, 0.0, -2.0, 0.0]])
    mean = class_scores(found, asked, "similarities")
    np.testing.assert_allclose(mean, [[2.0 - 0.5, 7.0], [-0.5 + 2.0, 0.0]])
    best = class_scores(found, asked, "max")
    np.testing.assert_allclose(best, [[3.0 - 0.5, 7.0], [0.0 + 2.0, 0.0]])


@pytest.mark.parametrize("classes", [{}, {"A": ([], ["c"])}, {"A": ("a", "c")}])
def test_a_class_without_sentences_is_refused(classes):
    with pytest.raises(ValueError, match=r"expected one|class 'A' needs two lists"):
        sentences(classes)


def test_standardised_scores_know_their_company():
    scores = np.random.default_rng(0).normal(3.0, 2.0, (9, 2))
    found = standardised(scores)
    np.testing.assert_allclose(found.mean(0), 0.0, atol=1e-12)
    np.testing.assert_allclose((found**2).mean(0), 1.0)
    np.testing.assert_array_equal(found.argsort(0), scores.argsort(0))
    np.testing.assert_array_equal(standardised(scores[:1]), scores[:1])
    np.testing.assert_array_equal(standardised(np.ones((3, 1))), 0.0)


def test_sampled_sentences_are_some_of_all_and_the_same_again():
    severity, kinds, places = PARTS["Atelectasis"]
    every = {f"{s} {k} {p}".strip() for s in severity for k in kinds for p in places}
    assert len(every) == len(severity) * len(kinds) * len(places)
    drawn = [prompts("Atelectasis", "sampled", seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    for there, absent in drawn:
        assert set(there) <= every and len(set(there)) == 5 and absent == ()
    many, _ = prompts("Atelectasis", "sampled", sampled=1000)
    assert set(many) == every
    others, _ = prompts("Lung Lesion", "sampled")
    assert set(others) == {"lung lesion"} | {
        f"{s} lung lesion" for s in ("mild", "moderate", "severe")
    }
    with pytest.raises(ValueError, match="sampled: expected 1 at least, got 0"):
        prompts("Edema", "sampled", sampled=0)


def test_means_of_embeddings_are_of_wholes():
    with pytest.raises(ValueError, match="no mean embedding of words"):
        EnsembleConfig(similarity="both")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """GLoRIA of random weights, and films."""
    folder = tmp_path_factory.mktemp("ensembles")
    system = GloriaConfig(width=128, text="report", augment=SYSTEM.augment)
    texts = ["There is mild edema.", "Small pleural effusion on the left."]
    rng = np.random.default_rng(0)
    for i in range(3):
        film = rng.integers(0, 255, (32, 32)).astype(np.uint8)
        Image.fromarray(film).save(folder / f"{i}.png")
    return random_pair(folder / "run", texts, system)


def test_a_command_takes_the_best_of_words_and_wholes(run, tmp_path):
    pair = medjax.load(run)
    films = sorted(run.parent.glob("*.png"))
    names = ["Edema", "Pleural Effusion"]
    flags = ["--wording", "sampled", "--sampled", "3", "--prompt-seed", "2"]
    flags += ["--ensemble.combine", "max", "--ensemble.similarity", "both"]
    flags += ["--ensemble.transductive", "--classes", *names]
    command = [str(run), "--images", str(run.parent / "*.png"), *flags]
    assert zero_shot.main([*command, "--out", str(tmp_path / "s.csv")]) == 0
    with (tmp_path / "s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    got = np.array([[float(row[name]) for name in names] for row in rows])
    for row in rows:
        assert (row["wording"], row["prompts"]) == ("sampled 3 seed 2", PROMPTS_VERSION)
        assert row["ensemble"] == "max both transductive"

    said = {name: prompts(name, "sampled", sampled=3, seed=2) for name in names}
    texts = [text for there, _ in said.values() for text in there]
    wholes = pair.embed_images(films) @ pair.embed_texts(texts).T
    pixels = np.stack([np.asarray(Image.open(film)) for film in films])
    ids = pair.tokenizer.encode(texts, pair.record.text.max_length)
    words = np.asarray(
        jax.jit(pair.system.word_similarity)(pair.variables, pixels, ids)
    )
    best = ((wholes + words) / 2).reshape(3, 2, 3).max(2)
    expected = (best - best.mean(0)) / best.std(0)
    np.testing.assert_allclose(got, expected, atol=2e-3)
    mean = pair.zero_shot(films, said, ensemble=EnsembleConfig("similarities"))
    np.testing.assert_allclose(mean, wholes.reshape(3, 2, 3).mean(2), atol=1e-5)
    # A side that says nothing takes nothing off.
    one = {"Edema": (["There is mild edema."], [])}
    alone = pair.embed_images(films) @ pair.embed_texts(one["Edema"][0]).T
    np.testing.assert_allclose(pair.zero_shot(films, one), alone, atol=1e-5)


def test_words_are_refused_where_a_system_compares_wholes(run):
    pair = medjax.load(run)
    silent = dataclasses.replace(pair.system, word_similarity=None)
    pair = dataclasses.replace(pair, system=silent)
    with pytest.raises(ValueError, match="compares wholes alone"):
        pair.against(["Edema."], "local")
