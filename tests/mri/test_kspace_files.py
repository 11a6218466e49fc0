"""k-space files as people have them: the same array, or a message with the file."""

import h5py
import numpy as np
import pytest

from medjax.data import cfl, mat73
from medjax.data.boundary import DataError
from medjax.mri.kspace_axes import affine_of_slices, fully_sampled
from medjax.mri.kspace_files import read_kspace, read_maps
from medjax.mri.methods import METHODS, reason_against

SHAPE = (3, 20, 16)  # c h w


@pytest.fixture(scope="module")
def plane() -> np.ndarray:
    """Noise whose strength falls off from the centre, as that of images does."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, *SHAPE))
    y, x = np.meshgrid(np.arange(20) - 10, np.arange(16) - 8, indexing="ij")
    return ((noise[0] + 1j * noise[1]) * np.exp(-np.hypot(y, x) / 2)).astype("c8")


def save(path, array):
    np.save(path, array)
    return path


def test_zeros_of_rounded_samples_are_values(plane, tmp_path):
    rounded = np.round(40 * plane.real) + 1j * np.round(40 * plane.imag)
    nearly = np.where(np.abs(rounded) > 0, rounded, 0).astype("c8")
    assert 0 < (nearly == 0).all(axis=0).sum() < (nearly.real == 0).any(axis=0).sum()
    found = read_kspace(save(tmp_path / "a.npy", nearly))
    assert found.measured.shape == (1, 20, 1) and fully_sampled(found.measured)
    lines = nearly * (np.arange(20) % 2 == 0)[:, None]
    found = read_kspace(save(tmp_path / "b.npy", lines))
    assert np.flatnonzero(found.measured).tolist() == list(range(0, 20, 2))
    points = plane * (np.arange(16) % 3 != np.arange(20)[:, None] % 3)
    found = read_kspace(save(tmp_path / "c.npy", points))
    assert found.measured.shape == (1, 20, 16)


def test_k_space_off_centre_is_warned_of(plane, tmp_path):
    read_kspace(save(tmp_path / "a.npy", plane))
    path = save(tmp_path / "b.npy", np.fft.ifftshift(plane, (-2, -1)))
    with pytest.warns(UserWarning, match=r"b\.npy: the energy .*apply fftshift") as all:
        read_kspace(path)
    assert ["'h'" in str(all[0].message), "'w'" in str(all[1].message)] == [True, True]


@pytest.mark.parametrize(("position", "shape"), [(5, 0), (10, 0), (13, 1)])
def test_barts_positions_have_their_meaning(plane, tmp_path, position, shape):
    series = np.stack([plane, 2 * plane, 3 * plane])  # over what is at the position
    stored = series.transpose(3, 2, 1, 0).reshape(
        16, 20, 1, 3, *[1] * (position - 4), 3
    )
    cfl.write(tmp_path / "k", stored)
    kspace = read_kspace(tmp_path / "k").kspace
    assert kspace.shape[shape] == 3 and kspace.size == series.size
    np.testing.assert_array_equal(kspace.squeeze(), series)


def test_what_bart_has_and_one_series_has_not_is_named(plane, tmp_path):
    stored = np.stack([plane.transpose(2, 1, 0)[:, :, None]] * 2, axis=-1)
    cfl.write(tmp_path / "sets", stored)
    with pytest.raises(DataError, match="sets has several sets of maps, expected k-sp"):
        read_kspace(tmp_path / "sets")
    maps = read_maps(tmp_path / "sets")
    np.testing.assert_array_equal(maps, np.stack([plane[None]] * 2))
    cfl.write(tmp_path / "averages", stored.reshape(16, 20, 1, 3, *[1] * 10, 2))
    with pytest.raises(DataError, match=r"averages .* dimension 14 \(average\)"):
        read_kspace(tmp_path / "averages")


def test_matlab_files_of_pairs_integers_and_dropped_axes(plane, tmp_path):
    path = tmp_path / "a.mat"
    parts = {f"k_{n}": getattr(plane, n) for n in ("real", "imag")}
    mat73.write(path, parts)
    np.testing.assert_array_equal(read_kspace(path).kspace[0, 0], plane)
    np.testing.assert_array_equal(read_kspace(path, axes="tdchw").kspace[0, 0], plane)
    whole = {n: np.round(100 * p).astype("i2") for n, p in parts.items()}
    compound = np.empty(SHAPE, [("real", "i2"), ("imag", "i2")])
    compound["real"], compound["imag"] = whole.values()
    with h5py.File(path, "w") as file:
        file["k"] = compound
    found = read_kspace(path).kspace[0, 0]
    np.testing.assert_array_equal(found.imag, whole["k_imag"])


def write_fastmri(path, kspace, masks):
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        file["mask"] = masks


def test_masks_of_slices_that_agree_are_one(plane, tmp_path):
    columns = np.arange(16) % 2 == 0
    kspace = np.stack([plane, plane]) * columns
    write_fastmri(tmp_path / "a.h5", kspace, np.stack([columns, columns]))
    found = read_kspace(tmp_path / "a.h5").measured
    np.testing.assert_array_equal(found, columns[None, :, None])
    write_fastmri(tmp_path / "b.h5", kspace, np.stack([columns, ~columns]))
    with pytest.raises(DataError, match=r"b\.h5: 'mask' differs between slices"):
        read_kspace(tmp_path / "b.h5")
    found = read_kspace(tmp_path / "b.h5", slices=(0,)).measured
    np.testing.assert_array_equal(found, columns[None, :, None])


def test_a_reference_larger_than_its_k_space_is_named(plane, tmp_path):
    write_fastmri(tmp_path / "a.h5", plane[None], np.ones(16))
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["reconstruction_rss"] = np.ones((1, 24, 24), "f4")
    with pytest.raises(DataError, match=r"a\.h5: the reference has 24 rows and 24"):
        read_kspace(tmp_path / "a.h5")


@pytest.mark.parametrize("value", [np.nan, 1e300])
def test_what_single_precision_does_not_hold_is_named(plane, tmp_path, value):
    broken = plane.astype(np.complex128)
    broken[2, 7, 5] = value
    with pytest.raises(DataError, match=r"a\.npy: the array has 1 .*2, .*7, .*5"):
        read_kspace(save(tmp_path / "a.npy", broken))


def test_only_methods_that_calibrate_need_a_centre():
    mask = (np.arange(20) % 3 == 0)[None, :, None]
    for maps, able in (
        (False, {"zero_filled"}),
        (True, set(METHODS) - {"grappa", "espirit_sense"}),
    ):
        found = {
            name: reason_against(name, frames=2, coils=3, mask=mask, maps=maps)
            for name in METHODS
        }
        assert {name for name, reason in found.items() if reason is None} == able
        assert all("no fully sampled centre" in r for r in found.values() if r)


@pytest.mark.parametrize("slices", [(2,), (0, 2, 4), (3, 1)])
def test_kept_slices_lie_where_they_lay(slices):
    whole = np.random.default_rng(0).normal(size=(4, 4))
    whole[3] = 0, 0, 0, 1
    found = affine_of_slices(whole, slices)
    for new, old in enumerate(slices):
        np.testing.assert_allclose(found @ [5, 6, new, 1], whole @ [5, 6, old, 1])


def test_slices_of_unequal_steps_have_no_affine():
    assert affine_of_slices(np.eye(4), (0, 1, 3)) is None
    assert affine_of_slices(np.eye(4), (1, 1)) is None
