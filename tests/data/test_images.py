"""Images of every kind to grey bytes; of a DICOM nothing but what shows the pixels."""

import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from medjax.data.boundary import DataError
from medjax.data.grey import stretch
from medjax.data.images import fit_square, read_image

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


def write_deep_png(path, samples, kind):
    """A PNG of 16 bits a sample, each row filtered by what stands left of it."""
    rows, columns, n = samples.shape
    raw = samples.astype(">u2").reshape(rows, columns, n).view(np.uint8)
    raw = raw.reshape(rows, columns, 2 * n)
    left = np.diff(raw, axis=1, prepend=np.zeros_like(raw[:, :1]))
    lines = b"".join(b"\1" + row.tobytes() for row in left)
    header = struct.pack(">IIBBBBB", columns, rows, 16, kind, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(body))
        + name
        + body
        + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


@pytest.mark.parametrize(("samples", "kind"), [(2, 4), (3, 2), (4, 6)])
def test_sixteen_bits_in_colour_or_with_alpha_keep_their_depth(tmp_path, samples, kind):
    # Twelve bits in use: cut to the high byte, 64 grey levels become 4.
    deep = np.repeat(RAMP[..., None].astype(np.uint16) * 13 + 300, samples, axis=2)
    if samples % 2 == 0:
        deep[..., -1] = 65535
    path = write_deep_png(tmp_path / "a.png", deep, kind)
    np.testing.assert_array_equal(read_image(path), np.round(RAMP / 63 * 255))


def test_deep_colour_that_is_not_read_is_refused(tmp_path):
    order = "II" if sys.byteorder == "little" else "MM"
    head = struct.pack("<2sHI", order.encode(), 42, 8)
    tags = [(256, 4, 1, 2), (257, 4, 1, 1), (258, 3, 3, 122), (259, 3, 1, 1)]
    tags += [(262, 3, 1, 2), (273, 4, 1, 134), (277, 3, 1, 3), (279, 4, 1, 12)]
    tags += [(278, 4, 1, 1)]
    body = struct.pack("<H", len(tags))
    body += b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    body += b"\0" * 4
    path = tmp_path / "a.tif"
    depth = struct.pack("<HHH", 16, 16, 16).ljust(12, b"\0")
    path.write_bytes(head + body + depth + np.arange(6, dtype="<u2").tobytes())
    with pytest.raises(DataError, match="RGB of more than 8 bits in TIFF"):
        read_image(path)


def test_white_is_zero_in_a_deep_tiff(tmp_path):
    deep = Image.fromarray(RAMP.astype(np.uint16) * 100)
    deep.save(tmp_path / "a.tif", tiffinfo={262: 0})
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.tif"), 255 - np.round(RAMP / 63 * 255)
    )


def test_more_than_one_picture_is_refused(tmp_path):
    page = Image.fromarray(RAMP)
    for name in ("a.tif", "a.png"):
        page.save(tmp_path / name, save_all=True, append_images=[page.rotate(90)])
        with pytest.raises(DataError, match=f"{name}: several pages or frames"):
            read_image(tmp_path / name)


def test_a_number_that_is_none_is_refused(tmp_path):
    values = RAMP.astype(np.float32)
    values[2, 3] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a.tif.*1 values that are NaN.*\(2, 3\)"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "deep.png"])
def test_the_declared_orientation_is_applied(tmp_path, name):
    values = RAMP[:, :5]
    stored = values.astype(np.uint16) * 257 if name == "deep.png" else values
    exif = Image.Exif()
    exif[274] = 6  # to be turned right by a quarter
    Image.fromarray(stored).save(tmp_path / name, exif=exif)
    expected = np.round((values - values.min()) / np.ptp(values) * 255)
    expected = np.rot90(expected if name == "deep.png" else values, -1)
    np.testing.assert_array_equal(read_image(tmp_path / name), expected)


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("name", ["a.dcm", "a"])
def test_dicom_without_preamble_or_meta_header(tmp_path, implicit, name):
    whole = pydicom.dcmread(write_dicom(tmp_path / "whole", RAMP))
    bare = pydicom.Dataset(whole)
    bare.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"  # any real file begins with group 8
    pydicom.dcmwrite(tmp_path / name, bare, implicit_vr=implicit, little_endian=True)
    np.testing.assert_array_equal(read_image(tmp_path / name), RAMP)


def test_colour_of_more_than_eight_bits(tmp_path):
    deep = np.repeat(RAMP[..., None].astype(np.uint16) * 60 + 100, 3, axis=2)
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}
    tags |= {"PlanarConfiguration": 0, "BitsStored": 12, "HighBit": 11}
    path = write_dicom(tmp_path / "a", deep, Rows=8, Columns=8, **tags)
    np.testing.assert_array_equal(read_image(path), np.round(RAMP / 63 * 255))


@pytest.mark.parametrize("tag", ["RescaleSlope", "RescaleIntercept", "WindowCenter"])
@pytest.mark.parametrize("held", [b"", b"SECRET"])
def test_a_tag_that_is_no_number_is_named_and_not_quoted(tmp_path, tag, held, capfd):
    tags = {"RescaleSlope": 1, "RescaleIntercept": 0, "WindowCenter": 10}
    tags |= {"WindowWidth": 20, tag: "314159" if held else ""}
    path = write_dicom(tmp_path / "a.dcm", RAMP, **tags)
    path.write_bytes(path.read_bytes().replace(b"314159", held or b"314159"))
    if tag == "WindowCenter" and not held:  # no window is declared
        return np.testing.assert_array_equal(
            read_image(path), np.round(RAMP / 63 * 255)
        )
    with pytest.raises(DataError, match=f"a.dcm: {tag} is not a finite") as caught:
        read_image(path)
    assert "SECRET" not in str(caught.value) + "".join(capfd.readouterr())


@pytest.mark.parametrize("kind", ["PALETTE COLOR", "JANE"])
def test_colours_that_are_not_read_are_refused(tmp_path, kind):
    path = write_dicom(tmp_path / "a", RAMP, PhotometricInterpretation=kind)
    with pytest.raises(DataError, match="PhotometricInterpretation: exp") as caught:
        read_image(path)
    assert kind not in str(caught.value)


def test_a_compression_without_its_decoder_names_the_package(tmp_path, monkeypatch):
    path = write_dicom(tmp_path / "a", RAMP)
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
    data.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    data["PixelData"].VR = "OB"
    data.save_as(path)
    decoder = type(pydicom.pixels.get_decoder(pydicom.uid.JPEGLSLossless))
    monkeypatch.setattr(decoder, "is_available", False)
    with pytest.raises(DataError, match="a: compressed as JPEG-LS.*pylibjpeg"):
        read_image(path)


def test_a_size_beyond_the_file_is_refused_before_memory_is_asked_for(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, Rows=65535, Columns=65535)
    with pytest.raises(DataError, match="a.dcm: the image claims shape"):
        read_image(path)


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
        with pytest.raises(DataError, match=path.name) as caught:
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
    error = FileNotFoundError if kind == "missing" else DataError
    with pytest.raises(error, match=path.name):
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
    with pytest.raises(DataError, match="blank"):
        fit_square(np.full((9, 9), 7, np.uint8), 4, mode=mode)


def test_a_real_file_reheaded_as_monochrome1(shared_data):
    path = shared_data / "cxr" / "dicom" / "Fake_MONOHR1.dcm"
    stored = pydicom.dcmread(path).pixel_array
    np.testing.assert_array_equal(read_image(path), 255 - stored)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_arrays_are_read_as_images_of_their_depth(tmp_path, dtype):
    np.save(tmp_path / "a.npy", RAMP.astype(dtype))
    expected = RAMP if dtype == np.uint8 else stretch(RAMP)
    np.testing.assert_array_equal(read_image(tmp_path / "a.npy"), expected)
    # Colour between 0 and 1 keeps its grey.
    colour = np.stack([RAMP / 64.0] * 3, axis=-1)
    if dtype == np.float32:
        np.save(tmp_path / "a.npy", colour.astype(dtype))
        np.testing.assert_array_equal(read_image(tmp_path / "a.npy"), stretch(RAMP))


@pytest.mark.parametrize("shape", [(4,), (2, 8, 8), (0, 5), (1, 8, 8, 3)])
def test_arrays_that_are_no_image_are_refused(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    with pytest.raises(DataError, match=r"a\.npy: an (empty )?array,? of shape"):
        read_image(tmp_path / "a.npy")
