"""DICOM images of one place at several times: a stack with times and geometry.

What a scanner leaves of a T1 or T2 mapping scan: one file per slice and inversion or
echo time. Numbers are modality values (RescaleSlope and RescaleIntercept applied), not
a window's. Files are sorted by what their tags say, not by their names; images of
another kind that lie among them (phase, finished maps) are left out and counted.
Messages name files and tags, never what a tag holds.
"""

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from medjax.data.boundary import DataError, finite, reading
from medjax.data.dicom import SHOWING_TAGS, is_dicom, number, settled_kind

WHAT = "DICOM image"
Contrast = Literal["t1", "t2"]
TIMES: dict[Contrast, str] = {"t1": "InversionTime", "t2": "EchoTime"}
"""The tag that tells the frames of a series apart, in ms."""
PLACE_TAGS = {
    "ImagePositionPatient": 3,
    "ImageOrientationPatient": 6,
    "PixelSpacing": 2,
}
"""Where an image lies, and of how many numbers each tag is."""
TAGS = [
    *SHOWING_TAGS,
    *TIMES.values(),
    *PLACE_TAGS,
    "SliceThickness",
    "SpacingBetweenSlices",
    "ImageType",
    "InstanceNumber",
]


@dataclasses.dataclass(frozen=True)
class ImageSeries:
    """A stack of images over time.

    Attributes:
        signal: float32 modality values; rows are ``y``.
        times: ms, one per frame, rising; None where files say nothing.
        contrast: what was asked for, else by the tag that varies; None where none does.
        affine: indices ``x y d`` to mm (right, anterior, superior), None if not known.
        left_out: images of another kind among the files.
    """

    signal: Float[np.ndarray, "t d y x"]
    times: Float[np.ndarray, " t"] | None
    contrast: Contrast | None
    affine: Float[np.ndarray, "4 4"] | None
    left_out: int


@dataclasses.dataclass(frozen=True)
class _Image:
    path: Path
    pixels: Float[np.ndarray, "y x"]
    times: dict[Contrast, float]
    kind: str
    instance: float
    place: dict[str, np.ndarray]
    thickness: float | None


def read_series(
    paths: Sequence[Path], *, contrast: Contrast | None = None
) -> ImageSeries:
    """Reads files of one series.

    Args:
        paths: Files, in any order. Those without times are frames in the order of
            their instance numbers, and of their names where these say nothing.
        contrast: What to take the times of; None takes the tag that varies.

    Raises:
        FileNotFoundError: For a missing file.
        DataError: For damaged files, images of several sizes or orientations, a place
            that lacks a time, or two tags that vary.
        ImportError: If pydicom is not installed.
    """
    images = [_read(path) for path in paths]
    kept = _of_one_kind(images)
    shapes = {one.pixels.shape for one in kept}
    if len(shapes) > 1:
        raise DataError(
            f"{kept[0].path.parent}: images of sizes {sorted(shapes)}, expected one"
        )
    contrast = contrast or _contrast(kept)
    timed = [one for one in kept if contrast is not None and contrast in one.times]
    if contrast is not None and 0 < len(timed) < len(kept):
        lacks = next(one.path for one in kept if contrast not in one.times)
        raise DataError(f"{lacks}: no {TIMES[contrast]}, others of its series have one")

    def time(one: _Image) -> float:
        return one.times[contrast] if contrast is not None and timed else 0.0

    slices = _by_place(kept)
    for stack in slices:
        stack.sort(key=lambda one: (time(one), one.instance, one.path.name))
    times = np.asarray([time(one) for one in slices[0]], np.float32)
    for stack in slices[1:]:
        if [time(one) for one in stack] != times.tolist():
            raise DataError(
                f"{stack[0].path}: its slice has {len(stack)} images whose times are "
                f"not those of the first slice ({len(times)} images)"
            )
    signal = np.stack([[one.pixels for one in stack] for stack in slices], axis=1)
    return ImageSeries(
        signal=signal,
        times=times if timed else None,
        contrast=contrast,
        affine=_affine(slices),
        left_out=len(images) - len(kept),
    )


def find_dicom(folder: Path) -> list[Path]:
    """All DICOM files in a folder and below, by name."""
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        with path.open("rb") as file:
            if is_dicom(path, file.read(132)):
                found.append(path)
    return found


def _read(path: Path) -> _Image:
    try:
        import pydicom
    except ImportError as error:
        raise ImportError("DICOM files need pydicom: medjax[medical]") from error
    warnings.filterwarnings("ignore", module=r"pydicom\b")
    # Values are decoded where they are asked for, so all of that is inside.
    with reading(path, WHAT, quote=False):
        return _decoded(path, pydicom.dcmread(path, specific_tags=TAGS, force=True))


def _decoded(path: Path, data: Any) -> _Image:
    if settled_kind(path, data) not in ("MONOCHROME1", "MONOCHROME2"):
        raise DataError(f"{path}: a coloured image, expected grey values to fit")
    pixels = np.asarray(data.pixel_array, np.float32)
    if "RescaleSlope" in data:
        pixels *= np.float32(number(path, data, "RescaleSlope"))
    if "RescaleIntercept" in data:
        pixels += np.float32(number(path, data, "RescaleIntercept"))
    finite(path, pixels, "the rescaled image")
    place = {}
    with reading(path, WHAT, key="place in the patient", quote=False):
        for tag, expected in PLACE_TAGS.items():
            if data.get(tag):
                values = np.asarray(data[tag].value, np.float64)
                if values.shape != (expected,):
                    raise DataError(
                        f"{path}: {tag} holds {values.size} numbers, "
                        f"expected {expected}"
                    )
                place[tag] = finite(path, values, tag)
    kinds = data.get("ImageType") or ()
    return _Image(
        path=path,
        pixels=pixels,
        times={
            name: time
            for name, tag in TIMES.items()
            if (time := _optional(path, data, tag)) is not None
        },
        kind=str(kinds[2]) if len(kinds) > 2 else "",
        instance=_optional(path, data, "InstanceNumber") or 0.0,
        place=place if len(place) == len(PLACE_TAGS) else {},
        thickness=_optional(path, data, "SpacingBetweenSlices")
        or _optional(path, data, "SliceThickness"),
    )


def _optional(path: Path, data: Any, tag: str) -> float | None:
    filled = tag in data and data[tag].value not in (None, "")
    return number(path, data, tag) if filled else None


def _of_one_kind(images: Sequence[_Image]) -> list[_Image]:
    """Magnitudes alone, where the files say which are; else all."""
    magnitudes = [one for one in images if one.kind.startswith("M")]
    return magnitudes or list(images)


def _contrast(images: Sequence[_Image]) -> Contrast | None:
    """The one whose time varies."""
    varying: list[Contrast] = [
        name for name in TIMES if len({one.times.get(name) for one in images}) > 1
    ]
    if len(varying) > 1:
        raise DataError(
            f"{images[0].path.parent}: InversionTime and EchoTime both vary: say which "
            "is to be fitted (contrast)"
        )
    return varying[0] if varying else None


def _by_place(images: Sequence[_Image]) -> list[list[_Image]]:
    """Stacks of one position each, in order along the normal of the slices."""
    if not all(one.place for one in images):
        return [list(images)]
    first = images[0].place["ImageOrientationPatient"]
    if any(
        not np.allclose(one.place["ImageOrientationPatient"], first, atol=1e-3)
        for one in images
    ):
        raise DataError(
            f"{images[0].path.parent}: images of several orientations, expected one"
        )
    normal = np.cross(first[:3], first[3:])
    stacks: dict[float, list[_Image]] = {}
    for one in images:
        along = round(float(one.place["ImagePositionPatient"] @ normal), 2)
        stacks.setdefault(along, []).append(one)
    return [stacks[along] for along in sorted(stacks)]


def _affine(slices: Sequence[Sequence[_Image]]) -> Float[np.ndarray, "4 4"] | None:
    """DICOM's place (left, posterior, superior) as NIfTI's."""
    one, last = slices[0][0], slices[-1][0]
    if not one.place:
        return None
    across, down = np.split(one.place["ImageOrientationPatient"], 2)
    row_mm, column_mm = one.place["PixelSpacing"]
    start = one.place["ImagePositionPatient"]
    step = np.cross(across, down) * (one.thickness or 1.0)
    if len(slices) > 1:
        step = (last.place["ImagePositionPatient"] - start) / (len(slices) - 1)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = across * column_mm, down * row_mm
    affine[:3, 2], affine[:3, 3] = step, start
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
