"""Probes on features whose worth is known beforehand."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from medjax.vlp.probes import (
    LinearProbeConfig,
    linear_probe,
    prompt_embeddings,
    zero_shot,
)
from medjax.vlp.prompts import NOUNS, SENTENCES, prompts
from medjax.vlp.rendering import FINDINGS, parse
from medjax.vlp.retrieval import precision_at, retrieval

NAMES = ("first", "second")
SIZES = {"train": 400, "valid": 120, "test": 300}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(12, 2))
    features, labels = {}, {}
    for split, n in SIZES.items():
        x = rng.normal(size=(n, 12)).astype(np.float32) * np.geomspace(0.1, 10, 12)
        noise = rng.normal(size=(n, 2))
        y = ((x / np.geomspace(0.1, 10, 12)) @ truth + noise > 1.5).astype(np.float32)
        y[rng.random((n, 2)) < 0.1] = np.nan
        features[split], labels[split] = x.astype(np.float32), y
    return features, labels


def probe(data, fraction=1.0, seed=0, **options):
    config = LinearProbeConfig(resamples=20, **options)
    return linear_probe(*data, names=NAMES, fraction=fraction, seed=seed, config=config)


def test_probe_equals_scikit_learn(data):
    features, labels = data
    ours = probe(data, penalties=(0.01,))
    scale = features["train"].std(0)
    for k, name in enumerate(NAMES):
        known = ~np.isnan(labels["train"][:, k])
        model = LogisticRegression(C=1 / (0.01 * known.sum()), tol=1e-6)
        model.fit((features["train"] / scale)[known], labels["train"][known, k])
        scores = model.decision_function(features["test"] / scale)
        seen = ~np.isnan(labels["test"][:, k])
        expected = roc_auc_score(labels["test"][seen, k], scores[seen])
        assert ours["auc"][name] == pytest.approx(expected, abs=2e-3)


def test_more_labels_help_and_the_interval_holds_the_value(data):
    full, tenth = probe(data), probe(data, 0.05)
    assert full["macro_auc"] > 0.85 > 0.5 == full["chance"]
    assert full["macro_auc"] > tenth["macro_auc"]
    assert (full["examples"], tenth["examples"]) == (400, 20)
    low, high = full["macro_auc_interval"]
    assert low < full["macro_auc"] < high
    assert probe(data, 0.05) == tenth
    assert probe(data, 0.05, seed=1)["macro_auc"] != tenth["macro_auc"]


def test_published_protocol_learns_too(data):
    ours = probe(data, solver="adamw", learning_rate=0.02, epochs=20)
    assert ours["macro_auc"] == pytest.approx(probe(data)["macro_auc"], abs=0.02)


def test_penalty_is_chosen_on_validation(data):
    features, labels = data
    rng = np.random.default_rng(3)
    junk = {s: rng.normal(size=(n, 300)).astype(np.float32) for s, n in SIZES.items()}
    wide = {s: np.hstack([features[s], junk[s]]) for s in SIZES}
    weak = probe((wide, labels), penalties=(1e-5,))["macro_auc"]
    chosen = probe((wide, labels))["macro_auc"]
    assert chosen > weak + 0.005


def test_probe_names_bad_input(data):
    features, labels = data
    with pytest.raises(ValueError, match="fraction"):
        probe(data, 0.0)
    with pytest.raises(ValueError, match="'valid' is missing"):
        probe(({"train": features["train"]}, labels))
    with pytest.raises(ValueError, match="names"):
        linear_probe(*data, names=("one",), fraction=1.0, seed=0)


def test_zero_shot_on_planted_directions():
    rng = np.random.default_rng(0)
    labels = (rng.random((300, 2)) < (0.3, 0.5)).astype(np.float32)
    directions = np.eye(8)[:2]
    images = labels @ directions + 0.3 * rng.normal(size=(300, 8))
    out = zero_shot(images, directions, -directions, labels, names=NAMES, resamples=50)
    assert out["macro_auc"] > 0.95
    assert out["prevalence"]["first"] == pytest.approx(labels[:, 0].mean())
    low, high = out["macro_auc_interval"]
    assert low <= out["macro_auc"] <= high
    swapped = zero_shot(images, -directions, directions, labels, names=NAMES)
    assert swapped["macro_auc"] == pytest.approx(1 - out["macro_auc"])
    labels[:, 1] = np.nan
    blind = zero_shot(images, directions, -directions, labels, names=NAMES, resamples=0)
    assert np.isnan(blind["auc"]["second"])
    assert blind["macro_auc"] == pytest.approx(out["auc"]["first"])


def test_prompt_embeddings_are_mean_directions():
    embeddings = np.array([[2.0, 0.0], [0.0, 5.0], [3.0, 0.0]])
    out = prompt_embeddings(embeddings, [0, 0, 1], classes=2)
    np.testing.assert_allclose(out, [[0.5**0.5, 0.5**0.5], [1.0, 0.0]])
    with pytest.raises(ValueError, match=r"classes \[1\]"):
        prompt_embeddings(embeddings, [0, 0, 2], classes=3)


@pytest.mark.parametrize("finding", FINDINGS)
def test_prompts_say_what_they_should(finding):
    positive, negative = prompts(finding)
    assert all(list(parse(text).present) == [finding] for text in positive)
    assert all(finding in parse(text).absent for text in negative)


def test_every_label_has_distinct_prompts():
    for finding in {*NOUNS, *SENTENCES, "Something_New"}:
        positive, negative = prompts(finding)
        assert not set(positive) & set(negative)
    assert prompts("Something_New")[1][1] == "No something new."


def test_retrieval_by_hand_with_a_repeated_report():
    texts = np.eye(4)[[0, 1, 1, 2]]
    reports = ["a", "b", "b ", "c"]
    # Image 1 finds "b" through its twin; image 3 is nearest to "a", then "c".
    images = np.array([[1.0, 0, 0, 0], [0, 1, 0.1, 0], [0, 1, 0, 0], [0.9, 0, 0.5, 0]])
    out = retrieval(images, texts, reports, ks=(1, 2), chunk=3)
    assert (out["pairs"], out["distinct_reports"]) == (4, 3)
    assert out["image_to_text"]["R@1"] == 0.75
    assert out["image_to_text"]["R@2"] == 1.0
    assert out["image_to_text"]["chance"]["R@1"] == pytest.approx(1 / 3)
    assert out["text_to_image"]["R@1"] == 1.0
    # Chance: 1/4 for "a" and "c", 2/4 for "b".
    assert out["text_to_image"]["chance"]["R@1"] == pytest.approx(1 / 3)
    # "b" first, whatever the image, then "a": two images have "b", one has "a".
    constant = out["by_frequency"]
    assert (constant["R@1"], constant["R@2"], constant["median_rank"]) == (
        0.5,
        0.75,
        1.5,
    )
    assert constant["chance"] == out["image_to_text"]["chance"]


def test_retrieval_chunks_agree_and_a_collapsed_model_scores_nought():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(50, 6))
    texts = images + 0.8 * rng.normal(size=(50, 6))
    reports = [str(i) for i in range(50)]
    whole = retrieval(images, texts, reports)
    assert whole == retrieval(images, texts, reports, chunk=7)
    cosine = (images / np.linalg.norm(images, axis=1, keepdims=True)) @ (
        texts / np.linalg.norm(texts, axis=1, keepdims=True)
    ).T
    rank = (cosine > np.diag(cosine)[:, None]).sum(1)
    assert whole["image_to_text"]["R@5"] == pytest.approx((rank < 5).mean())
    collapsed = retrieval(np.ones((50, 6)), np.ones((50, 6)), reports)
    assert collapsed["image_to_text"]["R@10"] == 0.0
    with pytest.raises(ValueError, match="reports"):
        retrieval(images, texts, reports[:-1])


def test_chance_of_retrieval_is_what_random_vectors_reach():
    rng = np.random.default_rng(1)
    reports = [str(i // 3) for i in range(600)]
    text = rng.normal(size=(200, 16))[np.arange(600) // 3]
    out = retrieval(rng.normal(size=(600, 16)), text, reports)["text_to_image"]
    assert out["R@10"] == pytest.approx(out["chance"]["R@10"], abs=0.04)


def test_precision_by_class():
    candidates = np.eye(3)[[0, 0, 0, 1, 1, 2]] + 0.01
    labels = np.array([[1, 0], [1, 0], [0, 0], [0, 1], [0, 1], [np.nan, 0]])
    out = precision_at(
        np.eye(3)[[0, 1]],
        candidates,
        np.array([0, 1]),
        labels,
        names=NAMES,
        ks=(2, 3, 9),
    )
    assert out["P@3"] == pytest.approx(
        {"first": 2 / 3, "second": 2 / 3, "macro": 2 / 3}
    )
    assert out["P@2"]["second"] == 1.0
    assert out["chance"]["first"] == pytest.approx(2 / 6)
    assert "P@9" not in out
    with pytest.raises(ValueError, match="ks"):
        precision_at(
            candidates, candidates, np.zeros(6, int), labels, names=NAMES, ks=(7,)
        )
