"""MATLAB files: round trips, genuine files, and errors that name file and key."""

import h5py
import numpy as np
import pytest
import scipy.io

from medjax.data import mat73
from medjax.data.boundary import DataError


@pytest.fixture
def kspace():
    rng = np.random.default_rng(0)
    shape = (3, 2, 2, 4, 6)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def test_round_trip_of_every_kind(tmp_path, kspace):
    arrays = {
        "kspace_full": kspace,
        "double": kspace[0, 0, 0].astype(np.complex128),
        "map": np.arange(6, dtype=np.float32).reshape(2, 3),
        "mask04": np.array([[True, False], [False, True]]),
        "count": np.array([[7]], np.int16),
    }
    path = tmp_path / "T1map.mat"
    mat73.write(path, arrays)
    assert mat73.variables(path) == {name: a.shape for name, a in arrays.items()}
    for name, array in arrays.items():
        back = mat73.read(path, name)
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)
    np.testing.assert_array_equal(
        mat73.read(path, "kspace_full", index=(slice(None), slice(1, 2))),
        kspace[:, 1:],
    )


def test_the_file_is_what_matlab_writes(tmp_path, kspace):
    path = tmp_path / "a.mat"
    mat73.write(path, {"kspace_full": kspace})
    head = path.read_bytes()[:128]
    assert head.startswith(b"MATLAB 7.3 MAT-file") and head[124:] == b"\x00\x02IM"
    with h5py.File(path) as file:
        assert file["kspace_full"].dtype.names == ("real", "imag")
        assert file["kspace_full"].attrs["MATLAB_class"] == b"single"
    with pytest.raises(NotImplementedError):  # scipy's word for "this is v7.3"
        scipy.io.loadmat(path)


def test_an_independent_reader_agrees(tmp_path, kspace):
    mat73_peer = pytest.importorskip("mat73", reason="optional peer: pip install mat73")
    path = tmp_path / "a.mat"
    mat73.write(path, {"kspace_full": kspace})
    theirs = mat73_peer.loadmat(str(path))["kspace_full"]
    np.testing.assert_array_equal(theirs.transpose(), kspace)


@pytest.mark.parametrize("compressed", [False, True])
def test_version_5_files_read_in_the_same_axis_order(tmp_path, kspace, compressed):
    path = tmp_path / "old.mat"
    scipy.io.savemat(path, {"k": kspace.transpose()}, do_compression=compressed)
    assert mat73.variables(path) == {"k": kspace.shape}
    np.testing.assert_array_equal(mat73.read(path), kspace)
    np.testing.assert_array_equal(mat73.read(path, index=(slice(2, 3),)), kspace[2:])
    arrays = {
        "i": np.arange(-3, 3, dtype=np.int16)[None],
        "b": np.array([[True, False]]),
        "d": np.array([[0.1], [3.0]]),
        "z": np.array([[1 + 2j, 0.1]]),
        "f": np.ones((2, 0), np.float32),
    }
    scipy.io.savemat(path, {**arrays, "s": {"a": 1}, "t": "text"})
    for name, array in arrays.items():
        back = mat73.read(path, name)
        assert back.dtype == array.dtype, name
        np.testing.assert_array_equal(back, array.T)
    for name in "st":
        with pytest.raises(DataError, match=rf"old\.mat: variable '{name}' is text, a"):
            mat73.read(path, name)


def test_damaged_version_5_files_are_named(tmp_path, kspace):
    path = tmp_path / "old.mat"
    scipy.io.savemat(path, {"k": kspace})
    whole = path.read_bytes()
    blank = whole[:136] + bytes(80) + whole[216:]
    for damaged in (whole[:-9], whole[:126], whole[:128] + whole[132:], blank):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"old\.mat.*(not an intact|no variable)"):
            mat73.read(path, "k")


def test_a_genuine_file_opens(shared_data):
    path = shared_data / "mri/irt-mr-ghost/setup_mc_axial.mat"
    kspace = mat73.read(path, "ycart", ndim=3)
    assert kspace.shape == (8, 64, 64) and kspace.dtype == np.complex128
    assert mat73.read(path, "mask_obj").dtype == bool
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, (1, 2))), (1, 2))
    rss = np.sqrt((np.abs(image) ** 2).sum(0))
    reference = mat73.read(path, "xref_sos")
    assert np.corrcoef(rss.ravel(), reference.ravel())[0, 1] > 0.9999


def test_wrong_keys_name_what_is_there(tmp_path, kspace):
    path = tmp_path / "a.mat"
    mat73.write(path, {"kspace_full": kspace, "mask04": np.ones((2, 2), bool)})
    with pytest.raises(DataError, match=r"a\.mat.*'kus', only \['kspace_full', 'm"):
        mat73.read(path, "kus")
    with pytest.raises(DataError, match=r"a\.mat.*say which one"):
        mat73.read(path)


def test_wrong_rank_and_kind_name_file_and_key(tmp_path, kspace):
    path = tmp_path / "a.mat"
    mat73.write(path, {"kspace_full": kspace})
    with pytest.raises(ValueError, match=r"a\.mat: variable 'kspace_full' .*4 axes"):
        mat73.read(path, "kspace_full", ndim=4)
    with h5py.File(path, "r+") as file:
        file.create_dataset("text", data=np.array([b"abc"]))
        file.create_group("struct")
    with pytest.raises(ValueError, match=r"a\.mat: variable 'text' has dtype"):
        mat73.read(path, "text")
    with pytest.raises(ValueError, match=r"a\.mat: variable 'struct' is a MATLAB str"):
        mat73.read(path, "struct")


@pytest.mark.parametrize("part", [np.int16, np.uint8, np.int32, np.float64])
def test_compounds_of_every_real_type_are_complex(tmp_path, kspace, part):
    real, imag = ((100 * p).astype(part) for p in (kspace.real, kspace.imag))
    mat73.write(tmp_path / "a.mat", {"k": kspace, "k_real": real, "k_imag": imag})
    compound = np.empty(real.shape, [("real", part), ("imag", part)])
    compound["real"], compound["imag"] = real, imag
    with h5py.File(tmp_path / "a.mat", "r+") as file:
        del file["k"]
        file["k"] = compound
    found = mat73.read(tmp_path / "a.mat", "k")
    assert found.dtype == (np.complex64 if real.itemsize < 4 else np.complex128)
    np.testing.assert_array_equal(found.real, real)
    np.testing.assert_array_equal(found.imag, imag)
    with h5py.File(tmp_path / "a.mat", "r+") as file:
        del file["k"]
    for key in ("k", None):  # two variables instead of a compound
        np.testing.assert_array_equal(mat73.read(tmp_path / "a.mat", key), found)
    mat73.write(tmp_path / "a.mat", {"k_real": real, "k_imag": imag[0]})
    with pytest.raises(DataError, match=r"a\.mat: variable 'k': its parts are"):
        mat73.read(tmp_path / "a.mat", "k")


def test_version_4_is_named(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"k": np.ones((3, 4))}, format="4")
    with pytest.raises(DataError, match=r"a\.mat: is a MATLAB v4 file.*-v7\.3"):
        mat73.read(tmp_path / "a.mat", "k")


@pytest.mark.parametrize("version", [5, 7])
def test_what_is_not_finite_is_refused_by_file_and_key(tmp_path, kspace, version):
    kspace[1, 0, 1, 2, 3] = np.inf
    path = tmp_path / "a.mat"
    if version == 5:
        scipy.io.savemat(path, {"k": kspace.transpose()})
    else:
        mat73.write(path, {"k": kspace})
    with pytest.raises(DataError, match=r"a\.mat: variable 'k' has 1.*\(1, 0, 1, 2, 3"):
        mat73.read(path)


@pytest.mark.parametrize("keep", [0, 300, 700, 4000])
def test_truncated_files_are_named(tmp_path, keep):
    path = tmp_path / "cut.mat"
    mat73.write(path, {"kspace_full": np.ones((40, 40), np.complex64)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"cut\.mat: not an intact MATLAB v7\.3 file"):
        mat73.read(path, "kspace_full")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.mat: no such file"):
        mat73.read(tmp_path / "nowhere.mat")
