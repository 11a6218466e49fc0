"""Prepared sets: what goes in comes out, TFDS agrees, nothing half-written stays."""

import json
import os
import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds

from medjax.data.record_writer import write_records
from medjax.data.records import Field, RecordSource, read_metadata
from tests.full_disk import full_disk

FIELDS = {
    "image": Field("array", (8, 8), "uint8"),
    "packed": Field("png", (8, 8), "uint8"),
    "ids": Field("array", (None,), "int32"),
    "boxes": Field("array", (None, 4), "float32"),
    "number": Field("array", (), "int32"),
    "text": Field("text"),
}


def row(i: int) -> dict:
    rng = np.random.default_rng(i)
    image = rng.integers(0, 256, (8, 8), dtype=np.uint8)
    return {
        "image": image,
        "packed": image,
        "ids": np.arange(i % 3, dtype=np.int32),
        "boxes": rng.random((i % 2, 4), np.float32),
        "number": np.int32(i),
        "text": "größer " * (i % 2),
    }


@pytest.fixture
def folder(tmp_path):
    with write_records(tmp_path / "set", name="demo", fields=FIELDS) as writer:
        for i in range(70):  # more than one chunk
            writer.add("train", row(i))
        writer.add("test", row(70))
        (writer.folder / "extra.txt").write_text("beside")
        writer.metadata["note"] = "kept"
    return tmp_path / "set"


def test_rows_come_back_in_order_and_exact(folder):
    source = RecordSource(folder, "train")
    assert len(source) == 70
    for i in (0, 1, 2, 63, 64, 69):
        for name, value in row(i).items():
            found = source[i][name]
            assert type(found) is (str if name == "text" else np.ndarray)
            np.testing.assert_array_equal(found, value)
            if name != "text":
                assert found.dtype == value.dtype and found.shape == value.shape
    assert RecordSource(folder, "test")[0]["number"] == 70


def test_only_the_fields_asked_for_are_decoded(folder):
    assert list(RecordSource(folder, "train", fields=["text", "ids"])[1]) == [
        "text",
        "ids",
    ]


def test_tfds_reads_the_same_set(folder):
    theirs = tfds.builder_from_directory(folder).as_data_source("train")
    ours = RecordSource(folder, "train", fields=["image", "ids", "number", "text"])
    for i in (0, 5, 69):
        for name, value in ours[i].items():
            other = theirs[i][name]
            np.testing.assert_array_equal(
                value, other.decode() if name == "text" else other
            )


def test_a_source_survives_the_way_to_another_process(folder):
    source = RecordSource(folder, "train", fields=["number"])
    assert pickle.loads(pickle.dumps(source))[3]["number"] == 3


def test_metadata_and_further_files_move_with_the_set(folder):
    metadata = read_metadata(folder)
    assert metadata["splits"] == {"train": 70, "test": 1}
    assert metadata["note"] == "kept"
    assert (folder / "extra.txt").read_text() == "beside"
    assert [p.name for p in folder.parent.iterdir()] == ["set"]


def test_an_error_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError, match="stop"):
        with write_records(tmp_path / "set", name="demo", fields=FIELDS) as writer:
            writer.add("train", row(0))
            raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_swept(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    dead, alive = tmp_path / ".set.incomplete.here.999999999", os.getppid()
    other = tmp_path / f".set.incomplete.here.{alive}"
    dead.mkdir()
    other.mkdir()
    with write_records(tmp_path / "set", name="demo", fields=FIELDS) as writer:
        writer.add("train", row(0))
    assert not dead.exists() and other.exists()


def test_a_finished_set_is_replaced_only_on_request(folder):
    with pytest.raises(FileExistsError, match="overwrite"):
        with write_records(folder, name="demo", fields=FIELDS):
            pass
    with write_records(folder, name="demo", fields=FIELDS, overwrite=True) as writer:
        writer.add("train", row(5))
    assert len(RecordSource(folder, "train")) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, "row has fields"),
        ({"image": np.zeros((8, 7), np.uint8)}, "image"),
        ({"ids": np.zeros(2, np.int64)}, "ids"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(tmp_path, change, message):
    bad = {k: v for k, v in (row(1) | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        with write_records(tmp_path / "set", name="demo", fields=FIELDS) as writer:
            writer.add("train", bad)
    assert not (tmp_path / "set").exists()


def test_a_set_without_rows_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no row"):
        with write_records(tmp_path / "set", name="demo", fields=FIELDS):
            pass


def test_faults_of_the_reader_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match="not a prepared set.*found nothing"):
        RecordSource(tmp_path / "nowhere", "train")
    with pytest.raises(ValueError, match="'valid'.*train"):
        RecordSource(folder, "valid")
    with pytest.raises(ValueError, match=r"\['mask'\].*image"):
        RecordSource(folder, "train", fields=["mask"])
    metadata = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps(metadata | {"format": 0}))
    with pytest.raises(ValueError, match="prepare it again"):
        RecordSource(folder, "train")


def test_a_shard_that_is_cut_is_named(folder):
    (shard,) = folder.glob("demo-train.array_record*")
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(ValueError, match=f"{shard.name}: .*row 69"):
        RecordSource(folder, "train")[69]


def test_a_set_with_fewer_rows_than_it_says_is_refused(folder):
    path = folder / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["splits"]["train"] = 71
    path.write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="set: 'train': .*70 rows.*says 71"):
        RecordSource(folder, "train")


def test_a_row_that_is_not_there_is_no_fault_of_the_file(folder):
    with pytest.raises(IndexError, match="no row 70"):
        RecordSource(folder, "train")[70]


@pytest.mark.parametrize(
    "change",
    [
        {"fields": {"ids": ["array", [-3], "int32"]}},
        {"fields": {"ids": ["array", [None], "object"]}},
        {"fields": None},
        {"splits": {"train": "many"}},
        {"splits": {"train": -1}},
        {"name": 3},
    ],
    ids=str,
)
def test_a_description_of_other_types_is_refused_by_name(folder, change):
    path = folder / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match="metadata.json"):
        read_metadata(folder)
    path.write_text("{")
    with pytest.raises(ValueError, match="metadata.json: not an intact"):
        read_metadata(folder)


@pytest.mark.parametrize("most", [64, 4096])  # Python meets it, the format's writer
def test_a_full_disk_is_an_error_of_the_disk_and_leaves_nothing(tmp_path, most):
    with (
        full_disk(most),
        pytest.raises(OSError, match="File too large") as refused,
        write_records(tmp_path / "set", name="demo", fields=FIELDS) as writer,
    ):
        for i in range(200):
            writer.add("train", row(i))
    assert str(tmp_path) in str(refused.value)
    assert not list(tmp_path.iterdir())
