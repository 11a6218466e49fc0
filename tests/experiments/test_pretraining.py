"""The pre-training experiments from flags to report, a few steps of each.

What they learn is measured by ``experiments.compare.pretraining``; here every part has
to fit the next: data, language model, training, resuming, evaluation, page, export.
"""

import dataclasses
import json
import shutil
from typing import Any

import jax
import numpy as np
import pytest

import medjax
from experiments import convirt, gloria, imitate, mflag, mgca
from experiments.compare.pretraining import ENDPOINT, decided, table
from experiments.compare.publishing import summarise
from medjax.report.run import without_nan
from medjax.train import goodput, speed
from medjax.train.log import read_metrics
from medjax.train.mesh import make_mesh
from medjax.train.optimizer import OptimizerConfig
from medjax.vlp import features, pretraining, show
from medjax.vlp.corpus import Corpus
from medjax.vlp.evaluate import ProbesConfig, evaluate
from medjax.vlp.pretraining import run
from medjax.vlp.system import PretrainingSystem
from medjax.vlp.tokens import SPECIAL
from medjax.vlp.words import continuing_pieces
from tests.experiments.interrupted import same_files, stopped

TIMED = {*speed.TIMED, *goodput.ROW}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def small(preset, workdir, *, steps, architecture="vit_tiny", lr=1e-3, **checkpoints):
    """A preset on a few small films; a constant rate, so that the run can go on."""
    change = dataclasses.replace
    image = change(
        preset.image, architecture=architecture, checkpoint=checkpoints.get("image")
    )
    return change(
        preset,
        data=change(
            preset.data,
            patients=40,
            image_size=32,
            batch_size=16,
            root=checkpoints.get("root"),
            prepared=workdir.parent / "data",
        ),
        text=change(preset.text, max_length=32, checkpoint=checkpoints.get("text")),
        image=image,
        optimizer=OptimizerConfig(lr=lr),
        train=change(preset.train, steps=steps, log_every=1, checkpoint_every=100),
        language=change(preset.language, steps=2, batch_size=16),
        evaluation=change(preset.evaluation, fractions=(1.0,), batch_size=8),
        warmup_fraction=None,
        workdir=workdir,
    )


@pytest.fixture(scope="module")
def trained(folder):
    """M-FLAG in one go, its language model trained first, and what came out."""
    config = small(mflag.PRESETS["tiny"], folder / "whole", steps=3)
    return folder / "whole", run(config, mflag.mflag, devices=jax.devices()[:1])


def curve(workdir):
    return [
        {name: value for name, value in row.items() if name not in TIMED}
        for row in read_metrics(workdir)
    ]


def embeddings(rows):
    """Of both sides, as an evaluation gives them for the page."""
    return {side: np.ones((rows, 2), np.float32) for side in ("image", "text")}


def check_results(results, workdir):
    """Everything that the page and the terminal promise is there and is a number."""
    kept = json.loads(
        (workdir / "evaluation.json").read_text(), parse_constant=pytest.fail
    )
    assert kept == without_nan(results)
    (probe,) = results["linear_probe"]
    retrieval = results["retrieval"]
    numbers = [probe["macro_auc"], results["zero_shot"]["macro_auc"]]
    for direction in ("image_to_text", "text_to_image"):
        numbers += [retrieval[direction][f"R@{k}"] for k in (1, 5, 10)]
    assert np.isfinite(numbers).all() and 0 <= min(numbers) <= max(numbers) <= 1
    assert probe["chance"] == results["zero_shot"]["chance"] == 0.5
    page = (workdir / "report.html").read_text()
    for finding in probe["auc"]:
        assert f'<td class="">{finding}</td>' in page
    assert page.count('<img src="data:image/png;base64,') >= 6


def test_a_run_ends_with_an_evaluation_and_a_page(trained):
    workdir, results = trained
    check_results(results, workdir)
    assert results["retrieval"]["section"] == "report"
    assert [row["step"] for row in read_metrics(workdir)] == [1, 2, 3]


def test_the_page_says_before_all_else_that_reports_are_real(trained, folder):
    workdir, results = trained
    corpus = Corpus(folder / "data", max_tokens=32)
    found = embeddings(results["test"])

    def blocks():
        return show.report(workdir, results, found, corpus, title="a")._blocks

    assert "Real data" not in "".join(blocks())
    corpus.metadata["name"] = "openi"
    first = blocks()[0]
    assert first.startswith('<p class="notice">Real data') and "from openi." in first


def test_a_probes_splits_are_encoded_by_one_program(trained, folder):
    corpus = Corpus(folder / "data", max_tokens=32)
    traced = []

    def embedded(variables, x):
        traced.append(x.ndim)
        return x.reshape(len(x), -1)[:, :2].astype(np.float32)

    parts: list[Any] = [embedded] * 6
    system = PretrainingSystem(*parts, tokens=("report",), compared="report")
    config = ProbesConfig(fractions=(1.0,), batch_size=8)
    mesh = make_mesh(devices=jax.devices()[:1])
    evaluate(system, {}, corpus, mesh=mesh, max_length=32, config=config)
    # Films for their features and embeddings, and once more for both other splits.
    assert traced.count(3) == 3


@pytest.fixture
def known(trained, monkeypatch):
    """What is already known in place of an evaluation, which others have run."""
    results, found = trained[1], embeddings(trained[1]["test"])
    monkeypatch.setattr(pretraining, "evaluate", lambda *a, **o: (results, found))


def test_asked_to_stop_it_goes_on_as_if_it_had_not(trained, folder, known, monkeypatch):
    whole = trained[0]
    cut = folder / "cut"
    shutil.copytree(whole / "language", cut / "language")
    config = small(mflag.PRESETS["tiny"], cut, steps=3)
    with stopped():
        run(config, mflag.mflag, devices=jax.devices()[:1])
    assert not (cut / "evaluation.json").exists() and len(curve(cut)) < 3
    (said,) = cut.glob("text_features_*.npz")
    said.unlink()
    # What its report tower says is read where another run has kept it.
    monkeypatch.setattr(features, "encode", None)
    run(config, mflag.mflag, devices=jax.devices()[:1], kept=whole)
    assert curve(cut) == curve(whole)
    same_towers(cut, whole)


def same_towers(one, other):
    """Both towers that two runs left are equal to the bit."""
    for tower in ("image", "text"):
        name = f"towers/{tower}/model.safetensors"
        same_files(one / name, other / name)


def test_towers_leave_as_checkpoints_and_start_another_system(trained, folder, known):
    towers = trained[0] / "towers"
    config = small(
        convirt.PRESETS["tiny"],
        folder / "convirt",
        steps=1,
        lr=0.0,
        image=str(towers / "image"),
        text=str(towers / "text"),
    )
    again = dataclasses.replace(config.data, prepared=folder / "again")
    config = dataclasses.replace(config, data=again)
    run(config, convirt.convirt, devices=jax.devices()[:1])
    # Tokenised by the tower's own tokenizer, texts are words and not [UNK].
    reports = Corpus(folder / "again", max_tokens=32).column("train", "report")
    ids = np.concatenate(reports)
    assert (ids == SPECIAL.index("[UNK]")).mean() < 0.01 < (ids > len(SPECIAL)).mean()
    same_towers(folder / "convirt", trained[0])


def test_imitate_reads_both_sections_and_trains_on_two_devices(trained, folder):
    config = small(
        imitate.PRESETS["tiny"],
        folder / "imitate",
        steps=1,
        architecture="resnet_tiny",
        text=str(trained[0] / "language" / "checkpoint"),
        root=folder / "data",
    )
    results = run(config, imitate.imitate, devices=jax.devices()[:2])
    check_results(results, folder / "imitate")
    assert results["retrieval"]["section"] == "impression"
    (row,) = read_metrics(folder / "imitate")
    terms = ("diagnosis_impression", "reading_findings")
    views = ("diagnosis_views", "reading_views")
    assert row["loss"] == pytest.approx(sum(row[t] for t in terms + views), rel=1e-5)


@pytest.mark.parametrize(
    ("door", "build", "terms"),
    [
        (gloria, gloria.gloria, ("local", "global")),
        (mgca, mgca.mgca, ("instances", "tokens", "prototypes")),
    ],
    ids=["gloria", "mgca"],
)
def test_systems_that_look_at_words_run_to_their_page(
    door, build, terms, trained, folder, known
):
    workdir = folder / build.__name__
    config = small(
        door.PRESETS["tiny"],
        workdir,
        steps=1,
        text=str(trained[0] / "language" / "checkpoint"),
        root=folder / "data",
    )
    # The first of the checkpoint's two layers, as MGCA takes six of twelve.
    first = dataclasses.replace(config.text, layers=1)
    config = dataclasses.replace(config, text=first)
    results = run(config, build, devices=jax.devices()[:2])
    check_results(results, workdir)
    (row,) = read_metrics(workdir)
    assert row["loss"] == pytest.approx(sum(row[t] for t in terms), rel=1e-5)
    assert "Words and places" in (workdir / "report.html").read_text()
    # Opened again, it scores films, and its words are those of its own tokenizer.
    pair = medjax.load(workdir)
    films = np.random.default_rng(0).integers(0, 256, (2, 32, 32), np.uint8)
    assert np.isfinite(pair.zero_shot(films, ["Edema"])).all()
    assert continuing_pieces(pair.record.with_sizes(workdir).text).sum() > 10


def test_the_comparison_is_mean_and_deviation_over_seeds():
    rows = [
        {"system": "mflag", "seed": seed, "seconds": 1, "zero-shot": value}
        for seed, value in enumerate((0.6, 0.7, 0.8))
    ]
    (entry,) = summary = summarise(rows)
    assert entry["seeds"] == 3
    assert entry["zero-shot"] == pytest.approx({"mean": 0.7, "sd": 0.1})
    shown = {"summary": summary, "differences": [], "named": [], "report_towers": {}}
    assert "| M-FLAG | 0.700 ± 0.100 |" in table(shown)


def test_named_differences_are_paired_by_seed_and_get_their_verdict():
    values = {"imitate": (0.83, 0.84, 0.85), "imitate_hard": (0.8, 0.811, 0.82, 0.1)}
    rows = [
        {"system": name, "seed": seed, ENDPOINT: value}
        for name, numbers in values.items()
        for seed, value in enumerate(numbers)
    ]
    # The other pair has no run, and the fourth seed no partner.
    (entry,) = decided(rows, margin=0.01)
    assert entry["seeds"] == 3 and entry["mean"] == pytest.approx(0.0297, abs=1e-3)
    assert entry["verdict"] == "better" and 0.02 < entry["low"] < entry["high"] < 0.04
    shown = table(
        {"summary": [{"system": "imitate", "seeds": 3}], "differences": []}
        | {
            "named": [entry],
            "report_towers": {"trained": [1.5, 2.5], "by_frequency": 60.0},
        }
    )
    assert f"| {entry['difference']} | +0.030 [" in shown and "better (0.01)" in shown
    assert "2.00 ± 0.71; by the pieces' frequency: 60.0" in shown


def test_lengths_that_no_step_would_have_are_refused_first(tmp_path):
    def refused(preset, build, **changes):
        config = small(preset, tmp_path / "run", steps=1)
        lengths = pretraining.LengthsConfig(**changes)
        with pytest.raises(ValueError) as told:
            run(dataclasses.replace(config, lengths=lengths), build)
        assert not (tmp_path / "run").exists()
        return str(told.value)

    kept = refused(mflag.PRESETS["tiny"], mflag.mflag, buckets=(16,))
    assert kept.startswith("lengths.buckets: ") and "--no-cache-text" in kept
    tiny = convirt.PRESETS["tiny"]
    assert "2 to text.max-length, 32" in refused(tiny, convirt.convirt, buckets=(64,))
    assert "lengths.window" in refused(tiny, convirt.convirt, window=0)


def test_gloria_says_what_its_local_contrast_costs():
    tiny = gloria.PRESETS["tiny"]
    told = gloria.cost(tiny)
    assert "from 33 pairs of a batch on; this batch has 64" in told
    apart = dataclasses.replace(tiny.loss, negatives="local")
    assert "pairs of a device" in gloria.cost(dataclasses.replace(tiny, loss=apart))
    few = dataclasses.replace(tiny.system, local_negatives=3)
    told = gloria.cost(dataclasses.replace(tiny, system=few))
    assert told == "local contrast: with 3 others of 64 pairs"
