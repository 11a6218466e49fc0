"""ISMRMRD readouts find their place in k-space; invalid headers are tolerated."""

import h5py
import numpy as np
import pytest

from medjax.data import ismrmrd

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
        ("center_sample", "<u2"),
        ("idx", IDX),
    ]
)
FLOATS = h5py.vlen_dtype(np.dtype("<f4"))
ACQUISITION = np.dtype([("head", HEAD), ("traj", FLOATS), ("data", FLOATS)])


def xml(*, recon=True, trajectory="cartesian", centre=None, x=8, y=6):
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
    with pytest.raises(KeyError, match=r"a\.h5: no 'scan', only \['dataset'\]"):
        ismrmrd.read(path, dataset="scan")
    write(path, every_line(kspace), "<ismrmrdHeader>")
    with pytest.raises(ValueError, match=r"dataset/xml is not XML"):
        ismrmrd.read(path)
    write(path, [{"data": np.ones((1, 8)), "line": 0, "flags": 1 << 18}], "")
    with pytest.raises(ValueError, match="none of 1 readouts is of the image"):
        ismrmrd.read(path)
    write(path, [{"data": np.ones((1, 8)), "line": 5}], xml(centre=0))
    with pytest.raises(ValueError, match="1 readouts lie outside the encoded matrix"):
        ismrmrd.read(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"a\.h5: not an intact HDF5 file"):
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
