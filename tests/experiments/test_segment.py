"""A segmentation from flags to report, opened again, and applied to files."""

import dataclasses
import json
import shutil
from pathlib import Path

import chex
import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import medjax
from experiments import predict
from experiments.prepare import segmentation as prepare_segmentation
from experiments.segment import PRESETS
from medjax.data import nifti
from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger
from medjax.segmentation.datasets.case import Case, DataSet
from medjax.segmentation.datasets.embedded import lesion_phantoms
from medjax.segmentation.evaluate import ScoringConfig, case_scores, evaluate
from medjax.segmentation.fingerprint import PlanConfig
from medjax.segmentation.images import find_images
from medjax.segmentation.labels import classes
from medjax.segmentation.lesionmix.augmentation import MixingConfig
from medjax.segmentation.lesionmix.inpaint import InpaintConfig
from medjax.segmentation.lesionmix.mix import LesionMixConfig
from medjax.segmentation.lesionmix.populate import PopulateConfig
from medjax.segmentation.phantoms.lesions import LesionConfig
from medjax.segmentation.preparation import Channel
from medjax.segmentation.pretrained import Segmenter
from medjax.segmentation.segmented import Segmented
from medjax.segmentation.sets import images_to_segment
from medjax.segmentation.several import EnsembleConfig
from medjax.segmentation.training import described, fitted, opened, run
from medjax.train import goodput, speed
from medjax.train.log import read_metrics
from medjax.train.mesh import MeshConfig
from medjax.train.optimizer import OptimizerConfig
from medjax.train.sets import upload
from tests.compiling import quickly

BRAINS = LesionConfig(shape=(40, 40), slots=6)
TIMED = {*speed.TIMED, *goodput.ROW}


@pytest.fixture(scope="module", autouse=True)
def quick_to_compile(tmp_path_factory):
    """A few steps are over before an optimised program would be compiled."""
    before = jax.config.jax_compilation_cache_dir
    folder = str(tmp_path_factory.mktemp("compiled"))
    jax.config.update("jax_compilation_cache_dir", folder)
    with quickly():
        yield
    jax.config.update("jax_compilation_cache_dir", before)


def small(workdir, *, steps):
    """The tiny preset on smaller brains; a constant rate, so that it can go on."""
    tiny = PRESETS["tiny"]
    return dataclasses.replace(
        tiny,
        data=dataclasses.replace(
            tiny.data,
            phantom=BRAINS,
            train_cases=4,
            test_cases=2,
        ),
        plan=dataclasses.replace(
            tiny.plan, patch=(16, 16), batch_size=8, widths=(4, 8)
        ),
        optimizer=OptimizerConfig(lr=1e-3),
        train=dataclasses.replace(tiny.train, steps=steps, log_every=1),
        workdir=workdir,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def whole(folder):
    return run(small(folder / "whole", steps=3))


def drawn(count):
    """Images and label maps of brains, one slice each."""
    data = lesion_phantoms(BRAINS, seed=1, train=count, validation=0, test=0)
    pairs = [data.read(case) for case in data.cases]
    return [(images[0].data[..., 0], label.data[..., 0]) for images, label in pairs]


def curve(workdir):
    return [
        {name: value for name, value in row.items() if name not in TIMED}
        for row in read_metrics(workdir)
    ]


def test_a_run_ends_with_scores_and_a_page(whole, folder):
    kept = json.loads((folder / "whole/evaluation.json").read_text())
    (row,) = kept["scores"]
    assert row["structure"] == "lesion" and row["n"] == 2
    assert 0 <= row["dice"] <= 1 and row["n_missed"] + row["n_false"] <= 2
    (said,) = [case["volume_error_ml"] for case in kept["cases"]][:1]
    assert abs(said) <= 40 * 40 / 1000 and row["volume_error_ml_absolute"] >= 0
    left_out, *bins = kept["lesions"]
    assert left_out["below"] == bins[0]["from"] and bins[-1]["below"] is None
    page = (folder / "whole/report.html").read_text()
    assert "1000 and more" in page and "volume error, mL" in page
    assert page.count('<img src="data:image/png;base64,') >= 8
    assert "after augmentation" in page and "empty in both" in page
    assert "://" not in page


def test_a_run_that_goes_on_is_the_run_that_was_never_stopped(whole, folder):
    for steps in (1, 3):
        again = run(small(folder / "cut", steps=steps))
    assert curve(folder / "cut") == curve(folder / "whole")
    assert again["scores"] == whole["scores"]


@pytest.fixture(scope="module")
def images(folder):
    """A phantom whose axes are flipped, permuted and have other voxels."""
    place = folder / "images"
    place.mkdir()
    affine = np.array(
        [[0, -1.0, 0, 40], [0, 0, 1.0, -20], [3.0, 0, 0, 7], [0, 0, 0, 1]], float
    )
    brains = [image[:, :36] for image, _ in drawn(2)]
    nifti.write(place / "turned.nii.gz", np.stack(brains), affine=affine)
    return place


def test_files_are_segmented_on_their_own_grid(whole, folder, images, capsys):
    out = folder / "predicted"
    flags = ["--out", str(out), "--write", "prob", "entropy"]
    assert predict.main([str(folder / "whole"), str(images), *flags]) == 0
    assert "1 of 1: turned (2x40x36)" in capsys.readouterr().out
    original = nifti.read(images / "turned.nii.gz")
    label = nifti.read_labels(out / "turned.nii.gz")
    assert label.data.shape == original.data.shape and set(np.unique(label.data)) <= {
        0,
        1,
    }
    np.testing.assert_allclose(label.affine, original.affine, atol=1e-5)
    probability = nifti.read(out / "turned_prob.nii.gz").data
    np.testing.assert_allclose(probability.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(np.argmax(probability, -1), label.data)
    entropy = nifti.read(out / "turned_entropy.nii.gz").data
    assert 0 <= entropy.min() and entropy.max() <= np.log(2) + 1e-5
    summary = json.loads((out / "turned.json").read_text())
    voxels = int((label.data == 1).sum())
    assert summary["volume_ml"]["lesion"] == pytest.approx(voxels * 3 / 1000)


def test_any_run_is_opened_by_medjax(whole, folder, images):
    model = medjax.load(folder / "whole")
    (found,) = model.predict([images / "turned.nii.gz"])
    again = nifti.read_labels(folder / "predicted/turned.nii.gz")
    np.testing.assert_array_equal(found.labels.data, again.data)
    assert not found.maps
    with pytest.raises(ValueError, match="expected some of"):
        list(model.predict([images / "turned.nii.gz"], written=("levels",)))


def test_what_cannot_be_read_is_listed(whole, folder, tmp_path, capsys):
    (tmp_path / "broken.nii").write_bytes(b"nothing")
    flags = ["--out", str(tmp_path / "out")]
    assert predict.main([str(folder / "whole"), str(tmp_path), *flags]) == 1
    assert "broken" in (tmp_path / "out/skipped.csv").read_text()
    none = predict.main([str(folder / "whole"), str(tmp_path / "no*"), *flags])
    assert none == 1 and "found none" in capsys.readouterr().err


def test_images_of_several_channels_are_put_together(tmp_path):
    for name in ("a_0000", "a_0001", "b_0000"):
        (tmp_path / f"{name}.nii.gz").touch()
    with pytest.raises(DataError, match="'a'. have another number of files than the 3"):
        find_images([str(tmp_path)], 3)
    (tmp_path / "b_0001.nii.gz").touch()
    found = find_images([str(tmp_path / "*.nii.gz")], 2)
    assert [[p.name[:6] for p in paths] for paths in found] == [
        ["a_0000", "a_0001"],
        ["b_0000", "b_0001"],
    ]
    for number in range(3):  # people count patients like that too
        (tmp_path / f"case_{number + 1:04d}.nii").touch()
    found = find_images([str(tmp_path / "case*")], 1)
    assert [[p.name for p in one] for one in found] == [
        [f"case_{number + 1:04d}.nii"] for number in range(3)
    ]


FRAMES = 3
SIZE = (20, 20, 2)


def scan(path, *axes):
    """An image where a network finds something to tell apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = np.random.default_rng(len(path.name)).normal(size=(*SIZE, *axes))
    affine = np.diag([-1.0, 1.0, 5.0, 1.0])
    step = 0.05 if axes else None
    nifti.write(path, drawn.astype(np.float32), affine=affine, time_step=step)


def truth(path):
    """A label map that nobody must look at."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"nothing")


def document(root, *channels, **others):
    names = {str(i): name for i, name in enumerate(channels)}
    labels = {"labels": {"background": 0, "a": 1}, "channel_names": names}
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps({**labels, **others}))


def nnunet(root):
    document(root, "FLAIR")
    for name in ("imagesTr/a", "imagesTs/b"):
        scan(root / f"{name}_0000.nii.gz")
    truth(root / "labelsTr/a.nii.gz")


def nnunets_first(root):
    labels = {"0": "background", "1": "a"}
    document(root, "FLAIR", modality={"0": "FLAIR"}, labels=labels, training=[])
    for name in ("imagesTr/a", "imagesTs/b"):
        scan(root / f"{name}_0000.nii.gz")


def decathlon(root):
    document(root, "FLAIR")
    for name in ("imagesTr/case_0000", "imagesTs/case_0001"):
        scan(root / f"{name}.nii.gz")
    truth(root / "labelsTr/case_0000.nii.gz")


def acdc(root):
    for name in ("training/p1/p1", "testing/p2/p2"):
        for frame in ("01", "03"):
            scan(root / f"{name}_frame{frame}.nii.gz")
        scan(root / f"{name}_4d.nii.gz", FRAMES)
        (root / f"{name}.cfg").with_name("Info.cfg").write_text("ED: 1\nES: 3\n")
    truth(root / "training/p1/p1_frame01_gt.nii.gz")


def mnms(root):
    for name in ("Training/A1/A1_sa", "Testing/B2/B2_sa"):
        scan(root / f"{name}.nii.gz", FRAMES)
    truth(root / "Training/A1/A1_sa_gt.nii.gz")
    rows = "External code,ED,ES\nA1,0,2\nB2,1,2\nC3,0,1\n"
    (root / "Dataset_information.csv").write_text(rows)


def cmrxmotion(root):
    for name in ("P001-1/P001-1-ED", "P002-4/P002-4-ES"):
        scan(root / f"data/{name}.nii.gz", 1)
    truth(root / "data/P001-1/P001-1-ED-label.nii.gz")


def bids(root):
    for subject in "12":
        scan(root / f"sub-{subject}/anat/sub-{subject}_FLAIR.nii.gz")
        scan(root / f"sub-{subject}/anat/sub-{subject}_T1w.nii.gz")
    truth(root / "derivatives/sub-1/sub-1_msk.nii.gz")


def table(root):
    scan(root.parent / "films/a.nii.gz")
    scan(root.parent / "films/b.nii.gz", FRAMES)
    root.write_text("image,frame\nfilms/a.nii.gz,\nfilms/b.nii.gz,1\n")


@pytest.mark.parametrize(
    "build, format, flags, expected",
    [
        (nnunet, "nnunet", {}, {"a": SIZE, "b": SIZE}),
        (nnunets_first, "nnunet", {}, {"a": SIZE, "b": SIZE}),
        (decathlon, "nnunet", {}, {"case_0000": SIZE, "case_0001": SIZE}),
        (acdc, "acdc", {}, dict.fromkeys(("p1_ED", "p1_ES", "p2_ED", "p2_ES"), SIZE)),
        (acdc, "acdc", {"cine": True}, dict.fromkeys(("p1_4d", "p2_4d"), (*SIZE, 3))),
        (mnms, "mnms", {}, dict.fromkeys(("A1_ED", "A1_ES", "B2_ED", "B2_ES"), SIZE)),
        (mnms, "mnms", {"cine": True}, dict.fromkeys(("A1_sa", "B2_sa"), (*SIZE, 3))),
        (cmrxmotion, "cmrxmotion", {}, {"P001-1-ED": SIZE, "P002-4-ES": SIZE}),
        (bids, "bids", {}, {"1": SIZE, "2": SIZE}),
        (bids, "bids", {"named": ("T1w",)}, {"1": SIZE, "2": SIZE}),
        (table, "table", {}, {"a": SIZE, "b_1": SIZE}),
    ],
)
def test_sets_are_segmented_as_training_reads_them(
    model, tmp_path, build, format, flags, expected
):
    """Whether they have label maps or not, and none is looked at."""
    build(tmp_path / "set")
    told = []
    ledger = Ledger(log=told.append)
    cases = images_to_segment(
        [str(tmp_path / "set")], format, ["FLAIR"], ledger, **flags
    )
    out = tmp_path / "out"
    found = list(model.predict(cases, out=out, ledger=ledger))
    assert {one.id: one.labels.data.shape for one in found} == expected
    assert {p.name for p in out.glob("*.nii.gz")} == {f"{i}.nii.gz" for i in expected}
    for case in cases:
        original = nifti.read(case.images[0])
        written = nifti.read(out / f"{case.id}.nii.gz")
        np.testing.assert_array_equal(written.affine, original.affine)
    renamed = format in ("acdc", "mnms", "cmrxmotion") or "named" in flags
    assert any("are taken for the run's FLAIR" in line for line in told) == renamed


@pytest.fixture(scope="module")
def model(whole, folder):
    return medjax.load(folder / "whole")


@pytest.fixture(scope="module")
def pair(model):
    """A network of two channels that has learned nothing."""
    record, names = model.record, ("dwi", "adc")
    record = dataclasses.replace(
        record,
        system=dataclasses.replace(record.system, channels=2),
        preparation=dataclasses.replace(
            record.preparation, channels=tuple(map(Channel, names))
        ),
    )
    system = record.build()
    batch = {"image": jnp.zeros((1, *record.system.patch, 2))}
    return Segmenter(record, 0, system, system.init(jax.random.key(0), batch))


def test_channels_of_a_subject_or_of_one_file_are_one_image(pair, tmp_path):
    for subject in "12":
        for suffix in ("adc", "dwi"):
            path = f"sub-{subject}/ses-1/dwi/sub-{subject}_ses-1_{suffix}.nii.gz"
            scan(tmp_path / "bids" / path)
    truth(tmp_path / "bids/derivatives/sub-1/sub-1_ses-1_msk.nii.gz")
    for name in ("raw", "whole"):
        document(tmp_path / name, "dwi", "adc")
    scan(tmp_path / "raw/imagesTr/a_0000.nii.gz")
    scan(tmp_path / "raw/imagesTr/a_0001.nii.gz")
    scan(tmp_path / "whole/imagesTs/a.nii.gz", 2)
    scan(tmp_path / "b.nii.gz")
    (tmp_path / "c.csv").write_text("case,image,image_1\nc,b.nii.gz,b.nii.gz\n")
    for name, format, ids in (
        ("bids", "bids", ["1_1", "2_1"]),
        ("raw", "nnunet", ["a"]),
        ("whole", "nnunet", ["a"]),
        ("c.csv", "table", ["c"]),
    ):
        ledger, root = Ledger(log=lambda _: None), str(tmp_path / name)
        cases = images_to_segment([root], format, ["dwi", "adc"], ledger)
        found = list(pair.predict(cases))
        assert [(one.id, one.labels.data.shape) for one in found] == [
            (id, SIZE) for id in ids
        ]
    assert [p.name[-10:] for p in cases[0].images] == ["b.nii.gz"] * 2
    with pytest.raises(DataError, match="channels dwi, adc, the run's are FLAIR"):
        images_to_segment([str(tmp_path / "raw")], "nnunet", ["FLAIR"], ledger)


def test_what_is_no_set_is_refused_in_words(tmp_path):
    (tmp_path / "empty").mkdir()
    scan(tmp_path / "a.nii.gz")
    rows = "image,case\na.nii.gz,../a\n"
    (tmp_path / "up.csv").write_text(rows)
    for name, flags, told in (
        ("empty", {"format": "acdc"}, "found none of format acdc"),
        ("empty", {"format": "nnunet"}, "dataset.json"),
        ("gone", {"format": "bids"}, "no such folder"),
        ("up.csv", {"format": "table"}, "'../a'. are no names of files"),
        ("up.csv", {}, "a table is read by --format table"),
        ("empty", {"cine": True}, "name one by --format"),
        ("empty", {"format": "bids", "cine": True}, "bids has none"),
        ("empty", {"format": "acdc", "channels": ("T1",)}, "says itself which"),
    ):
        config = predict.Predict(tmp_path, (str(tmp_path / name),), **flags)
        ledger = Ledger(log=lambda _: None)
        with pytest.raises((DataError, ValueError, FileNotFoundError), match=told):
            predict.images_of(config, ["FLAIR"], ledger)


def test_label_maps_in_folders_are_counted_and_left_out(tmp_path):
    nnunet(tmp_path / "raw")
    acdc(tmp_path / "acdc")
    cmrxmotion(tmp_path / "motion")
    bids(tmp_path / "bids")
    for name in ("L01_GT", "label3", "seg", "labelled", "eggt"):
        truth(tmp_path / f"loose/{name}.nii.gz")
    for root, names, dropped in (
        ("raw", ["a", "b"], 1),
        ("motion", ["P001-1-ED", "P002-4-ES"], 1),
        ("bids", ["sub-1_FLAIR", "sub-1_T1w", "sub-2_FLAIR", "sub-2_T1w"], 1),
        ("loose", ["eggt", "labelled"], 3),
        ("acdc", [f"p{i}_{k}" for i in "12" for k in ("4d", "frame01", "frame03")], 1),
    ):
        told = []
        found = find_images([str(tmp_path / root)], 1, Ledger(log=told.append))
        stems = [path.name.split(".")[0].removesuffix("_0000") for (path,) in found]
        assert stems == names
        (line,) = told
        assert line.endswith(f"kept {len(names)} (dropped {dropped})")
    with pytest.raises(DataError, match="found none in .* but 1 files named as label"):
        find_images([str(tmp_path / "bids/derivatives")], 1)
    named = str(tmp_path / "bids/derivatives/sub-1/sub-1_msk.nii.gz")
    assert len(find_images([named], 1)) == 1, "what is named is wanted"


def test_a_cine_is_segmented_frame_by_frame(whole, folder, model, tmp_path, capsys):
    acdc(tmp_path)
    out, cine = tmp_path / "out", tmp_path / "training/p1/p1_4d.nii.gz"
    flags = ["--format", "acdc", "--cine", "--out", str(out), "--write", "prob"]
    assert predict.main([str(folder / "whole"), str(tmp_path), *flags]) == 0
    told = capsys.readouterr().out
    assert "patients: kept 2" in told and "2 of 2: p1_4d (20x20x2x3)" in told
    original, labels = nifti.read(cine), nifti.read_labels(out / "p1_4d.nii.gz")
    probability = nifti.read(out / "p1_4d_prob.nii.gz")
    assert probability.data.shape == (*SIZE, FRAMES, 2)
    for volume in (labels, probability):
        np.testing.assert_array_equal(volume.affine, original.affine)
        assert volume.time_step == pytest.approx(0.05)
    for frame in range(FRAMES):
        alone = dataclasses.replace(original, data=original.data[..., frame])
        found = model.segment([alone], id="alone", maps=("prob",))
        np.testing.assert_array_equal(labels.data[..., frame], found.labels.data)
        np.testing.assert_array_equal(
            probability.data[..., frame, :], found.maps["prob"].data
        )
    ml = json.loads((out / "p1_4d.json").read_text())["volume_ml"]["lesion"]
    assert ml == pytest.approx(((labels.data == 1).sum((0, 1, 2)) * 0.005).tolist())
    (plain,) = model.predict([cine])
    np.testing.assert_array_equal(plain.labels.data, labels.data)


def test_a_raw_set_is_prepared_and_trained_on(tmp_path, capsys):
    rows = ["image,label,case"]
    for i, (image, label) in enumerate(drawn(4)):
        for kind, data in (("image", image), ("label", label)):
            data = np.repeat(data[..., None], 3, axis=2)
            nifti.write(tmp_path / f"{kind}{i}.nii.gz", data, affine=np.eye(4))
        rows.append(f"image{i}.nii.gz,label{i}.nii.gz,{i}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    out, flags = tmp_path / "set", ["--labels", "lesion=1", "--plan.rank", "2"]
    source = ["--format", "table", "--root", str(tmp_path / "pairs.csv")]
    status = prepare_segmentation.main([*source, "--out", str(out), *flags])
    assert not status
    told = capsys.readouterr().out
    assert "rows in pairs.csv: kept 4" in told and "plan: 2-D U-Net" in told
    config = small(tmp_path / "run", steps=1)
    store = fsspec.filesystem("memory")
    store.store.clear()
    upload(out, "memory://masks/set")  # its cases are still where they were
    root, cache = Path("memory://masks/set"), tmp_path / "cache"
    data = dataclasses.replace(config.data, root=root, format="prepared", cache=cache)
    config = dataclasses.replace(config, data=data)
    solid = dataclasses.replace(config, plan=PlanConfig(rank=3))
    with pytest.raises(ValueError, match="the set is planned for 2 axes"):
        run(solid)
    results = run(config)
    assert results["scores"][0]["n"] == 1
    store.store.clear()


def test_lesions_are_mixed_while_training_and_the_run_is_used_as_any(folder):
    few = LesionMixConfig(PopulateConfig(slots=2), InpaintConfig(sweeps=2))
    mixing = MixingConfig(method="lesionmix", p=1.0, lesionmix=few)
    config = dataclasses.replace(small(folder / "mixed", steps=2), mixing=mixing)
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, checkpoint_every=1)
    )
    results = run(config)
    assert results["scores"][0]["n"] == 2
    model = medjax.load(folder / "mixed")
    image, label = drawn(1)[0]
    volume = nifti.Volume(image[..., None], np.eye(4), (1.0, 1.0, 1.0))
    assert model.segment([volume], id="a").labels.data.shape == (*label.shape, 1)
    # No checkpoint holds the bank: whoever goes on makes the same one again.
    assert set(model.variables) == {"params"}
    shutil.rmtree(folder / "mixed/checkpoints/2")
    found, _ = opened(config, Ledger(log=lambda _: None))
    again = fitted(config, found)
    assert again.step == 2
    chex.assert_trees_all_equal(again.variables, model.variables)


def test_members_of_an_ensemble_share_the_bank_of_lesions(folder):
    """Split over devices, where the bank is whole on each."""
    few = LesionMixConfig(PopulateConfig(slots=2), InpaintConfig(sweeps=2))
    config = dataclasses.replace(
        small(folder / "members", steps=1),
        mixing=MixingConfig(method="lesionmix", p=1.0, lesionmix=few),
        mesh=MeshConfig(model=2),
    )
    found, _ = opened(config, Ledger(log=lambda _: None))
    plain = described(config, found)
    given = {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}
    model = fitted(config, found, EnsembleConfig(**given, members=2))
    assert set(model.variables) == {"params"}
    kernels = jax.tree.leaves(model.variables["params"])
    assert all(len(leaf) == 2 for leaf in kernels)
    assert max(float(jnp.abs(leaf[0] - leaf[1]).max()) for leaf in kernels) > 0.01


def test_a_run_is_not_renamed_by_a_command_that_does_not_fit_it(whole, folder):
    """Other widths in the same folder are refused, and it opens as before."""
    before = (folder / "whole/system.json").read_text()
    config = small(folder / "whole", steps=3)
    other = dataclasses.replace(config.plan, widths=(4, 6))
    with pytest.raises(DataError, match="is of another model"):
        run(dataclasses.replace(config, plan=other))
    assert (folder / "whole/system.json").read_text() == before


def test_lesions_are_told_by_size_and_volumes_by_their_error():
    """One of 8 mm³ found, one of 64 missed; a healthy brain with one of 27."""
    ill, healthy = np.zeros((12, 12, 12), np.int32), np.zeros((12, 12, 12), np.int32)
    ill[1:3, 1:3, 1:3] = ill[6:10, 6:10, 6:10] = 1
    said = [ill.copy(), healthy.copy()]
    said[0][6:10], said[1][2:5, 2:5, 2:5] = 0, 1
    cases = (Case("ill", ()), Case("healthy", ()))
    truths = {"ill": ill, "healthy": healthy}

    def volume(data):
        return nifti.Volume(data, np.eye(4), (1.0, 1.0, 1.0))

    class Held(DataSet):
        def read(self, case):
            return [volume(np.zeros(ill.shape, np.float32))], volume(truths[case.id])

    class Says(Segmenter):
        def segment(self, volumes, *, id, **_):
            return Segmented(id, volume(said[list(truths).index(id)]), {})

    data = Held("brains", ("FLAIR",), classes({"lesion": 1}), cases)
    model = Says.__new__(Says)
    results, _ = evaluate(model, data, cases, ScoringConfig(), Ledger())
    (row,) = results["scores"]
    assert (row["n"], row["n_missed"], row["n_false"]) == (2, 0, 1)
    assert row["volume_error_ml"] == pytest.approx((-0.064 + 0.027) / 2)
    assert row["volume_error_ml_absolute"] == pytest.approx((0.064 + 0.027) / 2)
    assert row["volume_error"] == pytest.approx(-64 / 72)
    assert row["volume_error_n_undefined"] == 1  # no share of a volume of 0
    by = {size["from"]: size for size in results["lesions"]}
    assert sorted(by) == [0, 3, 10, 50, 250, 1000]
    assert (by[3]["lesions"], by[3]["sensitivity"], by[3]["ppv"]) == (1, 1, 1)
    assert (by[10]["false"], by[10]["ppv"], by[10]["f1"]) == (1, 0, 0)
    assert (by[50]["lesions"], by[50]["found"], by[50]["sensitivity"]) == (1, 0, 0)
    assert by[250]["lesions"] == 0 and np.isnan(by[250]["f1"])


def test_misses_and_false_finds_are_told_apart():
    empty, full = np.zeros((4, 5, 6), int), np.zeros((4, 5, 6), int)
    full[1:3, 1:3, 1:3] = 1
    structures, spacing = {"x": 1}, (1.0, 1.0, 2.0)
    diagonal = np.sqrt(4**2 + 5**2 + 12**2)
    for said, true, dice, distance in (
        (empty, empty, 1, 0),
        (empty, full, 0, diagonal),
        (full, empty, 0, diagonal),
        (full, full, 1, 0),
    ):
        found = case_scores(said, true, spacing, structures, ScoringConfig())["x"]
        assert found["dice"] == dice
        assert found["hd95_monai"] == pytest.approx(distance)
        assert (found["predicted"], found["present"]) == (said.any(), true.any())
