"""Fine-tuning for masks and boxes, from a command line to a model that is asked."""

import dataclasses
import functools
import json
import sys
from unittest.mock import Mock

import jax
import numpy as np
import pytest

import medjax
from experiments.finetune import PRESETS
from medjax.data.boundary import DataError
from medjax.train.checkpoint import saved_steps
from medjax.train.experiment import command
from medjax.train.leaving import abilities
from medjax.vlp import placing
from medjax.vlp.finetuned import open_classifier
from medjax.vlp.finetuning import asked_for
from medjax.vlp.labelled import Labelled
from medjax.vlp.placed import PlacedFilms
from medjax.vlp.placing import (
    asks_for_places,
    at_size,
    describe,
    run_places,
    scores_of,
)
from medjax.vlp.starts import find_start
from medjax.vlp.towers import ImageTowerConfig
from tests.experiments.interrupted import same_variables, stopped
from tests.vlp.pairs import random_pair

ONE = jax.devices()[:1]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    texts = ["Normal.", "A bright film."]
    return random_pair(folder / "pair", texts, architecture="resnet_tiny")


def asked(monkeypatch, start, workdir, *flags):
    """The configuration that a command line gives; a few films of 32 pixels."""
    monkeypatch.setattr(sys, "argv", ["finetune"])
    line = ["tiny", str(start), "--patients", "40", "--batch-size", "16"]
    line += ["--prepared", str(start.parent / "set"), "--workdir", str(workdir)]
    config = command(PRESETS, "", [*line, *flags])
    assert asks_for_places(config)
    return config


@pytest.fixture(scope="module")
def learned(start, tmp_path_factory):
    """Whatever is asked for by name, learned once: configuration and results."""
    flags = {"mask": (), "boxes": ("--method", "linear")}

    @functools.cache
    def learn(kind):
        folder = tmp_path_factory.mktemp(kind)
        with pytest.MonkeyPatch.context() as patch:
            given = ("--target", kind, "--epochs", "1", *flags[kind])
            config = asked(patch, start, folder, *given)
        return config, run_places(config, devices=ONE)

    return learn


def test_masks_are_learned_opened_and_asked(monkeypatch, start, learned):
    config, results = learned("mask")
    folder = config.workdir
    assert 0 <= results["dice"] <= 1 and results["with_lesion"] > 0
    kept = json.loads((folder / "evaluation.json").read_text())
    assert kept["splits"]["sha256"] == results["splits"]["sha256"]
    assert (folder / "report.html").read_text().count("data:image/png") >= 3
    assert "find" in abilities(folder, config.uses)
    model = medjax.load(folder)
    films = np.random.default_rng(0).integers(0, 256, (2, 32, 32), np.uint8)
    said = model.masks(films)
    assert said.shape == (2, 32, 32) and 0 <= said.min() <= said.max() <= 1
    with pytest.raises(ValueError, match="was not fine-tuned for boxes"):
        model.boxes(films)
    with pytest.raises(DataError, match="lesion_masks"):
        open_classifier(folder)
    flags = ("--target", "mask", "Cardiomegaly")
    other = asked(monkeypatch, start, folder, *flags)
    with pytest.raises(DataError, match="use another workdir"):
        run_places(other, devices=ONE)


def test_boxes_are_learned_by_a_head_on_a_frozen_tower(start, learned):
    config, results = learned("boxes")
    assert 0 <= results["map"] <= 1 and results["boxes"] > 3
    model = medjax.load(config.workdir)
    assert [said["name"] for said in model.record.generators] == ["drawn"]
    ours, theirs = (
        medjax.load(folder).variables["params"]["image"]
        for folder in (config.workdir, start)
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    (found,) = model.boxes(np.zeros((1, 32, 32), np.uint8))
    assert found.boxes.shape == (len(found.scores), 4)


@pytest.mark.parametrize("kind", ["mask", "boxes"])
def test_it_goes_on_where_it_was_stopped(kind, monkeypatch, learned, tmp_path):
    whole, results = learned(kind)
    cut = dataclasses.replace(whole, workdir=tmp_path / "cut")
    monkeypatch.setattr(placing, "show", lambda *of, title: None)
    with stopped():
        run_places(cut, devices=ONE)
    assert saved_steps(cut.workdir) == [1]
    assert run_places(cut, devices=ONE) == results
    same_variables(cut.workdir, whole.workdir)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("mask", "Mass"), r"no \['Mass'\] among the labels"),
        (("mask", "--exclusive"), "mask has no classes"),
        (("boxes", "--head", "upernet"), "upernet finds masks, not boxes"),
    ],
)
def test_what_does_not_fit_is_refused(monkeypatch, start, tmp_path, flags, message):
    config = asked(monkeypatch, start, tmp_path / "run", "--target", *flags)
    with pytest.raises(ValueError, match=message):
        run_places(config, devices=ONE)


def test_the_protocol_of_siim_balances_and_a_run_says_so(start):
    preset = PRESETS["mask-siim"]
    assert preset.films.balance and preset.films.batch_size == 8
    assert PRESETS["mask"].films == dataclasses.replace(
        preset.films, balance=False, batch_size=16
    )
    data = Mock(spec=Labelled, splits=Mock(digest="0"))
    data.names = ("Pneumothorax",)
    found = find_start(str(start), preset.image)
    asked = asked_for(preset, found, data)
    plain = asked_for(PRESETS["mask"], found, data)
    assert asked == plain | {"balance": True}


def test_a_upernet_mirrors_films_and_has_benchx_s_widths(monkeypatch, start, tmp_path):
    flags = ("--target", "mask", "--head", "upernet", "--size", "48")
    config = asked(monkeypatch, start, tmp_path / "run", *flags)
    large = ImageTowerConfig("resnet50")
    found = find_start(config.start, config.image, config.size)
    prepared = {"image_size": 48, "resize": "mgca"}
    data = Mock(spec=Labelled)
    data.corpus = Mock(metadata={"name": "x", "settings": prepared}, generators=())
    for tower, width in ((found.image, 64), (large, 512)):
        record = describe(config, "mask", (), found._replace(image=tower), data)
        system = record.system
        assert (system.head, system.widths) == ("upernet", (width,))
        assert system.augment.flip_horizontal == 0.5 and system.augment.size == 48
        assert system.augment.rotation == (0.0, 0.0)
    plain = dataclasses.replace(config, head="unet")
    assert describe(plain, "mask", (), found, data).system.augment.flip_horizontal == 0


class Films(PlacedFilms):
    """Four films of two pixels a side, as the scores ask for them."""

    truth = np.array([[[1, 1], [0, 0]], [[1, 0], [0, 0]], [[0, 0]] * 2, [[0, 0]] * 2])

    def __init__(self):
        self.kind, self.size = "mask", 2

    def __len__(self):
        return len(self.truth)

    def mask(self, row):
        return self.truth[row].astype(bool)


def test_dice_counts_an_empty_mask_where_nothing_is():
    found = np.array(
        [[[1, 1], [1, 1]], [[0, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 1]]], float
    )
    scores = scores_of(found, Films())
    # 2 of 2 + 4, nothing of one, both empty, a false pixel.
    assert scores["dice"] == pytest.approx((4 / 6 + 0 + 1 + 0) / 4)
    assert scores["dice_of_nothing"] == 0.5 and scores["with_lesion"] == 2
    assert scores["dice_pooled"] == pytest.approx(2 * 2 / (5 + 3))
    # Of the background 10 of 11 and 13 pixels.
    background = 2 * 10 / (11 + 13)
    assert scores["dice_with_background"] == pytest.approx((0.5 + background) / 2)
    assert scores["dice_by_size"] == pytest.approx([0.0, 4 / 6])


def test_what_was_found_is_shown_at_the_size_of_the_film():
    told = np.array([[[0.0, 1.0], [0.0, 0.0]]])
    expected = np.zeros((1, 4, 4), bool)
    expected[0, :2, 2:] = True
    np.testing.assert_array_equal(at_size(told, 4), expected)
