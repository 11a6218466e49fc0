"""BART arrays round-trip, and damaged ones are named."""

import numpy as np
import pytest

from medjax.data import cfl


@pytest.fixture
def array():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(5, 4, 1, 3)) + 1j).astype(np.complex64)


@pytest.mark.parametrize("name", ["brain", "brain.cfl", "brain.hdr", "brain.v2"])
def test_round_trip(tmp_path, array, name):
    cfl.write(tmp_path / name, array)
    back = cfl.read(tmp_path / name)
    assert back.dtype == np.complex64
    np.testing.assert_array_equal(back, array)


def test_the_first_axis_is_fastest_on_disk_and_the_header_has_sixteen(tmp_path, array):
    cfl.write(tmp_path / "a", array)
    words = (tmp_path / "a.hdr").read_text().splitlines()
    assert words[0] == "# Dimensions" and len(words[1].split()) == 16
    raw = np.fromfile(tmp_path / "a.cfl", np.complex64)
    np.testing.assert_array_equal(raw[:5], array[:, 0, 0, 0])


def test_other_header_sections_are_skipped(tmp_path, array):
    cfl.write(tmp_path / "a", array)
    header = tmp_path / "a.hdr"
    header.write_text("# Command\nphantom -x 5\n" + header.read_text() + "# Creator\n")
    np.testing.assert_array_equal(cfl.read(tmp_path / "a"), array)


def test_damage_is_named(tmp_path, array):
    with pytest.raises(FileNotFoundError, match=r"a\.hdr: no such file"):
        cfl.read(tmp_path / "a")
    cfl.write(tmp_path / "a", array)
    data = tmp_path / "a.cfl"
    data.write_bytes(data.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"a\.cfl: 472 bytes, but a\.hdr.*480 bytes"):
        cfl.read(tmp_path / "a")
    cfl.write(tmp_path / "a", np.where(array == array[0, 0, 0, 0], np.nan, array))
    with pytest.raises(ValueError, match=r"a\.cfl: the array has .* at read 0, phase"):
        cfl.read(tmp_path / "a")
    (tmp_path / "a.hdr").write_text("# Dimensions\n" + "99999999 " * 9)
    with pytest.raises(ValueError, match=r"a\.cfl: 480 bytes, but a\.hdr"):
        cfl.read(tmp_path / "a")
    (tmp_path / "a.hdr").write_text("# Dimensions\n5 \N{SUPERSCRIPT TWO}\n", "utf-8")
    with pytest.raises(ValueError, match=r"a\.hdr: no line of sizes"):
        cfl.read(tmp_path / "a")
    (tmp_path / "a.hdr").write_text("# Dimensions\n")
    with pytest.raises(ValueError, match=r"a\.hdr: no line of sizes"):
        cfl.read(tmp_path / "a")
