"""From a CMRxRecon tree to prepared sets and into training, as the commands do it."""

from pathlib import Path

import fsspec
import numpy as np
import pytest

from experiments.prepare import cmrxrecon as prepare_cmrxrecon
from medjax.data.ledger import Ledger
from medjax.data.records import RecordSource, read_metadata
from medjax.mri import cmrxrecon, scans


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    cmrxrecon.fabricate(root, patients=2)
    return root


def run(tree, out, *flags):
    return prepare_cmrxrecon.main(
        ["--root", str(tree), "--out", str(out), "--acs", "8", *flags]
    )


def test_the_sets_hold_what_training_reads(tree, tmp_path, capsys):
    assert run(tree, tmp_path / "sets") == 0
    printed = capsys.readouterr().out
    assert "T1map of a patient in the split: kept 2 (dropped 0)" in printed
    assert "slices train 2, test 2" in printed and "skipped: none" in printed
    names = {path.name for path in (tmp_path / "sets").iterdir()}
    assert names == {"t1map_9x4x36x64", "t2map_3x4x28x48"}
    config = scans.ScansConfig(
        root=tmp_path / "sets", series="t2", acs=8, batch_size=2, acceleration=(4, 8)
    )
    data = scans.open_scans(config)
    assert {data.test[i]["patient"] for i in range(2)} == {"P002"}
    batch = next(iter(scans.training_batches(data, config)))
    assert batch["kspace"].shape == (2, 3, 4, 28, 48)
    assert batch["mask"].shape == (2, 1, 28, 1)


def test_sets_go_to_an_address_and_are_read_from_it(tree, tmp_path):
    store = fsspec.filesystem("memory")
    store.store.clear()
    address = Path("memory://hearts/sets")
    flags = ("--series", "T2map", "--cache", str(tmp_path / "there"))
    assert run(tree, address, *flags) == 0
    config = scans.ScansConfig(
        root=address, series="t2", acs=8, batch_size=2, cache=tmp_path / "here"
    )
    data = scans.open_scans(config)
    assert data.name == "t2map_3x4x28x48" and len(data.train) == 2
    (written,) = (tmp_path / "there").rglob("t2map_*")
    rows = RecordSource(written, "test")
    for i in range(2):
        np.testing.assert_equal(data.test[i], rows[i])
    assert run(Path("s3://bucket/tree"), tmp_path / "sets") == 1
    store.store.clear()


def test_a_split_without_a_test_part_is_scored_on_validation(tree, tmp_path, capsys):
    def parts(*names):
        split = {name: [f"P00{i}"] for i, name in enumerate(names, start=1)}
        folder = tmp_path / "-".join(names)
        cmrxrecon.prepare(tree, folder, name="T2map", split=split)
        config = scans.ScansConfig(root=folder, series="t2", acs=8, batch_size=2)
        return scans.open_scans(config)

    data = parts("train", "validation")
    assert "no part 'test': 'validation' is held out" in capsys.readouterr().out
    assert {data.test[i]["patient"] for i in range(2)} == {"P002"}
    with pytest.raises(
        ValueError, match=r"parts \['spare', 'train'\], expected 'test'"
    ):
        parts("train", "spare")


def test_the_same_command_keeps_what_is_finished(tree, tmp_path, capsys):
    flags = ("--series", "T2map")
    assert run(tree, tmp_path, *flags) == 0
    before = read_metadata(tmp_path / "t2map_3x4x28x48")
    assert run(tree, tmp_path, *flags) == 0
    assert "already prepared" in capsys.readouterr().out
    assert read_metadata(tmp_path / "t2map_3x4x28x48") == before
    assert str(tree) not in str(before)  # no private path
    assert run(tree, tmp_path, *flags, "--acs", "10") == 1
    assert "other settings" in capsys.readouterr().err
    assert run(tree, tmp_path, *flags, "--acs", "10", "--overwrite") == 0
    assert read_metadata(tmp_path / "t2map_3x4x28x48")["acs"] == 10


def test_single_coil_series_have_one_coil(tree, tmp_path):
    assert run(tree, tmp_path, "--series", "T2map", "--coils", "SingleCoil") == 0
    row = RecordSource(tmp_path / "t2map_3x1x28x48", "test")[0]
    assert row["kspace"].shape == (3, 1, 28, 48)
    strong = np.abs(row["sensitivities"][0])[row["label"] > 0]
    np.testing.assert_allclose(strong, 1, atol=1e-5)


def test_a_damaged_file_stops_or_is_listed(tmp_path, capsys):
    cmrxrecon.fabricate(tmp_path / "tree", patients=3)
    (broken,) = (
        f.kspace
        for f in cmrxrecon.find(tmp_path / "tree", name="T2map")
        if f.patient == "P001"
    )
    broken.write_bytes(broken.read_bytes()[:2000])
    flags = ("--series", "T2map")
    assert run(tmp_path / "tree", tmp_path / "sets", *flags) == 1
    told = capsys.readouterr().err
    assert "P001" in told and broken.name in told and "on_error=skip" in told
    assert run(tmp_path / "tree", tmp_path / "sets", *flags, "--on-error", "skip") == 0
    folder = tmp_path / "sets" / "t2map_3x4x28x48"
    assert read_metadata(folder)["splits"] == {"train": 2, "test": 2}
    listed = (folder / "skipped.csv").read_text()
    assert listed.startswith("id,reason\nP001,") and broken.name in listed


def test_what_cannot_be_prepared_is_said(tree, tmp_path, capsys):
    assert run(tree / "nowhere", tmp_path) == 1
    assert "no such folder of CMRxRecon 2023" in capsys.readouterr().err
    assert run(tree, tmp_path, "--split", "promptmr") == 1
    assert "the split is of 120 patients, got 2" in capsys.readouterr().err
    assert run(tree, tmp_path, "--acs", "0") == 1
    assert "expected at least 1 line" in capsys.readouterr().err
    for patients, share in ((["P001"], 0.1), (["P001", "P002"], 0.9)):
        with pytest.raises(ValueError, match="leaves at least one"):
            cmrxrecon.last_patients_split(patients, share=share)


def test_a_tree_without_a_readable_series_is_refused(tmp_path):
    files = cmrxrecon.fabricate(tmp_path / "tree", patients=1)
    for path in files:
        if path.name == "T2map.mat":
            path.write_bytes(b"not a MATLAB file")
    with pytest.raises(ValueError, match="no T2map of .* can be read"):
        cmrxrecon.prepare(
            tmp_path / "tree",
            tmp_path / "sets",
            name="T2map",
            split={"train": ["P001"]},
            ledger=Ledger("skip"),
        )
