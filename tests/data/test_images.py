"""Images of every kind to grey bytes; of a DICOM nothing but what shows the pixels."""

import numpy as np
import pytest
from PIL import Image

from medjax.data.images import ImageError, fit_square, read_image

pydicom = pytest.importorskip("pydicom", reason="DICOM needs the extra: medical")
from pydicom.dataset import FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, generate_uid  # noqa: E402

RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8)


def write_dicom(path, pixels, **tags):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.PatientName, data.PatientID = "Doe^Jane", "SECRET-77"
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit = data.BitsStored - 1
    data.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def test_eight_bits_pass_unchanged(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), RAMP)
    np.testing.assert_array_equal(read_image(write_dicom(tmp_path / "a", RAMP)), RAMP)


def test_sixteen_bits_are_stretched(tmp_path):
    deep = RAMP.astype(np.uint16) * 100 + 1000
    Image.fromarray(deep).save(tmp_path / "a.png")
    expected = np.round(RAMP / 63 * 255)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)
    path = write_dicom(tmp_path / "a.dcm", deep)
    np.testing.assert_array_equal(read_image(path), expected)


def test_colour_becomes_luminance(tmp_path):
    colour = np.zeros((4, 4, 3), np.uint8)
    colour[..., 1] = 100
    Image.fromarray(colour).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[59] * 4] * 4


def test_monochrome1_is_inverted(tmp_path):
    path = write_dicom(tmp_path / "a", RAMP, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_image(path), 255 - RAMP)


def test_window_of_the_standard(tmp_path):
    deep = np.array([[900, 1000, 1050, 1100, 1200]], np.uint16)
    tags = {"WindowCenter": [1050, 40], "WindowWidth": [101, 400]}  # the first counts
    shown = read_image(write_dicom(tmp_path / "a", deep, **tags))
    # PS3.3 C.11.2.1.2: ((x - (c - 0.5)) / (w - 1) + 0.5)
    assert shown.tolist() == [[0, 1, 129, 255, 255]]
    exact = write_dicom(tmp_path / "b", deep, VOILUTFunction="LINEAR_EXACT", **tags)
    assert read_image(exact)[0, 2] == 128
    sigmoid = write_dicom(tmp_path / "c", deep, VOILUTFunction="SIGMOID", **tags)
    assert read_image(sigmoid).tolist() == [[1, 31, 128, 224, 254]]


def test_rescale_comes_before_the_window(tmp_path):
    deep = np.array([[0, 50, 100]], np.uint16)
    tags = {"RescaleSlope": 2, "RescaleIntercept": -100}
    window = {"WindowCenter": 0, "WindowWidth": 200, "VOILUTFunction": "LINEAR_EXACT"}
    shown = read_image(write_dicom(tmp_path / "a", deep, **tags, **window))
    assert shown.tolist() == [[0, 128, 255]]


def test_voi_table(tmp_path):
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4, 0, 8], [255, 200, 100, 0]
    table.add_new(0x00283002, "US", [4, 0, 8])
    table.add_new(0x00283006, "US", [255, 200, 100, 0])
    path = write_dicom(
        tmp_path / "a", np.array([[0, 1, 2, 3]], np.uint8), VOILUTSequence=[table]
    )
    assert read_image(path).tolist() == [[255, 200, 100, 0]]


def test_declared_padding_does_not_set_the_range(tmp_path):
    deep = np.array([[60000, 1000, 2000]], np.uint16)
    path = write_dicom(tmp_path / "a", deep, PixelPaddingValue=60000)
    assert read_image(path).tolist() == [[255, 0, 255]]


def test_faults_name_the_file_and_no_patient(tmp_path, capfd, caplog):
    whole = write_dicom(tmp_path / "whole.dcm", np.zeros((64, 64), np.uint16))
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(whole.read_bytes()[:-1000])
    frames = write_dicom(
        tmp_path / "frames.dcm", np.zeros((2, 4, 4), np.uint8), NumberOfFrames=2
    )
    bare = write_dicom(tmp_path / "bare.dcm", RAMP)
    data = pydicom.dcmread(bare)
    del data.PixelData
    data.save_as(bare)
    for path in (cut, frames, bare):
        with pytest.raises(ImageError, match=path.name) as caught:
            read_image(path)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        assert "SECRET" not in str(caught.value) and "Doe" not in str(caught.value)
    shown = "".join(capfd.readouterr()) + caplog.text
    assert "SECRET" not in shown and "Doe" not in shown


@pytest.mark.parametrize("kind", ["truncated", "text", "empty", "missing", "folder"])
def test_unreadable_files_are_named(tmp_path, kind):
    path = tmp_path / "x.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    match kind:
        case "truncated":
            path.write_bytes(path.read_bytes()[:800])
        case "text":
            path.write_text("not an image")
        case "empty":
            path.write_bytes(b"")
        case "missing":
            path.unlink()
        case "folder":
            path = tmp_path
    with pytest.raises(ImageError, match=path.name):
        read_image(path)


def test_mgca_keeps_the_shape_and_centres_it():
    image = np.full((100, 50), 200, np.uint8)
    image[0, 0] = 0
    square, placement = fit_square(image, 20, mode="mgca")
    assert square.shape == (20, 20) and square.dtype == np.uint8
    assert (square[:, :5] == 0).all() and (square[:, 15:] == 0).all()
    assert (square[:, 6:14] == 200).all()
    box = placement.boxes(np.array([[10.0, 20.0, 30.0, 40.0]]))
    np.testing.assert_allclose(box, [[7.0, 4.0, 13.0, 12.0]])


def test_mgca_averages_areas():
    board = (np.indices((8, 8)).sum(0) % 2 * 100).astype(np.uint8)
    assert (fit_square(board, 4, mode="mgca")[0] == 50).all()


def test_imitate_cuts_to_content_and_fills_the_range():
    image = np.zeros((40, 60), np.uint8)
    image[10:30, 20:40] = np.linspace(50, 100, 20).astype(np.uint8)
    square, placement = fit_square(image, 20, mode="imitate")
    assert square.min() == 0 and square.max() == 255  # 256 would wrap to black
    assert (np.diff(square[0].astype(int)) > 0).all()
    box = placement.boxes(np.array([[20.0, 10.0, 20.0, 20.0]]))
    np.testing.assert_allclose(box, [[0.0, 0.0, 20.0, 20.0]])


def test_imitate_resizes_like_skimage_without_antialiasing():
    transform = pytest.importorskip("skimage.transform")
    image = np.random.default_rng(1).integers(1, 256, (37, 53), dtype=np.uint8)
    image[0, 0], image[0, 1] = 1, 255
    mine, _ = fit_square(image, 24, mode="imitate")
    unit = (image - 1.0) / 254 * 255
    theirs = transform.resize(
        unit, (24, 24), order=1, anti_aliasing=False, mode="edge", preserve_range=True
    )
    np.testing.assert_allclose(mine, theirs, atol=0.51)


@pytest.mark.parametrize("mode", ["mgca", "imitate"])
def test_a_blank_image_is_a_fault(mode):
    with pytest.raises(ImageError, match="blank"):
        fit_square(np.full((9, 9), 7, np.uint8), 4, mode=mode)


def test_a_real_file_reheaded_as_monochrome1(shared_data):
    path = shared_data / "cxr" / "dicom" / "Fake_MONOHR1.dcm"
    stored = pydicom.dcmread(path).pixel_array
    np.testing.assert_array_equal(read_image(path), 255 - stored)
