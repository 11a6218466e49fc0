"""fastMRI files with and without header, single- and multi-coil, and damaged."""

import h5py
import numpy as np
import pytest

from medjax.data import fastmri_h5

HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>16</x><y>20</y><z>1</z></matrixSize></encodedSpace>
<reconSpace><matrixSize><x>8</x><y>10</y><z>1</z></matrixSize></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>17</maximum>
<center>9</center></kspace_encoding_step_1></encodingLimits>
</encoding></ismrmrdHeader>"""


def fabricate(path, *, coils=3, header=True, reference=True, mask=False):
    rng = np.random.default_rng(0)
    shape = (2, coils, 16, 20) if coils else (2, 16, 20)
    kspace = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype("c8")
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        if header:
            file["ismrmrd_header"] = HEADER
        if reference:
            name = "reconstruction_rss" if coils else "reconstruction_esc"
            file[name] = np.arange(160, dtype="f4").reshape(2, 8, 10)
        if mask:
            file["mask"] = np.arange(20) % 4 == 0
        file.attrs["acquisition"] = "CORPD_FBK"
    return kspace


def test_a_multi_coil_volume_with_everything(tmp_path):
    path = tmp_path / "a.h5"
    kspace = fabricate(path, mask=True)
    assert fastmri_h5.count_slices(path) == 2
    one = fastmri_h5.read_slice(path, 1)
    np.testing.assert_array_equal(one.kspace, kspace[1])
    np.testing.assert_array_equal(one.reference, np.arange(80, 160).reshape(8, 10))
    assert one.padding == (1, 19)  # 20//2 - 9, and 17 + 1 columns further
    assert one.recon_size == (8, 10)
    assert one.maximum == 159.0  # of the volume, not of the slice
    assert one.mask is not None and one.mask.sum() == 5
    assert one.attributes["acquisition"] == "CORPD_FBK"
    assert fastmri_h5.read_slice(path, 0).maximum == 159.0


def test_own_data_need_no_header_and_no_reference(tmp_path):
    path = tmp_path / "a.h5"
    fabricate(path, header=False, reference=False)
    one = fastmri_h5.read_slice(path, 0)
    assert (one.recon_size, one.padding) == ((16, 20), (0, 20))
    assert one.reference is None and one.maximum is None
    assert fastmri_h5.read_slice(path, 0, recon_size=(6, 6)).recon_size == (6, 6)
    fabricate(path, reference=False)
    assert fastmri_h5.read_slice(path, 0).recon_size == (8, 10)


def test_a_single_coil_volume_gains_the_coil_axis(tmp_path):
    path = tmp_path / "a.h5"
    kspace = fabricate(path, coils=0)
    one = fastmri_h5.read_slice(path, 0)
    assert one.kspace.shape == (1, 16, 20) and one.reference is not None
    np.testing.assert_array_equal(one.kspace[0], kspace[0])


def test_damage_is_named(tmp_path):
    path = tmp_path / "a.h5"
    fabricate(path)
    with pytest.raises(IndexError, match=r"a\.h5: slice 2 of 2"):
        fastmri_h5.read_slice(path, 2)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"a\.h5: not an intact HDF5 file"):
        fastmri_h5.read_slice(path, 0)
    with h5py.File(path, "w") as file:
        file["image"] = np.zeros(3)
    with pytest.raises(KeyError, match=r"a\.h5: no 'kspace', only \['image'\]"):
        fastmri_h5.read_slice(path, 0)
    with h5py.File(path, "w") as file:
        file["kspace"] = np.zeros((2, 4, 4), np.float32)
    with pytest.raises(ValueError, match=r"a\.h5: 'kspace' is float32 of shape"):
        fastmri_h5.count_slices(path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.h5"):
        fastmri_h5.count_slices(tmp_path / "nowhere.h5")
