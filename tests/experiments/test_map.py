"""experiments.map: DICOM, NIfTI and npz to maps with geometry, and what it refuses."""

import json

import numpy as np
import pytest

from experiments import map as experiment
from medjax.data import nifti
from medjax.data.boundary import DataError
from medjax.data.dicom_series import read_series

ECHOES = (10.0, 30.0, 50.0, 80.0)
AFFINE = np.array(
    [[-2.0, 0, 0, 30], [0, -1.5, 0, 20], [0, 0, 8, -10], [0, 0, 0, 1]], float
)
SHAPE = (2, 16, 12)  # d h w


def truth() -> np.ndarray:
    """T2 that differs along every axis; two rows of air."""
    d, h, w = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    t2 = 40.0 + 10 * d + h + 0.5 * w
    t2[:, :2] = 0
    return t2


@pytest.fixture(scope="module")
def signal() -> np.ndarray:
    t2 = truth()
    decay = np.exp(-np.reshape(ECHOES, (4, 1, 1, 1)) / np.where(t2 > 0, t2, 1))
    return (1000 * decay * (t2 > 0)).astype(np.float32)


def run(folder, *arguments) -> dict:
    given = [str(a) for a in arguments]
    assert not experiment.main([*given, "--out", str(folder)])
    return json.loads((folder / "evaluation.json").read_text())


def check(folder, affine) -> None:
    """The map where it belongs, in ms; nothing where there is air."""
    volume = nifti.read(folder / "t2.nii.gz")
    np.testing.assert_allclose(volume.data.transpose(), truth(), rtol=2e-3)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    fault = nifti.read_labels(folder / "t2_fault.nii.gz").data.transpose()
    np.testing.assert_array_equal(fault == 1, truth() == 0)
    assert nifti.read(folder / "t2_sd.nii.gz").data.max() < 1


def write_dicom(folder, signal, *, rows=(), tag="EchoTime", times=ECHOES):
    """As a scanner sends it, with names that tell nothing."""
    pydicom = pytest.importorskip("pydicom", reason="writes DICOM (extra: medical)")
    from pydicom.uid import ExplicitVRLittleEndian

    folder.mkdir()
    for t, time in enumerate(times):
        for d in range(signal.shape[1]):
            data = pydicom.Dataset()
            data.file_meta = pydicom.dataset.FileMetaDataset()
            data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            pixels = np.round(signal[t, d] * 8).astype(np.uint16)
            data.Rows, data.Columns = pixels.shape
            data.SamplesPerPixel, data.PixelRepresentation = 1, 0
            data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
            data.PhotometricInterpretation = "MONOCHROME2"
            data.RescaleSlope, data.RescaleIntercept = "0.125", "0"
            data.ImageType = ["ORIGINAL", "PRIMARY", "M"]
            setattr(data, tag, str(time))
            data.PixelSpacing = [1.5, 2.0]
            data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            data.ImagePositionPatient = [-30, -20, -10 + 8 * d]
            for name, value in rows:
                setattr(data, name, value)
            data.PixelData = pixels.tobytes()
            name = folder / f"{(7 * t + 3 * d) % 11}_{t}{d}.dcm"
            data.save_as(name)
    return folder


def test_a_dicom_series_needs_no_flags(signal, tmp_path, capsys):
    folder = write_dicom(tmp_path / "scan", signal)
    found = run(tmp_path / "maps", folder)
    assert found["times"] == list(ECHOES) and found["model"] == "two_parameter"
    check(tmp_path / "maps", AFFINE)
    printed = capsys.readouterr().out
    assert "4 frames of 2 slices, 16 x 12" in printed
    assert "masked, no signal (48 pixels)" in printed and "t2_sd.nii.gz" in printed
    page = (tmp_path / "maps" / "report.html").read_text()
    assert "standard error" in page and "Signal of the pixel" in page


def test_dicom_without_times_takes_those_that_are_given(signal, tmp_path, capsys):
    """Frames are in the order of their instance numbers."""
    folder = write_dicom(
        tmp_path / "scan", signal, tag="InstanceNumber", times=(1, 2, 3, 4)
    )
    run(tmp_path / "maps", folder, "--contrast", "t2", "--times", *ECHOES)
    check(tmp_path / "maps", AFFINE)
    without = (folder, "--contrast", "t2", "--out", tmp_path / "none")
    assert "scan has none, give one for each frame" in refusal(capsys, *without)


def test_a_tag_that_cannot_be_decoded_names_its_file(signal, tmp_path):
    """Values of a DICOM file are decoded when they are asked for, not when it opens."""
    folder = write_dicom(tmp_path / "scan", signal)
    damaged = sorted(folder.iterdir())[0]
    intact = damaged.read_bytes()
    tag = b"\x18\x00\x81\x00DS"
    assert intact.count(tag) == 1
    damaged.write_bytes(intact.replace(tag, tag[:4] + b"D\xd3"))
    with pytest.raises(DataError, match=f"{damaged.name}: not an intact DICOM image"):
        read_series(sorted(folder.iterdir()))


def test_a_place_of_two_numbers_names_its_file(signal, tmp_path):
    """It ended as a fault of linear algebra that named none."""
    folder = write_dicom(
        tmp_path / "scan", signal, rows=[("ImagePositionPatient", [-30, -20])]
    )
    told = r"dcm: ImagePositionPatient holds 2 numbers, expected 3"
    with pytest.raises(DataError, match=told):
        read_series(sorted(folder.iterdir()))


def test_nifti_with_times_and_npz_give_the_same_map(signal, tmp_path):
    turned = np.ascontiguousarray(signal.transpose(3, 2, 1, 0))
    nifti.write(tmp_path / "s.nii.gz", turned, affine=AFFINE)
    times = ("--times", *ECHOES, "--contrast", "t2")
    run(tmp_path / "a", tmp_path / "s.nii.gz", *times)
    check(tmp_path / "a", AFFINE)
    for t in range(4):
        nifti.write(tmp_path / f"f{t}.nii", turned[..., t], affine=AFFINE)
    run(tmp_path / "b", *(tmp_path / f"f{t}.nii" for t in range(4)), *times)
    check(tmp_path / "b", AFFINE)
    np.savez(tmp_path / "s.npz", signal=signal, echo_times=np.asarray(ECHOES))
    found = run(tmp_path / "c", tmp_path / "s.npz")
    check(tmp_path / "c", np.eye(4))
    assert found["pixels"] == {"plausible": 336, "no signal": 48}


def test_the_digital_phantom_of_eight_inversion_times(shared_data, tmp_path):
    """Medians at the nominal values; its air is zero, so that no noise is known."""
    pytest.importorskip("pydicom", reason="reads DICOM (extra: medical)")
    folder = shared_data / "mri" / "tomato" / "dicomT1" / "raw"
    found = run(tmp_path, folder)
    assert found["contrast"] == "t1" and found["model"] == "molli"
    assert found["sigma"] is None and found["quartiles"][1] == pytest.approx(1596, 0.01)
    t1 = nifti.read(tmp_path / "t1.nii.gz").data
    tissue = t1[t1 > 0]
    for nominal in (900, 1000, 1600):
        assert np.mean(np.abs(tissue / nominal - 1) < 0.01) > 0.05


def refusal(capsys, *arguments) -> str:
    assert experiment.main([str(a) for a in arguments]) == 1
    return capsys.readouterr().err.splitlines()[-1]


def test_what_cannot_be_fitted_is_said(signal, tmp_path, capsys):
    def said(*arguments):
        return refusal(capsys, *arguments, "--out", tmp_path / "out")

    assert "gone: no such file or folder" in said(tmp_path / "gone")
    np.savez(tmp_path / "s.npz", signal=signal)
    assert "does not say what it is a series of" in said(tmp_path / "s.npz")
    npz = (tmp_path / "s.npz", "--contrast", "t2")
    assert "has none, give one for each frame" in said(*npz)
    assert "expected 4 numbers in ms" in said(*npz, "--times", 1, 2)
    few = ("--contrast", "t1", "--times", *"1122")
    assert "3 at least" in said(tmp_path / "s.npz", *few)
    times = ("--times", *ECHOES)
    assert "model: molli is not of T2" in said(*npz, *times, "--model", "molli")
    rician = ("--noise-floor", "rician")
    assert "set to zero" in said(*npz, *times, *rician)
    assert "rician is for" in said(*npz, *times, *rician, "--model", "log_linear")
    np.savez(tmp_path / "n.npz", image=signal)
    assert "expected 'signal'" in said(tmp_path / "n.npz")
    (tmp_path / "empty").mkdir()
    assert "neither DICOM files nor NIfTI" in said(tmp_path / "empty")


def test_files_that_are_no_single_series_are_said(signal, tmp_path, capsys):
    def said(folder, *more):
        return refusal(capsys, folder, *more, "--out", tmp_path / "out")

    both = write_dicom(tmp_path / "both", signal, rows=[("InversionTime", "5")])
    assert not experiment.main([str(both), "--out", str(tmp_path / "out")])
    capsys.readouterr()
    one = sorted(both.iterdir())[0]
    one.unlink()
    assert "are not those of the first slice" in said(both)
    (both / "bad.dcm").write_bytes(one.name.encode() * 99)
    assert "bad.dcm: not" in said(both)
    timeless = write_dicom(tmp_path / "timeless", signal, tag="StudyID")
    assert "does not say what it is a series of" in said(timeless)
    short = signal[:, :, :, :6]
    other = write_dicom(tmp_path / "short", short)
    (other / "x.dcm").write_bytes(sorted(both.iterdir())[1].read_bytes())
    assert "images of sizes" in said(other)
