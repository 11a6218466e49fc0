"""What crosses from files to arrays: documented errors, sizes and numbers."""

import csv
import struct
import zlib

import ml_dtypes
import numpy as np
import pytest

from medjax.data.boundary import DataError, affordable, finite, in_short, reading


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "scan.x"
    path.write_bytes(bytes(100))
    return path


@pytest.mark.parametrize(
    "error",
    [
        *(zlib.error("Error -3"), struct.error("short"), csv.Error("quote")),
        *(KeyError("x"), RuntimeError("x"), MemoryError(), RecursionError("deep")),
        *(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "start"), EOFError("cut")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_library_raises_becomes_one_error_with_file_and_key(file, error):
    with pytest.raises(DataError) as told, reading(file, "NIfTI file", key="head"):
        raise error
    assert f"{file}: 'head': not an intact NIfTI file" in str(told.value)
    assert type(error).__name__ in str(told.value) and "\n" not in str(told.value)


def test_what_is_documented_already_passes(file):
    for error in (DataError("said"), ImportError("no h5py")):
        with pytest.raises(type(error)) as told, reading(file, "file"):
            raise error
        assert told.value is error
    with pytest.raises(KeyboardInterrupt), reading(file, "file"):
        raise KeyboardInterrupt


def test_a_missing_file_is_missing_and_a_dangling_link_inside_is_damage(file):
    with pytest.raises(FileNotFoundError, match="absent.x: no such file"):
        with reading(file.with_name("absent.x"), "file"):
            raise FileNotFoundError("whatever")
    with pytest.raises(DataError, match="scan.x: not an intact file"):
        with reading(file, "file"):
            raise FileNotFoundError("elsewhere.h5")


def test_what_a_patients_file_says_is_not_repeated(file):
    with pytest.raises(DataError) as told, reading(file, "DICOM", quote=False):
        raise ValueError("invalid value 'Doe^Jane'")
    assert "Doe" not in str(told.value) and "ValueError" in str(told.value)
    assert told.value.__cause__ is None  # nor by a traceback's "direct cause"


def test_sizes_are_refused_before_memory_is_asked_for(file):
    affordable(file, (100, 10), "f4", "data")  # as well as deflate could pack it
    for shape in ((2**20, 2**20), (2**62, 4), (-1, 3)):
        with pytest.raises(DataError, match="scan.x: data claims shape.*100 bytes"):
            affordable(file, shape, "f4", "data")


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", ml_dtypes.bfloat16])
def test_numbers_that_are_none_are_counted_and_placed(file, dtype):
    array = np.ones((2, 3), dtype)
    assert finite(file, array, "maps") is array
    array[1, 2] = np.nan
    with pytest.raises(DataError, match=r"scan.x: maps has 1 .* of 6.*\(1, 2\)"):
        finite(file, array, "maps")
    text = np.array(["x"])
    assert finite(file, text, "names") is text


def test_a_message_names_the_first_of_many():
    assert in_short(["a", "b"]) == "['a', 'b']"
    long = in_short(["x" * 1000] * 1000)
    assert long.endswith("and 992 more") and len(long) < 1500


def test_a_name_of_any_length_leaves_a_message_that_can_be_read(file):
    told = str(DataError(f"{file}: no column {'x' * 10**6}, the columns are ['a']"))
    assert len(told) < 2000
    assert told.startswith(f"{file}: no column x") and told.endswith("are ['a']")
