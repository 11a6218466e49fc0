"""Fine-tuning from a command line to a model that is opened and asked."""

import csv
import dataclasses
import json
import sys
from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import medjax
from experiments import classify
from experiments.finetune import PRESETS
from medjax.data.boundary import DataError
from medjax.train.checkpoint import load_variables
from medjax.train.experiment import command
from medjax.train.leaving import abilities
from medjax.train.log import read_metrics
from medjax.vlp.augment import evaluation
from medjax.vlp.classifier import ClassifierConfig, classification_loss, classifier
from medjax.vlp.export import export_pair
from medjax.vlp.finetuned import ClassifierRecord
from medjax.vlp.finetuning import describe, run
from medjax.vlp.finetuning_report import reliability, roc
from medjax.vlp.labelled import Labelled
from medjax.vlp.starts import find_start, load_tower
from medjax.vlp.towers import ImageTowerConfig
from tests.experiments.interrupted import same_variables, stopped
from tests.vlp.pairs import random_pair

ONE = jax.devices()[:1]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    texts = ["Normal.", "A bright film."]
    folder = tmp_path_factory.mktemp("start") / "pair"
    return random_pair(folder, texts, architecture="resnet_tiny")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Films of which one finding is seen at once: they are bright."""
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    rows = ["image,patient,split,Bright,Coin,kind"]
    for i in range(80):
        bright, coin = i % 2, int(rng.integers(2))
        film = rng.integers(0, 100, (32, 32)) + 120 * bright
        Image.fromarray(film.astype(np.uint8)).save(folder / f"{i}.png")
        split = "train" if i < 48 else "valid" if i < 60 else "test"
        kind = ("dark", "light")[bright]
        rows.append(
            f"{i}.png,p{i // 2},{split},{bright},{coin if i % 5 else ''},{kind}"
        )
    (folder / "films.csv").write_text("\n".join(rows) + "\n")
    return folder / "films.csv"


def asked(monkeypatch, start, table, workdir, *flags):
    """The configuration that a command line gives."""
    monkeypatch.setattr(sys, "argv", ["finetune"])
    preset = [flags[0]] if flags[:1] == ("linear",) else []
    line = [*preset, str(start), "--data", str(table), "--patient", "patient"]
    line += ["--split", "split", "--workdir", str(workdir), "--batch-size", "16"]
    line += ["--prepared", str(workdir.parent / "set"), *flags[len(preset) :]]
    return command(PRESETS, "", line)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_exported_towers_say_what_they_are(start, tmp_path):
    pair = medjax.load(start)
    export_pair(tmp_path, pair.record, jax.device_get(pair.variables), pair.tokenizer)
    run = find_start(str(start), ImageTowerConfig())
    for named in (tmp_path, tmp_path / "image"):
        found = find_start(str(named), ImageTowerConfig(dtype="bfloat16"))
        assert found.image.architecture == "resnet_tiny"
        assert found.image.dtype == "bfloat16"
        assert (found.image_size, found.resize) == (run.image_size, run.resize)
        assert evaluation(found.augment) == evaluation(run.augment)
        config = ClassifierConfig(augment=found.augment)
        tower = load_tower(classifier(config, found.image, classes=1), found.image)
        jax.tree.map(np.testing.assert_array_equal, tower, run.variables)
    # What lies beside the image tower is itself and not the image tower.
    text = str(tmp_path / "text")
    assert find_start(text, ImageTowerConfig()).image.checkpoint == text
    wider = find_start(str(start), ImageTowerConfig(), 48)
    assert (wider.image_size, wider.augment.size) == (48, 48)
    path = tmp_path / "preparation.json"
    path.write_text(path.read_text().replace("resnet_tiny", "resnet_9"))
    with pytest.raises(DataError, match="preparation.json: .*resnet_9"):
        find_start(str(tmp_path), ImageTowerConfig())
    path.write_text(path.read_text().replace("0.5", "0.4"))
    path.write_text(path.read_text().replace("resnet_9", "resnet_tiny"))
    with pytest.raises(DataError, match="expected those of one of"):
        find_start(str(tmp_path), ImageTowerConfig())


BOTH = ("--target", "Bright", "Coin")
SELDOM = ("--train.eval-every", "12")
"""Looking at validation costs more than a step here."""


def test_a_record_says_what_made_the_films(monkeypatch, start, table, tmp_path):
    config = asked(monkeypatch, start, table, tmp_path / "run", *BOTH)
    begun = find_start(config.start, config.image, config.size)
    prepared = {"image_size": 32, "resize": "mgca"}
    data = Mock(spec=Labelled, names=("Bright", "Coin"))
    by = ({"name": "diffusion", "section": "impression", "seed": 3},)
    data.corpus = Mock(metadata={"name": "x", "settings": prepared}, generators=by)
    describe(config, begun, data).save(tmp_path)
    assert ClassifierRecord.load(tmp_path).generators == by


def test_a_linear_probe_reads_what_features_know(monkeypatch, start, table, tmp_path):
    flags = ("linear", *BOTH, "--epochs", "40", "--optimizer.lr", "0.02", *SELDOM)
    config = asked(monkeypatch, start, table, tmp_path / "run", *flags)
    results = run(config, devices=ONE)
    assert results["auc"]["Bright"] > 0.95  # a coin is not to be seen on a film
    assert results["auc"]["Coin"] < 0.9
    low, high = results["auc_interval"]["Coin"]
    assert low < results["auc"]["Coin"] < high
    assert results["splits"]["studies"] == {"train": 48, "valid": 12, "test": 20}
    # The tower is the one it started from.
    ours = load_variables(tmp_path / "run")["params"]["image"]
    theirs = load_variables(start)["params"]["image"]
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    # Whoever opens it gets the weights that validation chose, and these predictions.
    model = medjax.load(tmp_path / "run")
    assert model.step == results["step"] and model.findings == ("Bright", "Coin")
    rows = rows_of(tmp_path / "run/predictions.csv")
    said = model.predict([table.parent / row["id"] for row in rows])
    written = [[float(row[name]) for name in model.findings] for row in rows]
    np.testing.assert_allclose(said, written, atol=1e-5)
    out = tmp_path / "findings.csv"
    films = str(table.parent / "7*.png")
    asked_for = [str(tmp_path / "run"), "--images", films, "--out", str(out)]
    assert classify.main(asked_for) == 0
    again = {Path(row["id"]).name: float(row["Bright"]) for row in rows_of(out)}
    assert len(again) == 11 and again["71.png"] > 0.5 > again["70.png"]
    assert rows_of(out)[0]["weights"] == model.checksum[:16]
    # What finds places says so, and this does not.
    assert set(abilities(tmp_path / "run", config.uses)) & {"predict", "find"} == {
        "predict"
    }
    assert model.image_features([table.parent / "0.png"]).shape == (1, 128)
    page = (tmp_path / "run/report.html").read_text()
    assert "real patients" in page and page.count("data:image/png") == 8
    kept = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert kept["splits"]["sha256"] == results["splits"]["sha256"]
    # Another question in the same folder is refused, not mixed in.
    other = asked(monkeypatch, start, table, tmp_path / "run", "--target", "Coin")
    with pytest.raises(DataError, match="'method': 'linear'.*use another workdir"):
        run(dataclasses.replace(other, films=config.films, method="full"), devices=ONE)


@pytest.mark.parametrize("method", ["full", "linear"])
def test_a_tower_is_tuned_or_not_and_goes_on_where_it_was_stopped(
    method, monkeypatch, start, table, tmp_path
):
    flags = ("linear",) if method == "linear" else ()
    flags += (*BOTH, "--epochs", "3", "--train.log-every", "1", "--fraction", "0.5")
    whole = asked(monkeypatch, start, table, tmp_path / "whole", *flags)
    results = run(whole, devices=ONE)
    assert results["labels_used"] == 24
    before, after = (
        load_variables(folder)["params"]["image"]["resnet"]["conv1"]["kernel"]
        for folder in (start, tmp_path / "whole")
    )
    assert (np.abs(before - after).max() > 1e-4) == (method == "full")
    cut = dataclasses.replace(whole, workdir=tmp_path / "cut")
    with stopped():
        run(cut, devices=ONE)
    again = run(cut, devices=ONE)
    assert again["macro_auc"] == results["macro_auc"]
    same_variables(cut.workdir, whole.workdir)
    scores = [
        [row["eval/auc"] for row in read_metrics(folder) if "eval/auc" in row]
        for folder in (tmp_path / "whole", tmp_path / "cut")
    ]
    assert scores[0] == scores[1]


def test_classes_that_exclude_each_other(monkeypatch, start, table, tmp_path):
    flags = ("linear", "--classes", "kind", "--exclusive", "--epochs", "40")
    flags += (
        "--optimizer.lr",
        "0.02",
        "--prepared",
        str(tmp_path / "classes"),
        *SELDOM,
    )
    results = run(asked(monkeypatch, start, table, tmp_path / "run", *flags))
    assert results["accuracy"] > 0.9 and results["most_frequent"] == 0.5
    model = medjax.load(tmp_path / "run")
    said = model.predict([table.parent / "60.png", table.parent / "61.png"])
    np.testing.assert_allclose(said.sum(1), 1.0, rtol=1e-5)
    assert [model.findings[k] for k in said.argmax(1)] == ["dark", "light"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--target", "Mass"), "no column"),
        ((*BOTH, "--exclusive"), "exclusive: expected one class of every film"),
        ((), "name the columns of labels"),
        ((*BOTH, "--fraction", "0"), r"expected \(0, 1\]"),
        ((*BOTH, "--stopping.metric", "dice"), "dice"),
    ],
)
def test_what_does_not_fit_is_refused(
    monkeypatch, start, table, tmp_path, flags, message
):
    config = asked(monkeypatch, start, table, tmp_path / "run", "linear", *flags)
    with pytest.raises(ValueError, match=message):
        run(config, devices=ONE)


def test_losses_are_means_over_what_is_known():
    logits = jnp.array([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]])
    labels = jnp.array([[1.0, jnp.nan, 0.0], [0.0, 1.0, jnp.nan]])
    each = np.log1p(np.exp(-np.array([2.0, -0.5, 0.0, 3.0])))
    found = classification_loss(logits, labels, exclusive=False)
    np.testing.assert_allclose(found, each.mean(), rtol=1e-6)
    labels = jnp.array([[0.0, 0.0, 1.0], [1.0, jnp.nan, 0.0]])
    odds = np.exp(logits[0]) / np.exp(logits[0]).sum()
    found = classification_loss(logits, labels, exclusive=True)
    np.testing.assert_allclose(found, -np.log(odds[2]), rtol=1e-6)
    nothing = jnp.full((2, 3), jnp.nan)
    assert classification_loss(logits, nothing, exclusive=False) == 0.0


def test_curves_of_the_page_are_those_of_the_definition():
    scores = np.array([0.9, 0.8, 0.8, 0.3, 0.1, 0.5])
    labels = np.array([1, 1, 0, 0, 0, np.nan], np.float32)
    points = roc(scores, labels)
    expected = [(0.0, 0.0), (0.0, 0.5), (1 / 3, 1.0), (2 / 3, 1.0), (1.0, 1.0)]
    np.testing.assert_allclose(points, expected, rtol=1e-6)
    assert reliability(scores, labels)[-1] == pytest.approx((0.9, 1.0))
