"""Trees of data sets as their makers lay them out, and what is refused in them."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger
from medjax.data.nifti import write
from medjax.segmentation.answers import images_of
from medjax.segmentation.datasets import (
    Acdc,
    Bids,
    CmrxMotion,
    Mnms,
    NnunetRaw,
    Pairs,
)
from medjax.segmentation.datasets.case import Case, DataSet, with_splits
from medjax.segmentation.datasets.embedded import lesion_phantoms
from medjax.segmentation.fingerprint import PlanConfig, fingerprint, plan, scheme_of
from medjax.segmentation.labels import classes
from medjax.segmentation.phantoms.lesions import LesionConfig
from medjax.segmentation.preparation import Channel, Preparation, prepare
from medjax.segmentation.prepared import in_memory, open_prepared, write_prepared

SHAPE = (12, 14, 10)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
RNG = np.random.default_rng(0)
HERE = Path("list")


def put(path, value=None, *, shape=SHAPE):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = RNG.normal(5, 1, shape).astype(np.float32) if value is None else value
    write(path, np.asarray(data), affine=AFFINE)
    return path


def mask(values=(0, 1), shape=SHAPE):
    out = np.zeros(shape, np.uint8)
    for number, value in enumerate(values[1:], 1):
        out[2 * number : 2 * number + 2, 3:8, 2:6] = value
    return out


def read(reader, **flags):
    told = []
    found = reader(**flags).read(Ledger(log=told.append))
    return found, told


def test_nnunets_first_document_and_the_decathlons_fourth_axis(tmp_path):
    document = {
        "name": "liver",
        "modality": {"0": "T2", "1": "ADC"},
        "labels": {"0": "background", "1": "liver", "2": "tumour"},
        "training": [],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    for i in range(5):
        put(tmp_path / f"imagesTr/liver_{i}.nii.gz", shape=(*SHAPE, 2))
        put(tmp_path / f"labelsTr/liver_{i}.nii.gz", mask((0, 1, 2)))
    put(tmp_path / "imagesTs/liver_9.nii.gz", shape=(*SHAPE, 2))
    (tmp_path / "imagesTr/._liver_0.nii.gz").write_bytes(b"mac")
    found, told = read(NnunetRaw, root=tmp_path)
    assert found.name == "liver" and found.channels == ("T2", "ADC")
    assert found.labels.names == ("background", "liver", "tumour")
    assert told == ["images with a label map: kept 5 (dropped 1)"]
    splits = [case.split for case in found.cases]
    assert sorted(splits) == ["test", *["train"] * 3, "validation"]
    images, label = found.read(found.cases[0])
    assert [v.data.shape for v in images] == [SHAPE] * 2
    assert set(np.unique(label.data)) == {0, 1, 2}


def test_nnunets_second_document_with_regions_folds_and_an_ignored_label(tmp_path):
    document = {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
        "regions_class_order": [1, 2],
        "numTraining": 3,
        "file_ending": ".nii",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    for name in "abc":
        for channel in range(2):
            put(tmp_path / f"imagesTr/{name}_{channel:04d}.nii")
        put(tmp_path / f"labelsTr/{name}.nii", mask((0, 1, 2, 3)))
    folds = [{"train": ["a"], "val": ["b"]}, {"train": ["b", "c"], "val": ["a"]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    found, told = read(NnunetRaw, root=tmp_path, fold=1)
    assert {c.id: c.split for c in found.cases} == {
        "a": "validation",
        "b": "train",
        "c": "train",
    }
    labels = found.labels
    assert labels.regions == ((1, 2), (2,)) and labels.ignore == 3
    assert labels.names == ("whole", "core") and labels.painted == (1, 2)
    assert [p.name for p in found.cases[0].images] == ["a_0000.nii", "a_0001.nii"]
    assert [scheme_of(name) for name in found.channels] == ["ct", "zscore"]
    assert read(NnunetRaw, root=tmp_path)[1][-1].startswith("in fold 0: kept 2")
    with pytest.raises(DataError, match="2 folds, none is 5"):
        read(NnunetRaw, root=tmp_path, fold=5)
    (tmp_path / "imagesTr/b_0001.nii").rename(tmp_path / "imagesTr/b_0002.nii")
    (tmp_path / "imagesTr/b_0000.nii").rename(tmp_path / "imagesTr/b_0001.nii")
    put(tmp_path / "imagesTr/b_0000.nii")
    with pytest.raises(DataError, match="case b has 3 images, expected 2 or one"):
        read(NnunetRaw, root=tmp_path)


def test_numbers_of_patients_are_told_from_numbers_of_channels_by_label_maps(tmp_path):
    document = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    for i in range(4):
        put(tmp_path / f"imagesTr/case_{i:04d}.nii.gz")
        put(tmp_path / f"labelsTr/case_{i:04d}.nii.gz", mask())
    for i in range(4, 6):
        put(tmp_path / f"imagesTs/case_{i:04d}.nii.gz")
    found, told = read(NnunetRaw, root=tmp_path)
    assert [c.id for c in found.cases] == [f"case_{i:04d}" for i in range(4)]
    assert told == ["images with a label map: kept 4 (dropped 2)"]
    found, told = read(NnunetRaw, root=tmp_path, labelled=False)
    assert [c.id for c in found.cases] == [f"case_{i:04d}" for i in range(6)]
    assert told == ["images: kept 6 (dropped 0)"]
    # nnU-Net counts channels behind that.
    for image in [*tmp_path.glob("images*/*")]:
        image.rename(image.with_name(image.name.replace(".nii", "_0000.nii")))
    found, _ = read(NnunetRaw, root=tmp_path, labelled=False)
    assert [c.id for c in found.cases] == [f"case_{i:04d}" for i in range(6)]
    put(tmp_path / "labelsTr/other.nii.gz", mask())
    for i in range(2):
        put(tmp_path / f"imagesTr/other_{i:04d}.nii.gz")
    with pytest.raises(DataError, match="case other has 2 images, expected one"):
        read(NnunetRaw, root=tmp_path)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"labels": None}, "expected 'labels'"),
        ({"channel_names": {}}, "expected 'channel_names' or 'modality'"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "two names for one value"),
        ({"labels": {"background": 0, "a": [1, 2]}}, "1 names and 0 painted"),
        ({"channel_names": {"first": "CT"}}, "dataset.json"),
    ],
)
def test_a_document_that_does_not_describe_a_set(tmp_path, change, told):
    document = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(document | change))
    with pytest.raises(DataError, match=told):
        read(NnunetRaw, root=tmp_path)


def test_acdc_counts_frames_from_one_and_its_labels_the_other_way(tmp_path):
    for i in range(1, 4):
        folder = tmp_path / f"training/patient{i:03d}"
        put(folder / f"patient{i:03d}_frame01.nii.gz")
        put(folder / f"patient{i:03d}_frame12.nii.gz")
        put(folder / f"patient{i:03d}_frame01_gt.nii.gz", mask((0, 1, 2, 3)))
        if i > 1:
            put(folder / f"patient{i:03d}_frame12_gt.nii.gz", mask((0, 1, 2, 3)))
        (folder / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: DCM\n")
    found, told = read(Acdc, root=tmp_path)
    assert len(found.cases) == 5
    assert told[-1] == "with a label map: kept 5 (dropped 1)"
    by = {}
    for case in found.cases:
        by.setdefault(case.patient, set()).add(case.split)
    assert all(len(splits) == 1 for splits in by.values())
    _, label = found.read(found.cases[0])
    right, left = label.data[2, 4, 3], label.data[6, 4, 3]
    assert (right, label.data[4, 4, 3], left) == (3, 2, 1), "file: 1 RV, 2 MYO, 3 LV"
    (folder / "Info.cfg").write_text("ED: 1\n")
    with pytest.raises(DataError, match="Info.cfg: ES: expected a whole number"):
        read(Acdc, root=tmp_path)


def test_folders_above_a_set_say_nothing_of_its_splits(tmp_path):
    for root in (tmp_path / "testing/acdc", tmp_path / "Testing/mnms"):
        for i in range(3):
            folder = root / f"p{i}"
            put(folder / f"p{i}_frame01.nii.gz")
            put(folder / f"p{i}_frame01_gt.nii.gz", mask((0, 1, 2, 3)))
            put(folder / f"p{i}_sa.nii.gz", shape=(*SHAPE, 2))
            put(folder / f"p{i}_sa_gt.nii.gz", shape=(*SHAPE, 2))
            (folder / "Info.cfg").write_text("ED: 1\nES: 1\n")
        rows = "".join(f"p{i},0,1\n" for i in range(3))
        (root / "Information.csv").write_text(f"External code,ED,ES\n{rows}")
    for reader, name in ((Acdc, "testing/acdc"), (Mnms, "Testing/mnms")):
        found, _ = read(reader, root=tmp_path / name)
        splits = sorted({c.split for c in found.cases})
        assert len(found.cases) == 6 and splits == ["test", "train", "validation"]


def test_mnms_counts_frames_from_zero(tmp_path):
    table = "External code,Vendor,ED,ES\nA1,A,0,2\nB2,B,1,2\nC3,C,0,1\nD4,D,0,1\n"
    name = "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv"
    (tmp_path / name).write_text(table)
    for code in ("A1", "B2", "C3"):
        image = np.zeros((*SHAPE, 3), np.float32) + np.arange(3, dtype=np.float32)
        put(tmp_path / f"Training/{code}/{code}_sa.nii.gz", image)
        label = np.stack([mask((0, 1, 2, 3))] * 3, -1)
        put(tmp_path / f"Training/{code}/{code}_sa_gt.nii.gz", label)
    found, told = read(Mnms, root=tmp_path)
    assert told[1] == "with an image: kept 6 (dropped 2)"
    case = next(c for c in found.cases if c.id == "B2_ED")
    images, label = found.read(case)
    assert case.frame == 1 and (images[0].data == 1).all() and label.data.ndim == 3


def test_cmrxmotion_leaves_out_what_motion_made_useless(tmp_path):
    for patient in ("P001", "P002"):
        for acquisition in (1, 4):
            for phase in ("ED", "ES"):
                stem = f"{patient}-{acquisition}-{phase}"
                put(tmp_path / f"data/{stem[:6]}/{stem}.nii.gz", shape=(*SHAPE, 1))
                if acquisition == 1:
                    path = tmp_path / f"data/{stem[:6]}/{stem}-label.nii.gz"
                    put(path, mask((0, 1, 2, 3))[..., None])
    found, told = read(CmrxMotion, root=tmp_path)
    assert told[-1] == "with a label map: kept 4 (dropped 4)"
    images, label = found.read(found.cases[0])
    assert images[0].data.shape == label.data.shape == SHAPE


def test_bids_joins_images_and_masks_by_subject_and_session(tmp_path):
    for subject in ("1", "2", "3"):
        name = f"sub-{subject}_ses-1"
        folder = tmp_path / f"sub-{subject}/ses-1/dwi"
        put(folder / f"{name}_dwi.nii.gz")
        put(folder / f"{name}_adc.nii.gz")
        put(tmp_path / f"derivatives/sub-{subject}/{name}_msk.nii.gz", mask())
    put(tmp_path / "sub-4/ses-1/dwi/sub-4_ses-1_dwi.nii.gz")
    found, told = read(Bids, root=tmp_path, images=("dwi", "adc"))
    assert told[1:] == [
        "with all images: kept 3 (dropped 1)",
        "with a mask: kept 3 (dropped 0)",
    ]
    assert [p.name for p in found.cases[0].images] == [
        "sub-1_ses-1_dwi.nii.gz",
        "sub-1_ses-1_adc.nii.gz",
    ]
    put(tmp_path / "derivatives/sub-1/sub-1_ses-1_label-L_desc-x_mask.nii.gz", mask())
    with pytest.raises(DataError, match="several masks of one session"):
        read(Bids, root=tmp_path, images=("dwi",))
    (tmp_path / "derivatives/sub-1/sub-1_ses-1_label-L_desc-x_mask.nii.gz").unlink()
    put(tmp_path / "sub-1/ses-1/dwi/sub-1_ses-1_run-2_dwi.nii.gz")
    with pytest.raises(DataError, match="several images of one session: .*run-2"):
        read(Bids, root=tmp_path, images=("dwi",))


def test_a_set_of_derivatives_is_read_as_any_other(tmp_path):
    root = tmp_path / "derivatives/set"
    for subject in "123":
        put(root / f"sub-{subject}/anat/sub-{subject}_FLAIR.nii.gz")
        put(root / f"derivatives/sub-{subject}_FLAIR.nii.gz")
        put(root / f"derivatives/sub-{subject}_mask.nii.gz", mask())
    found, _ = read(Bids, root=root)
    assert [c.images[0].parent.name for c in found.cases] == ["anat"] * 3


def test_splits_keep_patients_together_and_ids_apart():
    cases = [Case(f"{p}-{i}", (), patient=p) for p in "abcdefghij" for i in range(3)]
    done = with_splits(cases, seed=0, where=HERE)
    by = {}
    for case in done:
        by.setdefault(case.split, set()).add(case.patient)
    assert [len(by[s]) for s in ("train", "validation", "test")] == [6, 2, 2]
    assert not by["train"] & by["test"] and done != with_splits(
        cases, seed=1, where=HERE
    )
    with pytest.raises(DataError, match="list: cases .'a-0'. are there more than once"):
        with_splits([*cases, cases[0]], seed=0, where=HERE)
    torn = [
        Case("1", (), patient="x", split="train"),
        Case("2", (), patient="x", split="test"),
    ]
    with pytest.raises(DataError, match="'x'. are in more than one split"):
        with_splits(torn, seed=0, where=HERE)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Five pairs of which one cannot be used, as a table."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = ["image,label,case,split"]
    for i, split in enumerate(["train", "train", "train", "val", "test"]):
        put(folder / f"i{i}.nii.gz")
        label = mask((0, 1, 4))
        # A tool that scales left a hundredth.
        put(folder / f"l{i}.nii.gz", label.astype(np.float32) * np.float32(0.998))
        rows.append(f"i{i}.nii.gz,l{i}.nii.gz,c{i},{split}")
    put(folder / "l1.nii.gz", mask((0, 1, 7)))
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    return folder / "pairs.csv"


FLAGS = {"labels": (("core", 1), ("rim", 4))}


def test_a_table_is_planned_prepared_and_opened_again(table, tmp_path):
    data, _ = read(Pairs, root=table, channels=("CT",), **FLAGS)
    assert [c.split for c in data.cases][3:] == ["validation", "test"]
    config = PlanConfig(rank=3, batch_size=2, widths=(4, 8))
    ledger = Ledger("skip", log=lambda line: None)
    found = write_prepared(data, config, tmp_path / "set", ledger)
    assert [skip.id for skip in ledger.skipped] == ["c1"]
    assert "label 7 in 40 voxels" in ledger.skipped[0].reason
    assert ledger.filters[-2:] == [
        ("prepared for train", 2, 1),
        ("prepared for validation", 1, 0),
    ]
    again = open_prepared(tmp_path / "set")
    assert (again.data, again.preparation, again.plan) == (
        data,
        found.preparation,
        found.plan,
    )
    kept = in_memory(data, config, Ledger("skip", log=lambda line: None))
    assert kept.preparation == again.preparation and len(again.train) == 2
    for row, other in zip(again.train, kept.train, strict=True):
        assert row["image"].shape == (10, 12, 14, 1)
        for name in ("image", "label", "voxels", "classes"):
            np.testing.assert_array_equal(row[name], other[name])
    assert set(np.unique(again.train[0]["label"])) == {0, 1, 2}
    (ct,) = again.preparation.channels
    assert ct.scheme == "ct" and ct.low < ct.mean < ct.high
    with pytest.raises(DataError, match="c1: label 7"):
        in_memory(data, config, Ledger(log=lambda line: None))


def test_rows_of_one_image_are_its_annotators(tmp_path):
    """Each a case; together in one split, and when they are scored."""
    rows = [f"i{i}.nii.gz,l{i}{who}.nii.gz,{i}{who}" for i in range(6) for who in "abc"]
    (tmp_path / "t.csv").write_text("\n".join(["image,label,case", *rows]))
    data, _ = read(Pairs, root=tmp_path / "t.csv")
    assert len(data.cases) == 18
    images = images_of(data.cases)
    assert [[c.id for c in one] for one in images[:2]] == [
        ["0a", "0b", "0c"],
        ["1a", "1b", "1c"],
    ]
    assert all(len({c.split for c in one}) == 1 for one in images)
    assert {c.split for c in data.cases} == {"train", "validation", "test"}
    images, told = read(Pairs, root=tmp_path / "t.csv", labelled=False)
    assert [c.id for c in images.cases] == [f"{i}a" for i in range(6)]
    assert told[-1] == "of one image each: kept 6 (dropped 12)"


def test_channels_and_labels_that_do_not_fit_are_listed(tmp_path):
    """Before intensities under a label map are looked at."""
    for i, shape in enumerate((SHAPE, SHAPE, (9, 9, 9))):
        put(tmp_path / f"i{i}.nii.gz")
        put(tmp_path / f"l{i}.nii.gz", mask(shape=shape))
    put(tmp_path / "i1.nii.gz", shape=(*SHAPE, 2))
    rows = [f"i{i}.nii.gz,l{i}.nii.gz,c{i},train" for i in range(3)]
    (tmp_path / "t.csv").write_text("\n".join(["image,label,case,split", *rows]))
    data, _ = read(Pairs, root=tmp_path / "t.csv", channels=("CT",))
    ledger = Ledger("skip", log=lambda line: None)
    config = PlanConfig(widths=(4, 8))
    assert len(in_memory(data, config, ledger).train) == 1
    # Once each, though planning and preparing both read all cases.
    assert [skip.id for skip in ledger.skipped] == ["c1", "c2"]
    assert "c1: 2 images, expected ['CT']" in ledger.skipped[0].reason
    assert "(12, 14, 10) and (9, 9, 9)" in ledger.skipped[1].reason


def test_what_is_no_number_is_a_fault_or_taken_for_one(tmp_path):
    image = np.ones(SHAPE, np.float32)
    image[3, 4, 5], image[0, 0, :2] = np.nan, np.inf
    case = Case("a", (put(tmp_path / "a.nii.gz", image),))
    strict = DataSet("", ("MRI",), classes({"x": 1}), (case,))
    with pytest.raises(DataError, match="3 values that are NaN or infinite of 1680"):
        strict.read(case)
    with pytest.warns(UserWarning, match="3 values .* are taken for 0"):
        (found,), _ = dataclasses.replace(strict, nan_to=0.0).read(case)
    np.testing.assert_array_equal(found.data, np.where(np.isfinite(image), image, 0))


def test_labels_on_another_grid_are_a_fault_or_brought_over(tmp_path):
    """Half the resolution: each voxel is two along every axis of the image."""
    coarse = np.zeros((6, 7, 5), np.uint8)
    coarse[2:4] = 1  # a slab, for the largest share rounds corners off
    affine = AFFINE @ np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = 0.5 * np.diag(AFFINE)[:3]
    write(tmp_path / "l.nii.gz", coarse, affine=affine)
    case = Case("a", (put(tmp_path / "a.nii.gz"),), tmp_path / "l.nii.gz")
    data = DataSet("", ("MRI",), classes({"x": 1}), (case,))
    images, label = data.read(case)
    preparation = Preparation((Channel("MRI"),), (None,) * 3)
    with pytest.raises(DataError, match=r"\(12, 14, 10\) and \(6, 7, 5\)"):
        prepare(images, preparation, id="a", label=label, labels=data.labels)
    opted = dataclasses.replace(data, resample_labels=True)
    images, label = opted.read(case)
    expected = coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(label.data, expected)
    prepare(images, preparation, id="a", label=label, labels=data.labels)


def test_a_table_with_faults_names_the_line(table, tmp_path):
    bad = tmp_path / "bad.csv"
    bad.write_text("image,label,split\na.nii,b.nii,exam\n")
    with pytest.raises(DataError, match=r"bad.csv:2: the split is none of train"):
        read(Pairs, root=bad)
    bad.write_text("image,label\na.nii,\n")
    with pytest.raises(DataError, match="no row with an image and a label map"):
        read(Pairs, root=bad)


def test_real_lesions_by_a_table(shared_data, tmp_path):
    """FLAIR of patients with masks (Lesjak et al. 2017): read, cropped, planned."""
    folder = shared_data / "lesions" / "open_ms"
    rows = ["image,label,case,split"]
    for patient, split in (("07", "train"), ("19", "train"), ("26", "test")):
        stem = folder / f"MNI_patient{patient}"
        rows.append(f"{stem}_FLAIR.nii.gz,{stem}_GT.nii.gz,{patient},{split}")
    (tmp_path / "ms.csv").write_text("\n".join(rows))
    data, _ = read(Pairs, root=tmp_path / "ms.csv", labels=(("lesion", 1),))
    one = fingerprint(data, Ledger(log=lambda line: None))
    assert one.spacings == ((1.0, 1.0, 1.0),) * 2 and one.kept < 0.75
    preparation, network = plan(one, ["FLAIR"], classes=2, config=PlanConfig())
    assert preparation.masked and len(network.patch) == 3
    assert min(network.patch) >= 96 and network.batch_size == 2


def test_real_cine_is_thick(shared_data, tmp_path):
    """A swine's short-axis stack: slices stay apart, planes are pooled first."""
    folder = shared_data / "heart" / "ep_dataset"
    rows = ["image,label,case,split,frame,patient"]
    for frame, split in ((0, "train"), (5, "train"), (11, "train")):
        rows.append(
            f"{folder}/sa.nii.gz,{folder}/seg_sa.nii.gz,{frame},{split},{frame},pig"
        )
    (tmp_path / "pig.csv").write_text("\n".join(rows))
    labels = (("LV", 1), ("myocardium", 2))
    data, _ = read(Pairs, root=tmp_path / "pig.csv", labels=labels)
    images, label = data.read(data.cases[0])
    cavity = (label.data == 1).sum() * np.prod(images[0].spacing) / 1000
    assert cavity == pytest.approx(79.3, abs=0.1), "mL, as the derivation published"
    one = fingerprint(data, Ledger(log=lambda line: None))
    config = PlanConfig(rank=2)
    preparation, network = plan(one, ["cine"], classes=3, config=config)
    assert preparation.order[0] == int(np.argmax(one.spacings[0]))
    assert preparation.spacing[preparation.order[0]] is None
    assert len(network.patch) == 2


def test_held_out_phantoms_are_the_same_whatever_the_seed():
    config = LesionConfig(shape=(32, 32), slots=2)
    one, two = (
        lesion_phantoms(config, seed=s, train=2, validation=1, test=1) for s in (0, 1)
    )
    same = [a.id == b.id for a, b in zip(one.cases, two.cases, strict=True)]
    assert [c.split for c in one.cases] == ["test", "validation", "train", "train"]
    assert same == [True, True, False, False]
    (image,), label = one.read(one.cases[0])
    assert image.data.shape == label.data.shape == (32, 32, 1)
    assert image.data.any() and set(np.unique(label.data)) <= {0, 1}
