"""fastMRI files with and without header, single- and multi-coil, and damaged."""

import h5py
import numpy as np
import pytest

from medjax.data import fastmri_h5
from medjax.data.boundary import DataError

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


def test_each_slice_may_have_a_mask_of_its_own(tmp_path):
    path = tmp_path / "a.h5"
    fabricate(path)
    masks = np.stack([np.arange(20) % 4 == 0, np.arange(20) % 5 == 0])
    with h5py.File(path, "r+") as file:
        file["mask"] = masks.astype(np.float32)
    for index, mask in enumerate(masks):
        np.testing.assert_array_equal(fastmri_h5.read_slice(path, index).mask, mask)
    with h5py.File(path, "r+") as file:
        del file["mask"]
        file["mask"] = np.ones((3, 20))
    with pytest.raises(DataError, match=r"a\.h5: 'mask' is float64 of shape \(3, 20"):
        fastmri_h5.read_slice(path, 0)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("kspace", np.nan, "slice 1 of 'kspace' has 320 .*coil 2, row 0, column 0"),
        ("reconstruction_rss", np.inf, "slice 1 of 'reconstruction_rss' has"),
        ("mask", np.nan, "'mask' has 1 values"),
        ("max", np.nan, "the volume's maximum has 1 values"),
        ("ismrmrd_header", "<a>", "'ismrmrd_header': .*ParseError"),
        ("ismrmrd_header", HEADER.replace("8</x>", "-8</x>"), "matrixSize is .-8, 10"),
    ],
)
def test_what_is_no_number_is_refused_by_name(tmp_path, key, value, told):
    path = tmp_path / "a.h5"
    fabricate(path)
    with h5py.File(path, "r+") as file:
        if key == "max":
            file.attrs["max"] = value
        elif key in ("kspace", "reconstruction_rss"):
            file[key][-1, -1] = value
        else:
            file.pop(key, None)
            whole = np.ones(20)
            whole[3] = np.nan
            file[key] = whole if key == "mask" else value
    with pytest.raises(DataError, match=rf"a\.h5: .*{told}"):
        fastmri_h5.read_slice(path, 1)


def test_damage_is_named(tmp_path):
    path = tmp_path / "a.h5"
    fabricate(path)
    with pytest.raises(DataError, match=r"a\.h5: slice 2 of 2"):
        fastmri_h5.read_slice(path, 2)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"a\.h5: not an intact fastMRI file"):
        fastmri_h5.read_slice(path, 0)
    with h5py.File(path, "w") as file:
        file["image"] = np.zeros(3)
    with pytest.raises(DataError, match=r"a\.h5: no 'kspace', only \['image'\]"):
        fastmri_h5.read_slice(path, 0)
    with h5py.File(path, "w") as file:
        file["kspace"] = np.zeros((2, 4, 4), np.float32)
    with pytest.raises(ValueError, match=r"a\.h5: 'kspace' is float32 of shape"):
        fastmri_h5.count_slices(path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.h5"):
        fastmri_h5.count_slices(tmp_path / "nowhere.h5")
