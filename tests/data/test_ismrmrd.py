"""ISMRMRD readouts find their place in k-space; invalid headers are tolerated."""

import struct

import h5py
import numpy as np
import pytest

from medjax.data import ismrmrd
from medjax.data.boundary import DataError
from medjax.mri.kspace_files import read_kspace

IDX = np.dtype(
    [
        (name, "<u2")
        for name in (
            *("kspace_encode_step_1", "kspace_encode_step_2", "average", "slice"),
            *("contrast", "phase", "repetition", "set", "segment"),
        )
    ]
    + [("user", "<u2", (8,))]
)
HEAD = np.dtype(
    [
        ("version", "<u2"),
        ("flags", "<u8"),
        ("number_of_samples", "<u2"),
        ("active_channels", "<u2"),
        ("discard_pre", "<u2"),
        ("discard_post", "<u2"),
        ("center_sample", "<u2"),
        *((name, "<f4", (3,)) for name in ("position", "read_dir", "phase_dir")),
        ("slice_dir", "<f4", (3,)),
        ("idx", IDX),
    ]
)
FLOATS = h5py.vlen_dtype(np.dtype("<f4"))
ACQUISITION = np.dtype([("head", HEAD), ("traj", FLOATS), ("data", FLOATS)])


def xml(*, recon=True, trajectory="cartesian", centre=None, x=8, y=6, more=""):
    limits = (
        f"<encodingLimits><kspace_encoding_step_1><center>{centre}</center>"
        "</kspace_encoding_step_1></encodingLimits>"
    )
    space = "<matrixSize><x>{}</x><y>{}</y><z>1</z></matrixSize>"
    return (
        '<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>'
        f"<trajectory>{trajectory}</trajectory>"
        f"<encodedSpace>{space.format(x, y)}<fieldOfView_mm><x>400</x><y>300</y>"
        "<z>8</z></fieldOfView_mm></encodedSpace>"
        + (f"<reconSpace>{space.format(x // 2, y)}</reconSpace>" if recon else "")
        + (limits if centre is not None else "")
        + more
        + "</encoding></ismrmrdHeader>"
    )


def write(path, readouts, header):
    """readouts: dicts with ``data`` [coil, sample], ``line`` and optional fields."""
    rows = np.zeros(len(readouts), ACQUISITION)
    for row, readout in zip(rows, readouts, strict=True):
        data = np.asarray(readout["data"], np.complex64)
        head = row["head"]
        head["number_of_samples"], head["active_channels"] = data.shape[1], len(data)
        head["center_sample"] = readout.get("centre", data.shape[1] // 2)
        head["flags"] = readout.get("flags", 0)
        head["idx"]["kspace_encode_step_1"] = readout["line"]
        for name in ("discard_pre", "discard_post"):
            head[name] = readout.get(name, 0)
        for name in ("position", "read_dir", "phase_dir", "slice_dir"):
            head[name] = readout.get(name, 0)
        for name in ("slice", "phase"):
            head["idx"][name] = readout.get(name, 0)
        row["data"] = data.ravel().view(np.float32)
        row["traj"] = np.zeros(0, np.float32)
    with h5py.File(path, "w") as file:
        file.create_dataset("dataset/data", data=rows)
        file.create_dataset("dataset/xml", data=[header.encode()])


@pytest.fixture
def kspace():
    rng = np.random.default_rng(0)
    shape = (2, 3, 6, 8)  # slice, coil, ky, kx
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def every_line(kspace):
    slices, _, lines, _ = kspace.shape
    return [
        {"data": kspace[s, :, line], "line": line, "slice": s}
        for line in range(lines)
        for s in range(slices)
    ]


def test_readouts_are_sorted_by_slice_and_line(tmp_path, kspace):
    write(tmp_path / "a.h5", every_line(kspace)[::-1], xml(recon=False))
    scan = ismrmrd.read(tmp_path / "a.h5")
    assert len(scan.kspace.shape) == len(ismrmrd.AXES)
    np.testing.assert_array_equal(scan.kspace[0, 0, 0, 0, 0, :, :, 0], kspace)
    assert scan.sampled.all() and scan.recon is None
    assert scan.field_of_view == (8, 300, 400)


def test_readout_oversampling_goes_where_the_header_tells(tmp_path, kspace):
    write(tmp_path / "a.h5", every_line(kspace), xml())
    kept = ismrmrd.read(tmp_path / "a.h5")
    assert kept.kspace.shape[-2:] == (6, 4) and kept.recon == (1, 6, 4)
    whole = ismrmrd.read(tmp_path / "a.h5", remove_oversampling=False)

    def image(k):
        inner = np.fft.ifft(np.fft.ifftshift(k, -1), norm="ortho")
        return np.fft.fftshift(inner, -1)

    expected = image(whole.kspace)[..., 2:6]
    np.testing.assert_allclose(image(kept.kspace), expected, atol=1e-6)


def test_partial_fourier_and_asymmetric_echo_move_the_centre_to_the_middle(tmp_path):
    lines = [
        {"data": np.full((1, 6), 1 + line), "line": line, "centre": 2}
        for line in range(4)
    ]
    write(tmp_path / "a.h5", lines, xml(recon=False, centre=1))
    scan = ismrmrd.read(tmp_path / "a.h5")
    kspace = scan.kspace.squeeze()
    assert kspace.shape == (6, 8)
    np.testing.assert_array_equal(scan.sampled.squeeze(), [0, 0, 1, 1, 1, 1])
    # line 1 was the centre: it lies at 6 // 2; sample 2 of the echo lies at 8 // 2
    np.testing.assert_array_equal(kspace[3], [0, 0, 2, 2, 2, 2, 2, 2])


def test_voxels_lie_where_the_readouts_say(tmp_path, kspace):
    """Readout to the head, phase encoding to the left, slices 9 mm apart."""
    way = {"read_dir": (0, 0, 1), "phase_dir": (1, 0, 0), "slice_dir": (0, 1, 0)}
    lines = [
        {**one, **way, "position": (5, -20 + 9 * one["slice"], 7)}
        for one in every_line(kspace)
    ]
    write(tmp_path / "a.h5", lines, xml())
    affine = ismrmrd.read(tmp_path / "a.h5").affine
    # Away from the centre of the first slice; left and posterior are negative in NIfTI.
    np.testing.assert_allclose(affine @ [0, 0, 0, 1], [-5, 20, 7, 1])
    np.testing.assert_allclose(affine @ [1, 0, 1, 1], [-5, 20 - 9, 7 + 50, 1])
    np.testing.assert_allclose(affine @ [0, 1, 0, 1], [-5 - 50, 20, 7, 1])
    found = read_kspace(tmp_path / "a.h5")
    assert found.size == (6, 4)  # the middle of the image is where it was
    np.testing.assert_allclose(found.affine @ [2, 3, 0, 1], [-5, 20, 7, 1])
    second = read_kspace(tmp_path / "a.h5", slices=(1,))
    np.testing.assert_allclose(second.affine @ [2, 3, 0, 1], [-5, 11, 7, 1])
    turned = read_kspace(tmp_path / "a.h5", slices=(1, 0))
    for new, y in enumerate((11, 20)):
        np.testing.assert_allclose(turned.affine @ [2, 3, new, 1], [-5, y, 7, 1])
    write(tmp_path / "b.h5", every_line(kspace), xml())
    sizes = ismrmrd.read(tmp_path / "b.h5").affine
    np.testing.assert_allclose(sizes, np.diag([50.0, 50.0, 8.0, 1.0]))


def test_noise_readouts_are_read_apart(tmp_path, kspace):
    noise = [{"data": kspace[0, :, 3 + i], "line": 0, "flags": 1 << 18} for i in (0, 1)]
    write(tmp_path / "a.h5", [*noise, *every_line(kspace)], xml())
    found = ismrmrd.read_noise(tmp_path / "a.h5")
    expected = np.concatenate([kspace[0, :, 3], kspace[0, :, 4]], axis=1)
    np.testing.assert_array_equal(found, expected)
    write(tmp_path / "b.h5", every_line(kspace), xml())
    with pytest.raises(DataError, match="has no noise readouts"):
        ismrmrd.read_noise(tmp_path / "b.h5")


def test_noise_is_left_out_reversed_lines_are_turned_repeats_averaged(tmp_path):
    ramp = np.arange(8)[None].astype(np.complex64)
    readouts = [
        {"data": np.full((1, 8), 99), "line": 0, "flags": 1 << 18},
        {"data": ramp[:, ::-1], "line": 0, "flags": 1 << 21},
        {"data": ramp, "line": 1},
        {"data": 3 * ramp, "line": 1},
        {"data": ramp, "line": 2, "flags": (1 << 19) | (1 << 20)},
    ]
    write(tmp_path / "a.h5", readouts, xml(recon=False))
    scan = ismrmrd.read(tmp_path / "a.h5")
    kspace = scan.kspace.squeeze()
    np.testing.assert_array_equal(kspace[0], ramp[0])
    np.testing.assert_array_equal(kspace[1], 2 * ramp[0])
    np.testing.assert_array_equal(kspace[2], ramp[0])
    assert scan.skipped == 1 and scan.sampled.sum() == 3


def test_samples_to_discard_are_no_samples_of_k_space(tmp_path, kspace):
    def padded(readout, **more):
        ends = (np.full((3, 3), 99), readout["data"], np.full((3, 2), 99))
        discard = {"discard_pre": 3, "discard_post": 2, "centre": 7}
        return {**readout, **discard, "data": np.concatenate(ends, 1), **more}

    lines = [padded(one) for one in every_line(kspace)]
    write(tmp_path / "a.h5", lines, xml(recon=False))
    scan = ismrmrd.read(tmp_path / "a.h5")
    np.testing.assert_array_equal(scan.kspace[0, 0, 0, 0, 0, :, :, 0], kspace)
    write(tmp_path / "a.h5", [{**lines[0], "discard_pre": 12}], xml(recon=False))
    with pytest.raises(DataError, match=r"data\[0\] discards 14 of its 13 samples"):
        ismrmrd.read(tmp_path / "a.h5")


CALIBRATION, BOTH = 1 << 19, 1 << 20


@pytest.mark.parametrize(
    ("mode", "shared", "lines"),
    [
        (None, BOTH, [0, 1, 2, 3, 4]),  # says nothing, repeats nothing: of the image
        (None, 0, [0, 2, 4]),  # a line twice: another scan's
        ("embedded", 0, [0, 1, 2, 3, 4]),
        ("separate", BOTH, [0, 2, 4]),
    ],
)
def test_calibration_lines_of_the_image_fill_it(tmp_path, kspace, mode, shared, lines):
    plane = kspace[0]
    flags = {1: CALIBRATION, 2: shared, 3: CALIBRATION}
    readouts = [
        {"data": plane[:, n], "line": n, "flags": flags.get(n, 0)} for n in range(5)
    ]
    if not shared:
        readouts.append({"data": 9 * plane[:, 2], "line": 2, "flags": CALIBRATION})
    said = "" if mode is None else f"<calibrationMode>{mode}</calibrationMode>"
    said = f"<parallelImaging>{said}</parallelImaging>"
    write(tmp_path / "a.h5", readouts, xml(recon=False, more=said))
    scan = ismrmrd.read(tmp_path / "a.h5")
    assert np.flatnonzero(scan.sampled.squeeze()).tolist() == lines
    np.testing.assert_array_equal(scan.kspace.squeeze()[:, lines], plane[:, lines])


def test_oversampling_is_judged_by_the_field_of_view(tmp_path, kspace):
    """An interpolated matrix says nothing: 8 points of 400 mm, 4 of them kept."""
    header = xml().replace(
        "<reconSpace><matrixSize><x>4</x><y>6</y><z>1</z></matrixSize>",
        "<reconSpace><matrixSize><x>8</x><y>12</y><z>1</z></matrixSize>"
        "<fieldOfView_mm><x>200</x><y>300</y><z>8</z></fieldOfView_mm>",
    )
    write(tmp_path / "a.h5", every_line(kspace), header)
    scan = ismrmrd.read(tmp_path / "a.h5")
    write(tmp_path / "b.h5", every_line(kspace), xml())
    expected = ismrmrd.read(tmp_path / "b.h5").kspace
    assert scan.recon == (1, 6, 4)
    np.testing.assert_array_equal(scan.kspace, expected)


def test_numbers_that_no_readout_has_take_no_room(tmp_path, kspace):
    readouts = [{**one, "slice": 7 * one["slice"]} for one in every_line(kspace)]
    write(tmp_path / "a.h5", readouts, xml(recon=False))
    scan = ismrmrd.read(tmp_path / "a.h5")
    assert scan.numbers["slice"] == (0, 7) and scan.sampled.all()
    np.testing.assert_array_equal(scan.kspace[0, 0, 0, 0, 0, :, :, 0], kspace)


@pytest.mark.parametrize("header", ["", xml(recon=False, trajectory="Cartesian")])
def test_poor_headers_are_enough(tmp_path, kspace, header):
    write(tmp_path / "a.h5", every_line(kspace), header)
    scan = ismrmrd.read(tmp_path / "a.h5")
    assert scan.encoded == (1, 6, 8) and scan.trajectory == "cartesian"


def test_a_genuine_file_with_an_invalid_header_opens(shared_data):
    scan = ismrmrd.read(shared_data / "mri/mrireco-ismrmrd/acqDataBrainSim100.h5")
    kspace = scan.kspace.squeeze()
    assert kspace.shape == (256, 256) and scan.sampled.all()
    image = np.abs(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace))))
    # a head in the middle of an empty field of view
    assert image[96:160, 96:160].mean() > 20 * image[:16].mean()


def test_damage_is_named(tmp_path, kspace):
    path = tmp_path / "a.h5"
    with pytest.raises(FileNotFoundError, match=r"a\.h5: no such file"):
        ismrmrd.read(path)
    write(path, every_line(kspace), xml(trajectory="radial"))
    with pytest.raises(ValueError, match=r"a\.h5: dataset: trajectory 'radial'"):
        ismrmrd.read(path)
    with pytest.raises(DataError, match=r"a\.h5: no 'scan', only \['dataset'\]"):
        ismrmrd.read(path, dataset="scan")
    write(path, every_line(kspace), "<ismrmrdHeader>")
    with pytest.raises(ValueError, match=r"a\.h5: 'dataset/xml'.*ParseError"):
        ismrmrd.read(path)
    write(path, [{"data": np.ones((1, 8)), "line": 0, "flags": 1 << 18}], "")
    with pytest.raises(ValueError, match="none of 1 readouts is of the image"):
        ismrmrd.read(path)
    write(path, [{"data": np.ones((1, 8)), "line": 5}], xml(centre=0))
    with pytest.raises(ValueError, match="1 readouts lie outside the encoded matrix"):
        ismrmrd.read(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"a\.h5: not an intact ISMRMRD file"):
        ismrmrd.read(path)


def test_what_is_not_finite_or_too_large_is_refused_by_name(tmp_path, kspace):
    path = tmp_path / "a.h5"
    broken = kspace.copy()
    broken[1, 2, 3, 4] = np.nan
    write(path, every_line(broken), xml(recon=False))
    with pytest.raises(
        DataError, match=r"a\.h5: dataset/data has 1 .*slice 1, coil 2, kz 0, ky 3"
    ):
        ismrmrd.read(path)
    write(path, every_line(kspace), xml(recon=False, x=10**9))
    with pytest.raises(DataError, match=r"a\.h5: dataset/data claims shape"):
        ismrmrd.read(path)


@pytest.mark.parametrize("wrapped", [b"", b"\xff" * 16], ids=["zeroed", "wrapped"])
def test_a_heap_that_hdf5_never_returns_from_is_refused(tmp_path, kspace, wrapped):
    """Zeroed at once, or behind a size that 64 bits round up to nothing."""
    path = tmp_path / "a.h5"
    write(path, every_line(kspace), xml())
    raw = bytearray(path.read_bytes())
    second = raw.index(b"GCOL") + 16 + 16 + 8 * 3 * 8
    raw[second : second + 64] = wrapped.ljust(64, b"\0")
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"a\.h5: not an intact .*zeroed entry"):
        ismrmrd.read(path)


def test_a_heap_entry_larger_than_was_asked_for_is_refused(tmp_path, kspace):
    """HDF5 writes all of it into memory for what the reference says."""
    path = tmp_path / "a.h5"
    write(path, every_line(kspace), xml())
    raw = path.read_bytes()
    long, short = (struct.pack("<IQ", n, raw.index(b"GCOL")) for n in (3 * 8 * 2, 3))
    path.write_bytes(raw.replace(long, short, 1))
    with pytest.raises(DataError, match=r"a\.h5: .*3 elements of 4 bytes are said"):
        ismrmrd.read(path)


def test_numbers_that_numpy_has_no_type_for_are_refused(tmp_path, kspace):
    """h5py takes wider ones in their place, over what comes behind."""
    path = tmp_path / "a.h5"
    write(path, every_line(kspace), xml())
    raw = path.read_bytes()
    usual, odd = (struct.pack("<BBBBI", 23, 8, 0, 23, n) for n in (127, 111))
    path.write_bytes(raw.replace(usual, odd, 1))
    with pytest.raises(DataError, match=r"a\.h5: .*numbers of 4 bytes and no usual"):
        ismrmrd.read(path)


def test_a_readout_of_another_length_than_its_header_says_is_named(tmp_path):
    path = tmp_path / "a.h5"
    write(path, [{"data": np.ones((2, 8)), "line": 0}], "")
    with h5py.File(path, "r+") as file:
        rows = file["dataset/data"][:]
        rows["head"]["number_of_samples"] = 9
        file["dataset/data"][:] = rows
    with pytest.raises(ValueError, match=r"data\[0\] has 32 numbers, expected 2 x 2"):
        ismrmrd.read(path)
