"""Files of a case that lie apart: told once and counted, or refused."""

import dataclasses

import numpy as np
import pytest

from experiments.prepare import segmentation as prepare_segmentation
from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger
from medjax.data.nifti import write
from medjax.segmentation.datasets.geometry import files_apart
from medjax.segmentation.fingerprint import PlanConfig
from medjax.segmentation.prepared import open_prepared
from medjax.segmentation.sets import SegmentationDataConfig, prepared_set, read_raw

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
PLAN = PlanConfig(rank=3, batch_size=2, widths=(4, 8))
MOVED = {"c1": "l1.nii.gz lies up to 2 mm from a1", "c4": "b4.nii.gz lies up to 2 mm"}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Five pairs of two channels; of two cases one file was moved by 2 mm."""
    folder, rng = tmp_path_factory.mktemp("apart"), np.random.default_rng(0)
    moved, rows = AFFINE.copy(), ["image,image_1,label,case,split"]
    moved[0, 3] += 2
    label = np.zeros((8, 8, 6), np.uint8)
    label[2:5, 2:5, 2:4] = 1
    for i, split in enumerate(["train", "train", "train", "val", "test"]):
        for kind in "abl":
            data = label if kind == "l" else rng.normal(5, 1, label.shape)
            affine = moved if (kind, i) in (("l", 1), ("b", 4)) else AFFINE
            write(folder / f"{kind}{i}.nii.gz", data, affine=affine)
        rows.append(f"a{i}.nii.gz,b{i}.nii.gz,l{i}.nii.gz,c{i},{split}")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    return folder / "pairs.csv"


def asked(table, **flags):
    return SegmentationDataConfig(
        root=table, format="table", channels=("T1", "T2"), labels=("x=1",), **flags
    )


def test_they_are_listed_once_with_the_images_geometry_taken(table, tmp_path):
    """Of all splits, though planning, preparing and scoring read them again."""
    ledger, folder = Ledger(log=lambda line: None), tmp_path / "set"
    with pytest.warns(UserWarning, match="geometry is taken") as warned:
        found = prepared_set(asked(table), PLAN, folder, ledger)
    (told,) = [str(one.message) for one in warned]
    first, *lines = told.splitlines()
    assert first.startswith("files of 2 cases lie apart")
    assert len(lines) == 2 and told.count("c1: ") == told.count("c4: ") == 1
    assert all(text in told for text in MOVED.values())
    assert ("geometry of the first image taken in 2", 5, 0) in ledger.filters
    assert not ledger.skipped and len(found.data.cases) == 5
    for case in found.data.cases:
        images, label = found.data.read(case)
        assert label is not None
        for volume in (*images, label):
            np.testing.assert_array_equal(volume.affine, AFFINE)
    with pytest.raises(ValueError, match="was prepared without; prepare it anew"):
        prepared_set(asked(table, strict_geometry=True), PLAN, folder, ledger)


def test_they_are_refused_where_that_is_asked_for(table, tmp_path):
    """At the first one, or all listed, left out and counted."""
    strict = asked(table, strict_geometry=True)
    quiet = Ledger(log=lambda line: None)
    with pytest.raises(DataError, match=r"c1: \S*l1.nii.gz lies up to 2 mm from a1"):
        prepared_set(strict, PLAN, tmp_path / "none", quiet)
    assert not (tmp_path / "none").exists()
    ledger = Ledger("skip", log=lambda line: None)
    found = prepared_set(strict, PLAN, tmp_path / "set", ledger)
    assert [skip.id for skip in ledger.skipped] == list(MOVED)
    assert ("files of one geometry", 3, 2) in ledger.filters
    assert [case.id for case in found.data.cases] == ["c0", "c2", "c3"]
    again = dataclasses.replace(strict, format="prepared", root=tmp_path / "set")
    assert prepared_set(again, PLAN, tmp_path, ledger).data == found.data
    raw = read_raw(strict, quiet)
    with pytest.raises(DataError, match="b4.nii.gz: lies up to 2 mm"):
        raw.read(raw.cases[4])


def test_the_command_takes_the_flag(table, tmp_path, capsys):
    source = ["--format", "table", "--root", str(table), "--out", str(tmp_path / "p")]
    flags = ["--channels", "T1", "T2", "--labels", "x=1", "--plan.batch-size", "2"]
    strict = ["--strict-geometry", "--on-error", "skip", "--plan.widths", "4", "8"]
    assert not prepare_segmentation.main([*source, *flags, *strict])
    told = capsys.readouterr().out
    assert "files of one geometry: kept 3 (dropped 2)" in told
    assert "l1.nii.gz" in (tmp_path / "p.skipped.csv").read_text()
    assert open_prepared(tmp_path / "p").data.strict_geometry


def test_rounding_and_what_cannot_be_read_are_left_alone(table, tmp_path):
    data = read_raw(asked(table), Ledger(log=lambda line: None))
    case = data.cases[0]
    write(tmp_path / "r.nii.gz", np.zeros((8, 8, 6)), affine=AFFINE + 1e-4)
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing")
    for name in ("r.nii.gz", "broken.nii.gz", "absent.nii.gz"):
        other = dataclasses.replace(case, label=tmp_path / name)
        assert not files_apart([other])
    assert list(files_apart(data.cases)) == list(MOVED)
