"""NumPy's files: what was saved, or a message with the file's name."""

import numpy as np
import pytest

from medjax.data import npy
from medjax.data.boundary import DataError


def test_round_trip_and_damage(tmp_path):
    path = tmp_path / "a.npy"
    array = np.arange(12, dtype=np.complex64).reshape(3, 4)
    np.save(path, array)
    np.testing.assert_array_equal(npy.read(path), array)
    whole = path.read_bytes()
    larger = whole.replace(b"(3, 4), ", b"(9**9,),")
    for damaged in (b"", whole[:40], whole[:-8], larger, whole.replace(b"{", b"(")):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.npy: not an intact \.npy file"):
            npy.read(path)
    np.save(path, np.full_like(array, np.inf))
    with pytest.raises(DataError, match=r"a\.npy: the array has 12 values"):
        npy.read(path)
    np.savez(tmp_path / "b.npy.npz", array)
    (tmp_path / "b.npy.npz").rename(path)
    with pytest.raises(DataError, match=r"a\.npy: an archive of arrays"):
        npy.read(path)
    with pytest.raises(FileNotFoundError, match=r"gone\.npy: no such file"):
        npy.read(tmp_path / "gone.npy")
