"""Nobody reads half of a file, and a fault costs none that was there."""

import numpy as np
import pytest

from medjax.data import cfl, nifti
from medjax.data.whole import whole
from tests.full_disk import full_disk


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_in_one_move_and_its_folder_with_it(tmp_path):
    path = tmp_path / "new" / "a.nii.gz"
    with whole(path) as draft:
        draft.write_text("first")
        assert draft.name.endswith(".nii.gz") and not path.exists()
    assert path.read_text() == "first" and names(path.parent) == ["a.nii.gz"]


def test_a_fault_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), whole(path) as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "before" and names(tmp_path) == ["a.txt"]


def test_a_full_disk_leaves_the_images_that_were_there(tmp_path):
    data = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    nifti.write(tmp_path / "a.nii", data, affine=np.eye(4))
    cfl.write(tmp_path / "k", data)
    with full_disk():
        with pytest.raises(OSError, match=r"too large: '.*/a\.nii'"):
            nifti.write(tmp_path / "a.nii", 2 * data, affine=np.eye(4))
        with pytest.raises(OSError, match=r"too large: '.*/k\.cfl'"):
            cfl.write(tmp_path / "k", 2 * data)
    np.testing.assert_array_equal(nifti.read(tmp_path / "a.nii").data, data)
    np.testing.assert_array_equal(cfl.read(tmp_path / "k").squeeze(), data)
    assert names(tmp_path) == ["a.nii", "k.cfl", "k.hdr"]
