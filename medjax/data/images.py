"""From a file of any bit depth to a square grey ``uint8`` image.

Two roads to the square are in use by the systems here, and their pixels differ:

* ``mgca`` (MGCA, GLoRIA, ConVIRT, BioViL): the longest side becomes ``size`` by area
  averaging, the rest is padded with black, centred. Shape is kept.
* ``imitate`` (IMITATE, M-FLAG): the bounding box of non-zero pixels is cut out,
  stretched to the full grey range, and resized to the square bilinearly without
  antialiasing; the aspect ratio is lost. The released code stretches to 256 before
  the cast to ``uint8``, which turns the brightest pixel black; here it is 255.

Of a DICOM file only the pixels and the tags needed to show them are read. Messages name
the file and the kind of fault, never the value of a tag.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Num, UInt8
from PIL import Image

from medjax.data.boundary import DataError

ResizeMode = Literal["mgca", "imitate"]
FORMATS = ("JPEG", "PNG", "TIFF", "BMP")
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


class ImageError(DataError):
    """A file that is missing, unreadable, truncated, blank, or no single grey image."""


@dataclass(frozen=True)
class Placement:
    """Where an image went: ``new = old * scale + offset``, as (x, y) in pixels."""

    scale: tuple[float, float]
    offset: tuple[float, float]

    def boxes(self, boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
        """Boxes ``x y width height`` of the file as ``x0 y0 x1 y1`` of the square."""
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        moved = corners * np.tile(self.scale, 2) + np.tile(self.offset, 2)
        return moved.astype(np.float32)


def read_image(path: str | Path) -> UInt8[np.ndarray, "h w"]:
    """Read a radiograph: JPEG, PNG (8 or 16 bit), TIFF, BMP or DICOM.

    Colour becomes luminance. More than 8 bits are stretched from the darkest to the
    brightest value (the range in use is not stated in such files), except in a DICOM
    that states a window.

    Args:
        path: The file; DICOM is recognised by content, not by name.

    Raises:
        ImageError: Naming the file, if it is missing, unreadable, truncated or not one
            single image.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from None
    if head[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom"):
        return _read_dicom(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            if image.mode.startswith(("I", "F")):
                return _stretch(np.asarray(image))
            return np.asarray(image.convert("L"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: unreadable image ({error})") from None


def _read_dicom(path: Path) -> UInt8[np.ndarray, "h w"]:
    try:
        import pydicom
    except ImportError as error:
        raise ImportError("DICOM files need pydicom: medjax[medical]") from error
    try:
        data = pydicom.dcmread(path, specific_tags=[*SHOWING_TAGS], force=True)
        if "PixelData" not in data:
            raise ImageError(f"{path}: not a DICOM image (no pixel data)")
        pixels = data.pixel_array
    except ImageError:
        raise
    except Exception as error:
        # pydicom's messages may quote what a tag held; its kind of error is enough.
        raise ImageError(f"{path}: unreadable DICOM ({type(error).__name__})") from None
    if int(data.get("NumberOfFrames", 1) or 1) != 1:
        raise ImageError(f"{path}: a DICOM series of several frames, expected one")
    if pixels.ndim == 3:
        pixels = pixels @ np.asarray([0.299, 0.587, 0.114])
        return np.clip(pixels, 0, 255).astype(np.uint8)
    shown = _show(pixels, data)
    inverted = data.get("PhotometricInterpretation") == "MONOCHROME1"
    return 255 - shown if inverted else shown


def _show(pixels: Num[np.ndarray, "h w"], data: Any) -> UInt8[np.ndarray, "h w"]:
    """Modality values, then the first window (DICOM PS3.3 C.11.2), then eight bits."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    # What the detector did not see is declared so, and must not set the grey range.
    padding = data.get("PixelPaddingValue")
    seen = np.ones(pixels.shape, bool) if padding is None else pixels != padding
    values = np.asarray(apply_modality_lut(pixels, data))
    if data.get("VOILUTSequence"):
        return _stretch(np.asarray(apply_voi_lut(values, data)), seen)
    center, width = (_first(data.get(k)) for k in ("WindowCenter", "WindowWidth"))
    if center is not None and width is not None and width >= 1:
        x = values.astype(np.float64)
        match data.get("VOILUTFunction", "LINEAR"):
            case "SIGMOID":
                unit = 1 / (1 + np.exp(np.clip(-4 * (x - center) / width, -50, 50)))
            case "LINEAR_EXACT":
                unit = (x - center) / width + 0.5
            case _:
                unit = (x - (center - 0.5)) / max(width - 1, 1e-6) + 0.5
        return np.round(255 * np.clip(unit, 0, 1)).astype(np.uint8)
    if values.dtype == np.uint8 and data.get("BitsStored") == 8:
        return values
    return _stretch(values, seen)


def _first(value: Any) -> float | None:
    """A tag may hold one number, several, or nothing."""
    if value is None or value == "":
        return None
    return float(np.ravel(np.asarray(value, np.float64))[0])


def _stretch(
    values: Num[np.ndarray, "h w"], seen: np.ndarray | None = None
) -> UInt8[np.ndarray, "h w"]:
    """Darkest value seen to 0, brightest to 255."""
    values = values.astype(np.float64)
    within = values if seen is None or not seen.any() else values[seen]
    low, high = within.min(), within.max()
    unit = (values - low) / max(high - low, 1e-12)
    return np.round(255 * np.clip(unit, 0, 1)).astype(np.uint8)


def fit_square(
    image: UInt8[np.ndarray, "h w"], size: int, *, mode: ResizeMode = "mgca"
) -> tuple[UInt8[np.ndarray, "size size"], Placement]:
    """Bring an image to a square.

    Args:
        image: Grey, any shape.
        size: Side of the square in pixels.
        mode: ``mgca`` keeps the shape, ``imitate`` fills the square; see the module.

    Returns:
        The square, and where the image went in it (for boxes).

    Raises:
        ImageError: If all pixels are equal: there is nothing to see.
    """
    if image.min() == image.max():
        raise ImageError("blank image (all pixels are equal)")
    return (_pad if mode == "mgca" else _cut)(image, size)


def _pad(image: np.ndarray, size: int) -> tuple[np.ndarray, Placement]:
    h, w = image.shape
    ratio = size / max(h, w)
    new_h, new_w = max(1, round(h * ratio)), max(1, round(w * ratio))
    # Averaging areas is what INTER_AREA does when shrinking; when growing it is linear.
    method = Image.Resampling.BOX if ratio < 1 else Image.Resampling.BILINEAR
    small = np.asarray(Image.fromarray(image).resize((new_w, new_h), method))
    top, left = (size - new_h) // 2, (size - new_w) // 2
    square = np.zeros((size, size), np.uint8)
    square[top : top + new_h, left : left + new_w] = small
    return square, Placement((new_w / w, new_h / h), (left, top))


def _cut(image: np.ndarray, size: int) -> tuple[np.ndarray, Placement]:
    rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
    top, left = rows[0], columns[0]
    box = image[top : rows[-1] + 1, left : columns[-1] + 1]
    h, w = box.shape
    y, x = _centres(h, size), _centres(w, size)
    low, high = int(box.min()), int(box.max())
    # A box of one single value (a white rectangle on black) stays as bright as it is.
    gain = 255 / (high - low) if high > low else 1.0
    unit = (box.astype(np.float32) - (low if high > low else 0)) * gain
    square = _linear(_linear(unit, y, 0), x, 1)
    placement = Placement((size / w, size / h), (-left * size / w, -top * size / h))
    return np.round(square).astype(np.uint8), placement


def _centres(old: int, new: int) -> Float[np.ndarray, " new"]:
    """Centres of the new pixels in coordinates of the old ones."""
    return np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)


def _linear(a: np.ndarray, at: np.ndarray, axis: int) -> np.ndarray:
    """Linear interpolation along one axis, two taps whatever the scale."""
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, a.shape[axis] - 1)
    part = (at - low).astype(a.dtype).reshape((-1, 1) if axis == 0 else (1, -1))
    return a.take(low, axis) * (1 - part) + a.take(high, axis) * part
