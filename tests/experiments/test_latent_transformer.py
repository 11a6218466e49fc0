"""The learned reconstructions from flags to report, a few steps of each.

What they learn is measured by ``experiments.compare.reconstruction``; here every part
has to fit the next: phantoms or a prepared set, training, resuming, scores, maps, page.
"""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from experiments.compare import doubling, reconstruction, reconstruction_runs
from experiments.compare.reconstruction import SCORES, differences, summarise, table
from experiments.latent_transformer import NAME, TINY
from medjax.data.record_writer import write_records
from medjax.data.records import Field
from medjax.mri.latent_transformer import CONFIGS as SINGLE_COIL
from medjax.mri.latent_transformer import LatentTransformerConfig
from medjax.mri.reconstruction import run, train
from medjax.mri.reconstruction_report import fit_rows, voxels
from medjax.mri.reconstruction_scores import evaluate, learned, zero_filled
from medjax.mri.scans import (
    ScansConfig,
    batch_of,
    find_sets,
    open_scans,
    training_batches,
)
from medjax.mri.series import fully_sampled
from medjax.mri.systems import ReconstructionKernels, build
from medjax.mri.unrolled import UnrolledConfig
from medjax.report.run import without_nan
from medjax.train import goodput, speed
from medjax.train.log import read_metrics
from medjax.train.optimizer import OptimizerConfig
from tests.compiling import quickly

TIMED = {*speed.TIMED, *goodput.ROW}
DATA = ScansConfig(
    series="t2",
    height=24,
    width=24,
    coils=2,
    acs=6,
    acceleration=(4,),
    patients=8,
    test_patients=2,
    batch_size=8,
)
DATA_OF_COILS = ("kspace", "sensitivities")
SIZED = (*DATA_OF_COILS, "label")
SYSTEM = UnrolledConfig(
    network=LatentTransformerConfig(
        widths=(4, 4), denoiser_widths=(4, 4, 4), heads=1, layers=1
    ),
    cg_iterations=3,
)


@pytest.fixture(scope="module", autouse=True)
def quick_to_compile():
    """A few steps are over before an optimised program would be compiled."""
    with quickly():
        yield


def small(workdir, *, steps):
    """The tiny preset on small phantoms; a constant rate, so that it can go on."""
    return dataclasses.replace(
        TINY,
        system=SYSTEM,
        data=DATA,
        optimizer=OptimizerConfig(lr=1e-3),
        train=dataclasses.replace(TINY.train, steps=steps, log_every=1),
        workdir=workdir,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def scans():
    return open_scans(DATA)


@pytest.fixture(scope="module")
def whole(folder):
    return run(small(folder / "whole", steps=3), NAME)


def curve(workdir):
    return [
        {name: value for name, value in row.items() if name not in TIMED}
        for row in read_metrics(workdir)
    ]


def by_method(results):
    return {row["method"]: row for row in results["scores"]}


def test_a_run_ends_with_scores_and_a_page(whole, folder):
    kept = json.loads(
        (folder / "whole/evaluation.json").read_text(), parse_constant=pytest.fail
    )
    assert kept == without_nan(whole)
    scores = by_method(whole)
    assert list(scores) == ["zero-filled", "CG-SENSE", NAME, "fully sampled"]
    for row in scores.values():
        assert np.isfinite([row[name] for name in SCORES]).all()
    for name in ("zero-filled", "CG-SENSE", NAME):
        assert scores[name]["nmse"] > 10 * scores["fully sampled"]["nmse"]
        error = scores[name]["myocardium_reference"]
        assert error > scores["fully sampled"]["myocardium_reference"]
    page = (folder / "whole/report.html").read_text()
    assert page.count('<img src="data:image/png;base64,') >= 20
    assert "fitted T2 curves" in page and "T2 maps" in page
    assert "://" not in page


def test_a_run_that_goes_on_is_the_run_that_was_never_stopped(whole, folder):
    for steps in (1, 3):
        again = run(small(folder / "cut", steps=steps), NAME)
    assert curve(folder / "cut") == curve(folder / "whole")
    assert without_nan(again) == without_nan(whole)


def test_a_perfect_reconstruction_scores_perfectly_whatever_its_scale(scans):
    row = scans.test[0]
    results, (shown,) = evaluate(
        {"truth": lambda batch: 2 * row["image"][None]},
        [row],
        contrast="t2",
        accelerations=(4,),
        acs=6,
    )
    score = by_method(results)["truth"]
    assert score["ssim"] == pytest.approx(1, abs=1e-6)
    assert score["nmse"] == pytest.approx(0, abs=1e-10)
    assert score["myocardium_reference"] == pytest.approx(0, abs=0.01)
    assert 0 < score["myocardium_truth"] < 40
    tissues = voxels(shown)
    assert {shown.label[place] for place in tissues.values()} == {1, 2}
    for y, x in tissues.values():
        fitted = fit_rows(shown, {"series": shown.reference[:, y, x]}, points=4)
        drawn = [point["series"] for point in fitted]
        assert drawn == sorted(drawn, reverse=True)


def test_held_out_phantoms_are_the_same_for_every_seed(scans):
    other = open_scans(dataclasses.replace(DATA, seed=1, patients=1))
    np.testing.assert_array_equal(scans.test[1]["kspace"], other.test[1]["kspace"])
    assert np.abs(scans.train[0]["kspace"] - other.train[0]["kspace"]).max() > 0.01
    # A row follows its number alone, not how many there are.
    fewer = open_scans(dataclasses.replace(DATA, patients=2))
    np.testing.assert_array_equal(scans.train[1]["kspace"], fewer.train[1]["kspace"])


def test_every_training_example_takes_one_of_the_accelerations(scans):
    config = dataclasses.replace(DATA, acceleration=(2, 12))
    masks = next(iter(training_batches(scans, config)))["mask"]
    assert masks.shape == (8, 1, 24, 1)
    assert masks[:, 0, 9:15].all()
    # Two in 24 lines or every other one; six central lines on top.
    assert {min(int(n), 14) // 7 for n in masks.sum(axis=(1, 2, 3))} == {1, 2}


def test_masks_begin_anywhere_or_where_they_are_evaluated(scans):
    config = dataclasses.replace(DATA, acceleration=(4,), acs=2)
    anywhere, fixed = (
        np.concatenate([next(batches)["mask"] for _ in range(2)])
        for batches in (
            iter(training_batches(scans, dataclasses.replace(config, random_offset=o)))
            for o in (True, False)
        )
    )
    evaluated = batch_of(scans.test[0], acceleration=4, acs=2)["mask"]
    assert (fixed == np.asarray(evaluated)).all()
    assert len(np.unique(anywhere, axis=0)) == 4


def test_the_kernels_flag_reaches_data_consistency(scans):
    small_networks = (
        UnrolledConfig("modl", features=2, depth=1, cg_iterations=2),
        UnrolledConfig("d5c5", features=2, depth=1, consistency="step"),
    )
    batch = batch_of(scans.test[0], acceleration=4, acs=6)
    for config in small_networks:
        variables = jax.jit(build(config, ReconstructionKernels()).init)(
            jax.random.key(0), batch
        )
        one, other = (
            jax.jit(build(config, ReconstructionKernels(name)).reconstruct)(
                variables, batch
            )
            for name in ("xla_fft", "xla_dft")
        )
        np.testing.assert_allclose(one, other, atol=1e-5)
        assert (np.asarray(one) != np.asarray(other)).any()
        with pytest.raises(NotImplementedError, match="tpu"):
            build(config, ReconstructionKernels("tpu")).reconstruct(variables, batch)


def test_single_coil_series_take_the_single_coil_system_and_its_kernels(scans):
    config = dataclasses.replace(SINGLE_COIL["tiny"], network=SYSTEM.network)
    row = {name: scans.test[0][name][..., :1, :, :] for name in DATA_OF_COILS}
    batch = batch_of(row, acceleration=4, acs=6)
    system = build(config, ReconstructionKernels())
    variables = jax.eval_shape(system.init, jax.random.key(0), batch)
    image = jax.eval_shape(system.reconstruct, variables, batch)
    assert image.shape == (1, 3, 24, 24) and image.dtype == np.complex64
    other = build(config, ReconstructionKernels("tpu"))
    with pytest.raises(NotImplementedError, match="tpu"):
        jax.eval_shape(other.reconstruct, variables, batch)
    many = batch_of(scans.test[0], acceleration=4, acs=6)
    with pytest.raises(ValueError, match="kspace has 2 coils, expected 1"):
        jax.eval_shape(system.reconstruct, variables, many)


def prepared(scans, folder, coils=2, width=24, counts=(1, 1), patients="P"):
    """Phantoms as ``medjax.mri.cmrxrecon.prepare`` would write them, cut to size."""
    place = folder / f"t2map_3x{coils}x24x{width}"
    fields = {
        "kspace": Field(shape=(3, coils, 24, width), dtype="complex64"),
        "sensitivities": Field(shape=(coils, 24, width), dtype="complex64"),
        "times": Field(shape=(3,)),
        "label": Field(shape=(24, width), dtype="int32"),
        "patient": Field(kind="text"),
        "slice": Field(dtype="int32"),
    }
    parts = [*["train"] * counts[0], *["test"] * counts[1]]
    rows = [[part, f"{patients}{i}", 1] for i, part in enumerate(parts)]
    with write_records(place, name="t2map", fields=fields) as writer:
        for i, (part, patient, _) in enumerate(rows):
            found = scans.train[i % len(scans.train)]
            row = {k: found[k][..., :width] for k in ("times", *SIZED)}
            row |= {k: row[k][..., :coils, :, :] for k in DATA_OF_COILS}
            writer.add(part, {**row, "patient": patient, "slice": np.int32(0)})
        writer.metadata.update(request={"rows": rows})


def test_a_prepared_set_is_judged_by_its_fully_sampled_data(scans, tmp_path):
    row = scans.train[0]
    prepared(scans, tmp_path)
    config = dataclasses.replace(DATA, root=tmp_path)
    scans = open_scans(config)
    place = tmp_path / "t2map_3x2x24x24"
    assert find_sets(place, "t2") == find_sets(tmp_path, "t2") == [place]
    np.testing.assert_array_equal(scans.train[0]["kspace"], row["kspace"])
    results, _ = evaluate(
        {"zero-filled": zero_filled, "copy": fully_sampled},
        scans.test,
        contrast="t2",
        accelerations=(4,),
        acs=6,
        crop=True,
    )
    assert results["reference"] == "fully sampled"
    scores = by_method(results)
    for name in SCORES:
        np.testing.assert_equal(scores["copy"][name], scores["fully sampled"][name])
    assert scores["zero-filled"]["ssim"] < scores["copy"]["ssim"]
    assert np.isnan(scores["copy"]["myocardium_truth"])
    prepared(scans, tmp_path, coils=1, patients="Q")
    with pytest.raises(ValueError, match="t2map_3x1x24x24.*t2map_3x2x24x24.*itself"):
        open_scans(config)


@pytest.fixture(scope="module")
def two_sizes(scans, folder):
    """Two batches of one width and one of another to train on, one row held out."""
    place = folder / "sizes"
    prepared(scans, place, counts=(16, 0), patients="P")
    prepared(scans, place, width=20, counts=(10, 1), patients="Q")
    return dataclasses.replace(DATA, root=folder / "sizes")


def test_sets_of_two_matrix_sizes_are_trained_on_and_scored_as_one(two_sizes, folder):
    scans = open_scans(two_sizes)
    assert (len(scans.train), len(scans.test)) == (26, 1)
    batches = iter(training_batches(scans, two_sizes))
    sizes = [next(batches)["kspace"].shape[-1] for _ in range(3)]
    assert sorted(sizes) == [20, 24, 24]

    def trained(place, steps):
        config = small(folder / place, steps=steps)
        config = dataclasses.replace(config, system=cheap, data=two_sizes)
        return train(config, system, scans)

    cheap = UnrolledConfig("d5c5", features=2, depth=1, consistency="step")
    system = build(cheap, ReconstructionKernels())
    whole = trained("sizes-whole", 3)
    for steps in (1, 3):
        again = trained("sizes-cut", steps)
    curves = [curve(folder / place) for place in ("sizes-whole", "sizes-cut")]
    # Programs are counted from every start.
    assert [row.pop("compiled_shapes") for row in curves[0]][-1] == 2
    assert [row.pop("compiled_shapes") for row in curves[1]][0] == 1
    assert curves[0] == curves[1]
    jax.tree.map(np.testing.assert_array_equal, again, whole)
    told = json.loads((folder / "sizes-cut/system.json").read_text())
    assert told["data"] == scans.name == "t2map_3x2x24x20, t2map_3x2x24x24"
    results, _ = evaluate(
        {"d5c5": learned(system, whole)},
        [scans.train[0], scans.train[25]],
        contrast="t2",
        accelerations=(4,),
        acs=6,
    )
    assert results["rows"] == 2 and 0 < by_method(results)["d5c5"]["nmse"] < 1
    few = small(folder / "sizes-few", steps=1)
    few = dataclasses.replace(
        few, data=two_sizes, train=dataclasses.replace(few.train, shapes=1)
    )
    with pytest.raises(ValueError, match="train.shapes is 1, but .* of 2 matrix sizes"):
        run(few, NAME)


def test_sets_that_do_not_go_together_are_refused(scans, two_sizes, tmp_path):
    with pytest.raises(ValueError, match="batch_size: 16 .* the 10 rows of RecordS"):
        large = dataclasses.replace(two_sizes, batch_size=16)
        training_batches(open_scans(large), large)
    with pytest.raises(ValueError, match="acs=25 central lines do not fit in 24"):
        open_scans(dataclasses.replace(two_sizes, acs=25))
    prepared(scans, tmp_path, patients="P")
    prepared(scans, tmp_path, width=20, counts=(0, 1), patients="P")
    with pytest.raises(ValueError, match="a patient of the sets .*'test'.* of another"):
        open_scans(dataclasses.replace(DATA, root=tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"acceleration": ()}, "data.acceleration is empty"),
        ({"acceleration": (0,)}, "acceleration must be at least 1, got 0"),
        ({"acs": 25}, "acs=25 central lines do not fit in 24 lines"),
        ({"patients": 0}, "data.patients is 0, expected 1 at least"),
        ({"test_patients": 0}, "data.test_patients is 0"),
    ],
)
def test_impossible_data_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        open_scans(dataclasses.replace(DATA, **change))


def test_a_folder_without_the_series_is_refused(tmp_path):
    (tmp_path / "t1map_9x4x24x24").mkdir()
    with pytest.raises(ValueError, match=r"data.root: .*t2map_.*found .*t1map_9x4"):
        open_scans(dataclasses.replace(DATA, root=tmp_path))


def test_series_without_times_or_rows_are_refused(scans):
    settings = {"contrast": "t2", "accelerations": (4,), "acs": 6}
    with pytest.raises(ValueError, match="expected one series at least, got 0"):
        evaluate({}, [], **settings)
    row = {**scans.test[0], "times": np.full(3, np.nan, np.float32)}
    with pytest.raises(ValueError, match="times: expected T2 times in ms, got .*nan"):
        evaluate({}, [row], **settings)


def test_a_rate_is_chosen_inside_its_grid_by_hearts_of_another_seed(
    tmp_path, monkeypatch
):
    """Of a system that is best at nine times the largest rate it was asked to try."""
    tried, seeds = [], []

    def trained(name, scans, data, folder, steps, lr):
        tried.append(f"{data.seed}-{lr:g}")
        assert folder == tmp_path / "rate-varnet" / tried[-1] and steps == 7
        return lambda batch: fully_sampled(batch) * (1 + abs(math.log10(lr / 0.27)))

    def opened(data):
        seeds.append(data.seed)
        return open_scans(data)

    monkeypatch.setattr(reconstruction_runs, "trained_system", trained)
    monkeypatch.setattr(reconstruction_runs, "open_scans", opened)
    data = dataclasses.replace(DATA, patients=2, acceleration=(2,))
    config = reconstruction.Comparison(
        rates=(0.01, 0.03), tuning_steps=7, data=data, workdir=tmp_path
    )
    found = reconstruction_runs.chosen_rate("varnet", config)
    assert found["rate"] == pytest.approx(0.27)
    rates = ["0.01", "0.03", "0.09", "0.27", "0.81"]
    assert tried == [f"{s}-{rate}" for rate in rates for s in (1000, 1002, 1004)]
    assert set(seeds) == {1000, 1001, 1002, 1003, 1004, 1005}
    again = dataclasses.replace(config, finished=True)
    assert reconstruction_runs.chosen_rate("varnet", again) == found
    assert list(found["nmse"]) == rates
    assert min(found["nmse"], key=found["nmse"].__getitem__) == "0.27"
    with pytest.raises(ValueError, match="no rate of cartesian was chosen"):
        reconstruction_runs.chosen_rate("cartesian", again)


def test_updates_are_doubled_until_a_curve_is_flat(tmp_path, monkeypatch):
    """Of a system that wins a decibel by each doubling, and of one that wins none."""
    tried = []

    def trained(name, scans, data, folder, steps, lr):
        tried.append(folder.name)
        assert (data.series, lr) == ("t2", 0.02)
        # Noise of a size that falls with the updates: PSNR rises by what it falls.
        gain = 1.0 if name == "varnet" else 0.1
        size = 0.1 * 10 ** (-gain * math.log2(steps) / 20)
        wave = size * np.cos(np.arange(data.width)).astype(np.complex64)
        return lambda batch: fully_sampled(batch) + wave[None, None, None]

    monkeypatch.setattr(doubling, "trained_system", trained)
    config = doubling.Doubling(
        seeds=(5, 7),
        rate=0.02,
        first=10,
        most=45,
        data=dataclasses.replace(DATA, patients=1, acceleration=(2, 4)),
        workdir=tmp_path,
    )
    found = doubling.compare(config)
    varnet = ["varnet-5-10", "varnet-5-20", "varnet-5-40"]
    latent = ["latent_transformer-5-10", "latent_transformer-5-20"]
    assert tried == [*varnet, *latent, "varnet-7-40", "latent_transformer-7-20"]
    varnet, latent = found["curves"]
    assert (varnet["flat"], latent["flat"]) == (False, True)
    assert varnet["gains"] == pytest.approx([1, 1], abs=0.3)
    assert latent["gains"] == pytest.approx([0.1], abs=0.05)
    again = doubling.compare(dataclasses.replace(config, finished=True))
    assert again == found and len(tried) == 7
    text = doubling.table(found)
    assert f"| {latent['gains'][0]:+.2f} |" in text
    assert "| VarNet | 20 | 1 |" in text and "| VarNet | 40 | 2 |" in text
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept["runs"] == found["runs"] and kept["curves"] == found["curves"]
    with pytest.raises(ValueError, match="first is 50, expected 1 to most=45"):
        doubling.compare(dataclasses.replace(config, first=50))
    with pytest.raises(ValueError, match="varnet-5-10 was run with"):
        doubling.compare(dataclasses.replace(config, rate=0.03))


def test_the_comparison_pairs_seeds_and_shows_mean_and_deviation():
    rows = [
        {"series": "t1", "acceleration": 4, "method": method, "seed": seed}
        | dict.fromkeys(SCORES, value)
        for method, values in (
            ("latent_transformer", (0.2, 0.4)),
            ("without_attention", (0.3, 0.9)),
        )
        for seed, value in enumerate(values)
    ]
    summary, gains = summarise(rows), differences(rows)
    assert [entry["seeds"] for entry in summary] == [2, 2]
    assert summary[0]["ssim"] == pytest.approx({"mean": 0.3, "sd": np.sqrt(0.02)})
    # Student's t of one degree of freedom, times a standard error of 0.2.
    gain = gains[0]["nmse"]
    assert gain["mean"] == pytest.approx(-0.3)
    assert gain["high"] - gain["mean"] == pytest.approx(12.706 * 0.2, rel=0.03)
    text = table({"summary": summary, "differences": gains})
    assert "| 4 | Latent Transformer | 0.3000 ± 0.1414 |" in text
    assert "| 4 | *attention: paired difference* | -0.3000 [-2.8486, +2.2486] |" in text
