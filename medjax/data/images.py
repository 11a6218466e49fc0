"""From a file of any bit depth to a square grey ``uint8`` image.

Two roads to the square are in use by the systems here, and their pixels differ:

* ``mgca`` (MGCA, GLoRIA, ConVIRT, BioViL): the longest side becomes ``size`` by area
  averaging, the rest is padded with black, centred. Shape is kept.
* ``imitate`` (IMITATE, M-FLAG): the bounding box of non-zero pixels is cut out,
  stretched to the full grey range, and resized to the square bilinearly without
  antialiasing; the aspect ratio is lost. The released code stretches to 256 before
  the cast to ``uint8``, which turns the brightest pixel black; here it is 255.

What a file declares (depth, orientation, pages) is applied or refused by name. DICOM is
read by ``medjax.data.dicom``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Num, UInt8
from PIL import Image, ImageFile, ImageOps

from medjax.data import dicom, npy
from medjax.data.boundary import DataError, affordable, finite, reading
from medjax.data.grey import luminance, stretch

ResizeMode = Literal["mgca", "imitate"]
FORMATS = ("JPEG", "PNG", "TIFF", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", *dicom.SUFFIXES, ".npy")
"""What files that `read_image` reads are usually called."""
DEEP = ("LA;16B", "RGB;16B", "RGBA;16B")
"""PNG of 16 bits whose samples Pillow would cut to 8."""
ORIENTATION = 274  # of EXIF, and the next two of TIFF
TIFF_PHOTOMETRIC = 262
WHITE_IS_ZERO = 0


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

    def mask(self, mask: Bool[np.ndarray, "h w"], size: int) -> Bool[np.ndarray, "s s"]:
        """A mask of the file as one of the square, by the middle of each pixel."""
        middle = np.arange(size) + 0.5
        x, y = (
            np.floor((middle - self.offset[i]) / self.scale[i]).astype(int)
            for i in (0, 1)
        )
        h, w = mask.shape
        found = mask[np.clip(y, 0, h - 1)][:, np.clip(x, 0, w - 1)]
        return found & ((0 <= y) & (y < h))[:, None] & ((0 <= x) & (x < w))[None]


def read_image(path: str | Path) -> UInt8[np.ndarray, "h w"]:
    """Read a radiograph: JPEG, PNG (8 or 16 bit), TIFF, BMP, DICOM or a NumPy array.

    Colour becomes luminance. More than 8 bits are stretched from the darkest to the
    brightest value (the range in use is not stated in such files), except in a DICOM
    that states a window. The orientation that EXIF declares is applied.

    Args:
        path: The file; DICOM and arrays are recognised by content, not by name.

    Raises:
        DataError: Naming the file, if it is unreadable, truncated or not one single
            image of finite numbers.
        FileNotFoundError: No such file.
        ImportError: A DICOM file where pydicom is not installed.
    """
    path = Path(path)
    with reading(path, "image"), path.open("rb") as file:
        head = file.read(132)
        if head.startswith(npy.MAGIC):
            return _array(path)
        if dicom.is_dicom(path, head):
            return dicom.read_dicom(path)
        # Opened by name, a TIFF is mapped into memory, and one to be turned by a
        # quarter then comes out with its rows in disorder (Pillow 13).
        with Image.open(file, formats=FORMATS) as image:
            affordable(path, image.size, "uint8", "the image")
            # The further pictures of a camera's JPEG (MPO) are previews of the first.
            if getattr(image, "is_animated", False) and image.format != "MPO":
                raise DataError(f"{path}: several pages or frames, expected one image")
            return _grey(path, image)


def _array(path: Path) -> UInt8[np.ndarray, "h w"]:
    """A ``.npy`` file of grey or colour: eight bits as they are, others stretched."""
    values = npy.read(path)
    colour = values.ndim == 3 and values.shape[2] in (3, 4)
    if not (colour or values.ndim == 2) or values.dtype.kind not in "uif":
        raise DataError(
            f"{path}: an array of shape {values.shape} and {values.dtype}, expected "
            "numbers [h, w] or [h, w, 3]"
        )
    if not values.size:
        raise DataError(f"{path}: an empty array, of shape {values.shape}")
    grey = luminance(values[..., :3]) if colour else values
    if values.dtype == np.uint8:
        return grey.round().astype(np.uint8)
    return stretch(grey)


def _grey(path: Path, image: ImageFile.ImageFile) -> UInt8[np.ndarray, "h w"]:
    """An opened image, upright and in eight bits."""
    inverted = False
    if (raw := _raw_mode(image)) in DEEP:
        values = _deep(path, image, raw)
    elif image.mode.startswith(("I", "F")):
        # Pillow inverts a TIFF whose zero is white up to 8 bits, not beyond.
        tags = getattr(image, "tag_v2", {})
        inverted = tags.get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO
        values = np.asarray(image)
    elif ";16" in raw or ";12" in raw:
        raise DataError(
            f"{path}: {raw.split(';')[0]} of more than 8 bits in {image.format}; save "
            "it as grey of 16 bits"
        )
    else:
        return np.asarray(ImageOps.exif_transpose(image).convert("L"))
    shown = stretch(finite(path, values, "the image"))
    upright = Image.fromarray(255 - shown if inverted else shown)
    if orientation := image.getexif().get(ORIENTATION):
        upright.getexif()[ORIENTATION] = orientation
    return np.asarray(ImageOps.exif_transpose(upright))


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """How the file holds its samples, by Pillow's name: ``L``, ``RGB;16B``, ..."""
    tiles = getattr(image, "tile", None) or [(None, None, None, image.mode)]
    how = tiles[0][3]
    return str(how[0] if isinstance(how, tuple) else how)


def _deep(path: Path, image: ImageFile.ImageFile, raw: str) -> Num[np.ndarray, "h w"]:
    """Samples of 16 bits of a PNG in colour or with alpha, which Pillow cuts to 8.

    Pillow keeps the high bytes. The same decoder gives the low ones by another name,
    and grey with alpha (two samples of 16 bits) is read as four of 8.
    """
    tile = image.tile[0]
    if raw == "LA;16B":
        image.tile = [tile._replace(args="RGBA")]
        both = np.asarray(image).astype(np.uint16)
        return both[..., 0] * 256 + both[..., 1]
    high = np.asarray(image)[..., :3].astype(np.uint16)
    with Image.open(path, formats=FORMATS) as again:
        again.tile = [tile._replace(args=f"{raw[:-1]}L")]
        low = np.asarray(again)[..., :3]
    return luminance(high * 256 + low)


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
        DataError: If all pixels are equal: there is nothing to see.
    """
    if image.min() == image.max():
        raise DataError("blank image (all pixels are equal)")
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
