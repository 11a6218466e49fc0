"""NIfTI volumes keep values and geometry; labels must be whole numbers."""

import nibabel
import numpy as np
import pytest

from medjax.data import nifti
from medjax.data.boundary import DataError

AFFINE = np.diag([1.5, 2.0, 8.0, 1.0])


def test_round_trip_with_geometry(tmp_path):
    data = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    nifti.write(tmp_path / "a.nii.gz", data, affine=AFFINE)
    volume = nifti.read(tmp_path / "a.nii.gz", ndim=3)
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_allclose(volume.affine, AFFINE)
    assert volume.spacing == (1.5, 2.0, 8.0)


@pytest.mark.parametrize("stored", [np.uint8, np.int32, np.float32, bool])
def test_labels_come_back_as_integers(tmp_path, stored):
    labels = np.arange(24).reshape(2, 3, 4) % 2
    nifti.write(tmp_path / "a.nii", labels.astype(stored), affine=AFFINE)
    back = nifti.read_labels(tmp_path / "a.nii")
    assert back.data.dtype == np.int32
    np.testing.assert_array_equal(back.data, labels)


def test_a_trailing_axis_of_one_is_dropped_unless_asked_for(tmp_path):
    nifti.write(tmp_path / "a.nii", np.ones((4, 5, 3, 1)), affine=AFFINE)
    assert nifti.read(tmp_path / "a.nii").data.shape == (4, 5, 3)
    assert nifti.read(tmp_path / "a.nii", ndim=4).data.shape == (4, 5, 3, 1)


@pytest.mark.parametrize(
    ("bad", "told"), [(0.5, "not whole"), (np.nan, "NaN or inf.*k 1"), (3e9, "int32")]
)
def test_fractions_and_what_no_integer_holds_are_no_labels(tmp_path, bad, told):
    nifti.write(tmp_path / "a.nii", np.array([[[1.0, bad]]]), affine=AFFINE)
    with pytest.raises(DataError, match=rf"a\.nii: .*{told}"):
        nifti.read_labels(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("value", "stored", "kept"),
    [
        (70000, "uint32", "uint32"),
        (-70000, "int64", "int32"),
        (4e9, "uint64", "uint32"),
        (-3, "int8", "int8"),
        (1e-40, "float64", "float64"),
        (0.5, "float16", "float32"),
        (1, "bool", "uint8"),
    ],
)
def test_every_type_of_number_keeps_its_values(tmp_path, value, stored, kept):
    data = np.full((2, 3, 4), value, stored)
    nifti.write(tmp_path / "a.nii", data, affine=AFFINE)
    back = nibabel.load(tmp_path / "a.nii")
    assert back.get_data_dtype() == kept
    np.testing.assert_array_equal(np.asarray(back.dataobj), data)


@pytest.mark.parametrize(("value", "dtype"), [(5e9, "i8"), (2**33, "u8"), (1j, "c8")])
def test_what_nifti_does_not_hold_is_refused(tmp_path, value, dtype):
    with pytest.raises(ValueError, match="data is .*expected"):
        nifti.write(tmp_path / "a.nii", np.full((2, 2), value, dtype), affine=AFFINE)
    assert not (tmp_path / "a.nii").exists()


def test_spacing_and_time_are_written_and_read_in_mm_and_seconds(tmp_path):
    path = tmp_path / "a.nii.gz"
    nifti.write(path, np.ones((2, 3, 4, 5)), affine=AFFINE, time_step=0.03)
    header = nibabel.load(path).header
    assert header.get_xyzt_units() == ("mm", "sec")
    np.testing.assert_allclose(header.get_zooms(), (1.5, 2, 8, 0.03), rtol=1e-6)
    assert nifti.read(path).time_step == pytest.approx(0.03)
    image = nibabel.Nifti1Image(np.ones((2, 3, 4, 5), "f4"), AFFINE)
    image.header.set_zooms((1.5, 2, 8, 30))
    image.header.set_xyzt_units("micron", "msec")
    image.to_filename(path)
    volume = nifti.read(path)
    np.testing.assert_allclose(volume.spacing, (0.0015, 0.002, 0.008))
    assert volume.time_step == pytest.approx(0.03)
    assert nifti.read(path, ndim=4).affine[0, 0] == pytest.approx(0.0015)
    with pytest.raises(ValueError, match="time_step=0.1 with data of 3 axes"):
        nifti.write(path, np.ones((2, 3, 4)), affine=AFFINE, time_step=0.1)


@pytest.mark.parametrize(
    ("sform", "qform", "expected"),
    [
        (np.diag([1.5, 2, 8, 1]), np.diag([-1.5, 2, 8, 1]), "sform"),
        (np.diag([1.0, 1, 1, 1]), np.diag([-1.5, 2, 8, 1]), "qform"),
        (None, np.diag([-1.5, 2, 8, 1]), "qform"),
        (np.diag([1.0, 1, 1, 1]), None, "sform"),
        (None, None, "pixdim"),
    ],
)
def test_sform_and_qform_that_disagree_are_settled(tmp_path, sform, qform, expected):
    image = nibabel.Nifti1Image(np.ones((4, 5, 6), "f4"), None)
    image.header.set_zooms((1.5, 2, 8))
    image.header.set_qform(qform, code=int(qform is not None))
    image.header.set_sform(sform, code=int(sform is not None))
    image.header.set_zooms((1.5, 2, 8))
    image.to_filename(tmp_path / "a.nii")
    volume = nifti.read(tmp_path / "a.nii")
    wanted = {"sform": sform, "qform": qform}.get(expected)
    if wanted is None:
        np.testing.assert_allclose(volume.spacing, (1.5, 2, 8))
    else:
        np.testing.assert_allclose(volume.affine, wanted, atol=1e-6)
        np.testing.assert_allclose(volume.spacing, np.abs(np.diag(wanted)[:3]))


def test_a_size_that_the_file_cannot_hold_and_a_wrong_sum_are_named(tmp_path):
    path = tmp_path / "a.nii"
    nifti.write(path, np.ones((4, 5, 6), np.uint8), affine=AFFINE)
    raw = bytearray(path.read_bytes())
    raw[42:48] = b"\xff\x7f" * 3  # 32767 voxels along every axis
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"a\.nii: the volume claims shape \(32767"):
        nifti.read(path)
    packed = tmp_path / "a.nii.gz"
    nifti.write(packed, np.ones((4, 5, 6), np.uint8), affine=AFFINE)
    raw = bytearray(packed.read_bytes())
    raw[-6] ^= 1  # of the checksum, behind all voxels
    packed.write_bytes(raw)
    with pytest.raises(DataError, match=r"a\.nii\.gz: not an intact.*CRC"):
        nifti.read(packed)


def test_a_header_says_the_geometry_without_the_voxels(tmp_path):
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    nifti.write(tmp_path / "a.nii.gz", np.zeros((4, 5, 6, 2)), affine=affine)
    nifti.write(tmp_path / "a.nii", np.zeros((4, 5)), affine=affine)
    whole = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "cut.nii").write_bytes(whole[:400])  # the header has 348
    for name, shape in (
        ("a.nii.gz", (4, 5, 6, 2)),
        ("a.nii", (4, 5)),
        ("cut.nii", (4, 5)),
    ):
        found, there = nifti.read_geometry(tmp_path / name)
        assert found == shape
        np.testing.assert_array_equal(there, affine)
    (tmp_path / "cut.nii").write_bytes(whole[:100])
    with pytest.raises(DataError, match="cut.nii: not an intact NIfTI file"):
        nifti.read_geometry(tmp_path / "cut.nii")


def test_damage_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.nii: no such file"):
        nifti.read(tmp_path / "nowhere.nii")
    path = tmp_path / "a.nii.gz"
    nifti.write(path, np.random.default_rng(0).normal(size=(20, 20, 9)), affine=AFFINE)
    with pytest.raises(
        ValueError, match=r"a\.nii\.gz: shape \(20, 20, 9\), expected 2"
    ):
        nifti.read(path, ndim=2)
    whole = path.read_bytes()
    for keep in (0, 100, len(whole) // 2):
        path.write_bytes(whole[:keep])
        with pytest.raises(ValueError, match=r"a\.nii\.gz: not an intact NIfTI"):
            nifti.read(path)


def test_a_genuine_cine_volume_opens(shared_data):
    volume = nifti.read(shared_data / "heart/ep_dataset/sa.nii.gz", ndim=4)
    labels = nifti.read_labels(shared_data / "heart/ep_dataset/seg_sa.nii.gz")
    assert volume.data.shape == (128, 128, 14, 20)
    assert set(np.unique(labels.data)) == {0, 1, 2}
