"""NIfTI volumes keep values and geometry; labels must be whole numbers."""

import numpy as np
import pytest

from medjax.data import nifti

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


@pytest.mark.parametrize("bad", [0.5, np.nan])
def test_fractions_are_no_labels(tmp_path, bad):
    nifti.write(tmp_path / "a.nii", np.array([[[1.0, bad]]]), affine=AFFINE)
    with pytest.raises(ValueError, match=r"a\.nii: labels are not whole numbers"):
        nifti.read_labels(tmp_path / "a.nii")


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
