"""A DICOM radiograph as it is meant to be shown, in grey bytes.

Only the pixels and the tags needed to show them are read. Messages name the file, the
tag and the kind of fault, never what a tag holds: that may be anything about a patient.

Files without preamble or meta header, as networks and old archives leave them, are read
too. What a file declares is applied or refused by name, never passed over.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num, UInt8

from medjax.data.boundary import DataError, affordable, finite, reading
from medjax.data.grey import luminance, stretch

SUFFIXES = (".dcm", ".dicom")
SHOWING_TAGS = [
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PlanarConfiguration",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTSequence",
    "VOILUTFunction",
    "WindowCenter",
    "WindowWidth",
    "PixelData",
]
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
"""Photometric interpretations that are read; pydicom turns all colours into RGB."""
FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


def is_dicom(path: Path, head: bytes) -> bool:
    """Whether a file is DICOM, by its name or its first 132 bytes.

    Without preamble a file begins with an element of group 2 or 8, low byte first,
    which no other image format does.
    """
    bare = head[:2] in (b"\x02\0", b"\x08\0") and head[3:4] == b"\0"
    return head[128:132] == b"DICM" or bare or path.suffix.lower() in SUFFIXES


def read_dicom(path: Path) -> UInt8[np.ndarray, "h w"]:
    """Read one image: modality values, then the first window, then eight bits.

    Args:
        path: A file of one frame, grey or colour (which becomes luminance).

    Raises:
        DataError: Naming the file and what of it is damaged, missing or not read.
        FileNotFoundError: No such file.
        ImportError: If pydicom is not installed.
    """
    try:
        import pydicom
    except ImportError as error:
        raise ImportError("DICOM files need pydicom: medjax[medical]") from error
    # pydicom's warnings quote what a tag holds. Filters belong to the process, and
    # images are read in threads, so this one stays.
    warnings.filterwarnings("ignore", module=r"pydicom\b")
    with reading(path, "DICOM image", quote=False):
        data = pydicom.dcmread(path, specific_tags=[*SHOWING_TAGS], force=True)
        kind = settled_kind(path, data)
        pixels = data.pixel_array
    with reading(path, "DICOM image", key="display tags", quote=False):
        if kind in COLOUR:
            return _to_bytes(luminance(pixels), _whole(path, data, "BitsStored"))
        shown = _show(path, pixels, data)
    return 255 - shown if kind == "MONOCHROME1" else shown


def settled_kind(path: Path, data: Any) -> str:
    """Settles what can be said before decoding; gives the photometric interpretation.

    Raises:
        DataError: No pixels, several frames, a size that the file cannot hold, colours
            that are not read, or a compression without its decoder.
    """
    if "PixelData" not in data:
        raise DataError(f"{path}: not a DICOM image (no pixel data)")
    if data.get("NumberOfFrames") and _whole(path, data, "NumberOfFrames") != 1:
        raise DataError(f"{path}: a DICOM series of several frames, expected one")
    kind = str(data.get("PhotometricInterpretation"))
    if kind not in (*GREY, *COLOUR):
        raise DataError(
            f"{path}: PhotometricInterpretation: expected one of {[*GREY, *COLOUR]}"
        )
    rows, columns, bits = (
        _whole(path, data, tag) for tag in ("Rows", "Columns", "BitsAllocated")
    )
    samples = 3 if kind in COLOUR else 1
    affordable(path, (rows, columns, samples, max(bits // 8, 1)), "uint8", "the image")
    if getattr(data, "file_meta", None) is None:
        data.file_meta = _meta()
    if "TransferSyntaxUID" not in data.file_meta:
        # Without a meta header nothing can be compressed; pydicom has seen which of
        # the two plain encodings it is.
        implicit, _ = data.original_encoding
        data.file_meta.TransferSyntaxUID = _plain(implicit)
    _check_decoder(path, data.file_meta.TransferSyntaxUID)
    return kind


def _meta() -> Any:
    from pydicom.dataset import FileMetaDataset

    return FileMetaDataset()


def _plain(implicit: bool) -> Any:
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian


def _check_decoder(path: Path, syntax: Any) -> None:
    """Names the package that a compression needs."""
    from pydicom.pixels.decoders.base import get_decoder

    if not syntax.is_compressed:
        return
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise DataError(f"{path}: compressed by a method without a decoder") from None
    if not decoder.is_available:
        # pydicom says "pylibjpeg - requires pylibjpeg>=2.0 and pylibjpeg-libjpeg>=2.1".
        asked = [line.split("requires ")[-1] for line in decoder.missing_dependencies]
        asked = [line.removeprefix("numpy and ") for line in asked]
        raise DataError(
            f"{path}: compressed as {syntax.name}, which needs a decoder: install "
            f"{' or '.join(dict.fromkeys(reversed(asked)))}"
        )


def _show(
    path: Path, pixels: Num[np.ndarray, "h w"], data: Any
) -> UInt8[np.ndarray, "h w"]:
    """Modality values, then the first window (DICOM PS3.3 C.11.2), then eight bits."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    # What the detector did not see is declared so, and must not set the grey range.
    padding = data.get("PixelPaddingValue")
    seen = np.ones(pixels.shape, bool) if padding is None else pixels != padding
    values = pixels
    if data.get("ModalityLUTSequence"):
        values = np.asarray(apply_modality_lut(pixels, data))
    elif "RescaleSlope" in data or "RescaleIntercept" in data:
        slope = number(path, data, "RescaleSlope")
        values = pixels * slope + number(path, data, "RescaleIntercept")
    finite(path, values, "the rescaled image")
    if data.get("VOILUTSequence"):
        return stretch(np.asarray(apply_voi_lut(values, data)), seen)
    # Both tags may be there and hold nothing: then no window is declared.
    window = [tag for tag in ("WindowCenter", "WindowWidth") if data.get(tag)]
    if len(window) == 2:
        center, width = (number(path, data, tag) for tag in window)
        function = data.get("VOILUTFunction") or "LINEAR"
        if function not in FUNCTIONS:
            raise DataError(f"{path}: VOILUTFunction: expected one of {FUNCTIONS}")
        if width >= 1 or (width > 0 and function != "LINEAR"):
            return _window(values.astype(np.float64), center, width, function)
    if values.dtype == np.uint8 and data.get("BitsStored") == 8:
        return values
    return stretch(values, seen)


def _window(
    x: np.ndarray, center: float, width: float, function: str
) -> UInt8[np.ndarray, "h w"]:
    match function:
        case "SIGMOID":
            unit = 1 / (1 + np.exp(np.clip(-4 * (x - center) / width, -50, 50)))
        case "LINEAR_EXACT":
            unit = (x - center) / width + 0.5
        case _:
            unit = (x - (center - 0.5)) / max(width - 1, 1e-6) + 0.5
    return np.round(255 * np.clip(unit, 0, 1)).astype(np.uint8)


def _to_bytes(values: np.ndarray, bits: int) -> UInt8[np.ndarray, "h w"]:
    """Luminance of eight bits as it is, of more stretched as grey images are."""
    return stretch(values) if bits > 8 else np.clip(values, 0, 255).astype(np.uint8)


def number(path: Path, data: Any, tag: str) -> float:
    """The first number of a tag.

    Raises:
        DataError: Naming the tag, which is missing or holds no finite number.
    """
    try:
        value = float(np.ravel(np.asarray(data[tag].value, float))[0])
    except (KeyError, TypeError, ValueError, IndexError):
        value = np.nan
    if not np.isfinite(value):
        raise DataError(f"{path}: {tag} is not a finite number")
    return value


def _whole(path: Path, data: Any, tag: str) -> int:
    return int(number(path, data, tag))
