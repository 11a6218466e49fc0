"""ISMRMRD raw data (MRD): single readouts sorted into Cartesian k-space.

An ISMRMRD file is a list of readouts, each with a header that says where it belongs
(line, slice, phase, ...), and an XML description of the scan. Real XML is often not
schema-valid (``Cartesian`` with a capital, no ``reconSpace``), so it is searched for
what is there instead of being validated, and sizes that it lacks come from the data.

Calibration lines that belong to the image (``embedded`` or ``interleaved``) fill the
lines that imaging left out. Where the header does not say what they are, they belong to
it if they are as long as imaging's readouts and none of them repeats one of its lines;
those of a separate scan do repeat some.

Specification: github.com/ismrmrd/ismrmrd, ``doc/mrd_raw_data.md``. Field names are read
by name, so both the packed (340 byte) and the aligned (352 byte) header open.
"""

import dataclasses
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Bool, Complex, Float

from medjax.data import hdf5
from medjax.data.boundary import DataError, affordable, finite, reading
from medjax.data.heaps import check_heaps

WHAT = "ISMRMRD file"
AXES = (
    *("average", "repetition", "contrast", "phase", "set", "slice"),
    *("coil", "kz", "ky", "kx"),
)
"""Names of the axes of :attr:`Scan.kspace`."""

_COUNTERS = AXES[:6]

# Bit numbers of the header's flags, counted from 1.
_REVERSE = 22
_DISCARD = ("discard_pre", "discard_post")
_CALIBRATION = 20
_CALIBRATION_AND_IMAGING = 21
NOISE = 19
_NOT_IMAGE = {
    NOISE: "noise",
    23: "navigation",
    24: "phase correction",
    26: "high-pass feedback",
    27: "dummy",
    28: "real-time feedback",
    29: "surface coil correction",
}


@dataclasses.dataclass(frozen=True)
class Scan:
    """A sorted Cartesian scan.

    Attributes:
        kspace: complex64, axes as :data:`AXES`; unmeasured samples are zero; a line
            measured twice is averaged.
        sampled: which readouts were measured, ``[..., kz, ky]`` without coil and kx.
        encoded: encoded matrix (kz, ky, kx) before oversampling was removed.
        recon: matrix (z, y, x) to crop the image to: ``reconSpace``'s share of the
            encoded field of view, or its matrix where fields of view are lacking;
            ``None`` if the header lacks both.
        field_of_view: encoded field of view (z, y, x) in mm; ``None`` if lacking.
        trajectory: the header's word, in lower case; ``"cartesian"`` if lacking.
        skipped: readouts left out because they are not of the image (noise, ...).
        affine: steps in ``kx ky slice`` (``kz`` of a three-dimensional scan) away from
            the centre of the first slice to mm, 4x4, axes as NIfTI's (right, anterior,
            superior); sizes of voxels alone where readouts have no directions;
            ``None`` without a field of view.
        numbers: per counter of :data:`AXES` (average to slice), the file's numbers
            behind the indices of the axis: those that no readout has are left out.
    """

    kspace: Complex[np.ndarray, "a r n p s d c kz ky kx"]
    sampled: Bool[np.ndarray, "a r n p s d kz ky"]
    encoded: tuple[int, int, int]
    recon: tuple[int, int, int] | None
    field_of_view: tuple[float, float, float] | None
    trajectory: str
    skipped: int
    affine: Float[np.ndarray, "4 4"] | None
    numbers: dict[str, tuple[int, ...]]


def read(
    path: str | Path, *, dataset: str = "dataset", remove_oversampling: bool = True
) -> Scan:
    """Read and sort a Cartesian ISMRMRD file.

    Args:
        path: an HDF5 file.
        dataset: the group that holds ``xml`` and ``data``.
        remove_oversampling: crop the readout's field of view to ``reconSpace``'s where
            the encoded one is wider.

    Returns:
        The scan. Partial Fourier lines and asymmetric echoes are put where the centre
        of k-space ends up at ``n // 2``; samples to discard are left out.

    Raises:
        FileNotFoundError: where there is no such file.
        DataError: where the group or its members are missing, or the file is damaged,
            not Cartesian, holds no image data or values that are not finite.
    """
    path = Path(path)
    xml, readouts = _load(path, dataset)
    with reading(path, WHAT, key=f"{dataset}/xml"):
        header = _Header(xml)
    if header.trajectory != "cartesian":
        raise DataError(
            f"{path}: {dataset}: trajectory '{header.trajectory}', expected cartesian"
        )
    with reading(path, WHAT, key=f"{dataset}/data"):
        return _sort(path, dataset, header, readouts, remove_oversampling)


def read_noise(
    path: str | Path, *, dataset: str = "dataset"
) -> Complex[np.ndarray, "c n"]:
    """All samples of a file's noise readouts, coil by coil.

    Args:
        path: an HDF5 file.
        dataset: the group that holds ``xml`` and ``data``.

    Raises:
        FileNotFoundError: where there is no such file.
        DataError: where the file is damaged, or has no noise readouts.
    """
    path = Path(path)
    readouts = _load(path, dataset)[1]
    with reading(path, WHAT, key=f"{dataset}/data"):
        noise = _bit(readouts["head"]["flags"], NOISE)
        found = [
            _readout(row["data"], row["head"], f"{path}: {dataset}/data")[0]
            for row in readouts[noise]
        ]
        if not found:
            raise DataError(f"{path}: {dataset}/data has no noise readouts")
        samples = np.concatenate(found, axis=1)
        return finite(path, samples, "noise", ("coil", "sample"))


def _load(path: Path, dataset: str) -> tuple[bytes | str, np.ndarray]:
    """The XML and all readouts; the file is closed again."""
    with hdf5.opened(path, WHAT) as file:
        for key in (dataset, f"{dataset}/xml", f"{dataset}/data"):
            if key not in file:
                raise DataError(f"{path}: no '{key}', only {sorted(file)}")
        stored = file[f"{dataset}/data"]
        names = getattr(getattr(stored, "dtype", None), "names", None) or ()
        if not {"head", "data"} <= set(names) or len(stored.shape) != 1:
            raise DataError(f"{path}: {dataset}/data has fields {names}, not ISMRMRD's")
        check_heaps(path, file, values=(f"{dataset}/xml", f"{dataset}/data"))
        readouts = hdf5.values(path, stored, what=WHAT, fields=("head", "data"))
        xml = np.ravel(hdf5.values(path, file[f"{dataset}/xml"], what=WHAT))
    return (xml[0] if xml.size else ""), readouts


class _Header:
    """What the XML says; ``None`` or the default where it says nothing."""

    def __init__(self, xml: bytes | str) -> None:
        text = xml.decode("utf-8", "replace") if isinstance(xml, bytes) else str(xml)
        text = text.strip().rstrip("\0")
        self.root = ElementTree.fromstring(text) if text else None
        for element in self.root.iter() if self.root is not None else ():
            element.tag = element.tag.rpartition("}")[2]
        self.trajectory = self._text("encoding/trajectory", "cartesian").lower()
        self.calibration = self._text("calibrationMode", "").lower()
        self.encoded = self._numbers("encodedSpace/matrixSize")
        self.encoded_mm = self._numbers("encodedSpace/fieldOfView_mm")
        self.recon = self._numbers("reconSpace/matrixSize")
        self.recon_mm = self._numbers("reconSpace/fieldOfView_mm")

    def _text(self, where: str, default: str) -> str:
        found = self.root.findtext(f".//{where}") if self.root is not None else None
        return found.strip() if found else default

    def _numbers(self, where: str) -> tuple[float, float, float] | None:
        """z, y, x of an encoding; 0 where one is lacking or makes no sense."""
        if self.root is None or self.root.find(f".//encoding/{where}") is None:
            return None
        found = [float(self._text(f"encoding/{where}/{axis}", "0")) for axis in "zyx"]
        z, y, x = (n if 0 < n < np.inf else 0.0 for n in found)
        return z, y, x

    def matrix(self, measured: tuple[int, int, int]) -> tuple[int, int, int]:
        """The encoded matrix (kz, ky, kx), never smaller than what was measured."""
        stated = self.encoded or (0.0, 0.0, 0.0)
        kz, ky, kx = (max(int(n), m) for n, m in zip(stated, measured, strict=True))
        return kz, ky, kx

    def kept(self, matrix: tuple[int, int, int]) -> tuple[int, int, int] | None:
        """How much of the encoded image (z, y, x) ``reconSpace`` keeps.

        Its field of view decides: its matrix may be interpolated.
        """
        if self.recon is None:
            return None
        sizes = []
        wide, narrow = (f or (0.0,) * 3 for f in (self.encoded_mm, self.recon_mm))
        for n, mm, kept_mm, points in zip(
            matrix, wide, narrow, self.recon, strict=True
        ):
            share = min(kept_mm / mm, 1.0) if mm and kept_mm else None
            kept = points if share is None else max(round(n * share), 1)
            sizes.append(min(int(kept), n) if kept else n)
        z, y, x = sizes
        return z, y, x

    def shift(self, step: int, size: int) -> int:
        """Partial Fourier: how far lines move to have their centre at ``size // 2``."""
        limits = f"encodingLimits/kspace_encoding_step_{step}/center"
        centre = self._text(limits, "")
        return size // 2 - int(centre) if centre and size > 1 else 0


def _sort(
    path: Path,
    dataset: str,
    header: _Header,
    readouts: np.ndarray,
    remove_oversampling: bool,
) -> Scan:
    """Every readout of the image to its place."""
    where = f"{path}: {dataset}/data"
    image = _is_image(readouts["head"], header.calibration)
    if not image.any():
        raise DataError(f"{where}: none of {image.size} readouts is of the image")
    head, samples = readouts["head"][image], readouts["data"][image]
    idx = head["idx"]
    matrix = header.matrix(
        (
            int(idx["kspace_encode_step_2"].max()) + 1,
            int(idx["kspace_encode_step_1"].max()) + 1,
            int((head["number_of_samples"] - _discarded(head)).max()),
        )
    )
    kz, ky, kx = matrix
    line = idx["kspace_encode_step_1"].astype(int) + header.shift(1, ky)
    part = idx["kspace_encode_step_2"].astype(int) + header.shift(2, kz)
    outside = (line < 0) | (line >= ky) | (part < 0) | (part >= kz)
    if outside.any():
        raise DataError(
            f"{where}: {outside.sum()} readouts lie outside the encoded matrix "
            f"(kz {kz}, ky {ky}): lines {line.min()}..{line.max()}"
        )
    numbers, counters = {}, []
    for name in _COUNTERS:
        found, place = np.unique(idx[name], return_inverse=True)
        numbers[name] = tuple(int(n) for n in found)
        counters.append(place)
    sizes = [len(found) for found in numbers.values()]
    coils = int(head["active_channels"].max())
    shape = (*sizes, coils, kz, ky, kx)
    affordable(path, shape, np.complex64, f"{dataset}/data")
    kspace = np.zeros(shape, np.complex64)
    count = np.zeros((*sizes, kz, ky), np.int32)
    for i, raw in enumerate(samples):
        readout, centre = _readout(raw, head[i], f"{where}[{i}]")
        start = kx // 2 - centre
        if start < 0 or start + readout.shape[1] > kx:
            start = 0  # centre_sample is often left at 0: then the echo is complete
        place = tuple(int(counter[i]) for counter in counters)
        span = slice(start, start + readout.shape[1])
        kspace[(*place, slice(len(readout)), part[i], line[i], span)] += readout
        count[(*place, part[i], line[i])] += 1
    kspace /= np.maximum(count, 1)[..., None, :, :, None]
    finite(path, kspace, f"{dataset}/data", AXES)
    recon = header.kept(matrix)
    if remove_oversampling and recon is not None and recon[2] < kx:
        kspace = _crop_readout(kspace, recon[2])
    return Scan(
        kspace=kspace,
        sampled=count > 0,
        encoded=matrix,
        recon=recon,
        field_of_view=header.encoded_mm,
        trajectory=header.trajectory,
        skipped=int((~image).sum()),
        affine=_affine(header, matrix, head),
        numbers=numbers,
    )


def _affine(
    header: _Header, matrix: tuple[int, int, int], head: np.ndarray
) -> np.ndarray | None:
    """Voxels' sizes from the header, directions and places from the readouts (LPS)."""
    wide = header.encoded_mm
    if wide is None or not all(wide):
        return None
    z, y, x = (mm / n for mm, n in zip(wide, matrix, strict=True))
    affine = np.diag([x, y, z, 1.0])
    names = ("read_dir", "phase_dir", "slice_dir", "position")
    if not set(names) <= set(head.dtype.names or ()):
        return affine
    _, firsts = np.unique(head["idx"]["slice"], return_index=True)
    ends = head[firsts[[0, -1]]]
    directions = np.stack([ends[0][n] for n in names[:3]], axis=1).astype(np.float64)
    places = ends["position"].astype(np.float64)
    if not np.allclose(directions.T @ directions, np.eye(3), atol=1e-2):
        return affine
    if not np.isfinite(places).all():
        return affine
    affine[:3, :3] = directions * [x, y, z]
    if len(firsts) > 1 and matrix[0] == 1:
        step = (places[1] - places[0]) / (len(firsts) - 1)
        affine[:3, 2] = step if step.any() else affine[:3, 2]
    affine[:3, 3] = places[0]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _bit(flags: Any, number: int) -> Any:
    return (np.uint64(flags) >> np.uint64(number - 1)) & np.uint64(1) > 0


def _is_image(head: np.ndarray, calibration: str) -> np.ndarray:
    """Which readouts make the image: imaging's, and calibration's that belong to it."""
    flags = head["flags"]
    both = _bit(flags, _CALIBRATION_AND_IMAGING)
    other = np.zeros(flags.shape, bool)
    for number in _NOT_IMAGE:
        other |= _bit(flags, number)
    only_calibration = _bit(flags, _CALIBRATION) & ~both & ~other
    imaging = both | ~(other | only_calibration)
    if not only_calibration.any() or not imaging.any():
        return imaging
    names = ("kspace_encode_step_1", "kspace_encode_step_2", *_COUNTERS)
    place = np.stack([head["idx"][name] for name in names], axis=-1)
    taken = {row.tobytes() for row in place[imaging]}
    new = np.array([row.tobytes() not in taken for row in place])
    lengths = head["number_of_samples"]
    alike = np.isin(lengths, lengths[imaging])
    if calibration in ("embedded", "interleaved"):
        return imaging | (only_calibration & new & alike)
    belongs = not calibration and bool((new & alike)[only_calibration].all())
    return imaging | only_calibration if belongs else imaging


def _discarded(head: np.ndarray) -> Any:
    """Samples at both ends of readouts that are not of k-space."""
    return sum((_field(head, name) for name in _DISCARD), np.zeros(head.shape, int))


def _field(head: np.ndarray, name: str) -> Any:
    """A field that not every version of the header has."""
    there = name in (head.dtype.names or ())
    return head[name].astype(int) if there else np.zeros(head.shape, int)


def _readout(raw: Any, head: np.void, where: str) -> tuple[np.ndarray, int]:
    """One readout as ``[coil, sample]``, reversed where it was played backwards.

    And the sample where the centre of k-space is.
    """
    coils, samples = int(head["active_channels"]), int(head["number_of_samples"])
    if np.size(raw) != 2 * coils * samples:
        raise DataError(
            f"{where} has {np.size(raw)} numbers, expected 2 x {coils} coils x "
            f"{samples} samples"
        )
    values = np.asarray(raw, np.float32).view(np.complex64).reshape(coils, samples)
    total = int(_discarded(np.asarray(head)))
    if total >= samples:
        raise DataError(f"{where} discards {total} of its {samples} samples")
    first = int(_field(np.asarray(head), _DISCARD[0]))
    values = values[:, first : first + samples - total]
    centre = int(head["center_sample"]) - first
    return (values[:, ::-1] if _bit(head["flags"], _REVERSE) else values), centre


def _crop_readout(kspace: np.ndarray, kept: int) -> np.ndarray:
    kx = kspace.shape[-1]
    image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kspace, -1), norm="ortho"), -1)
    start = kx // 2 - kept // 2
    image = image[..., start : start + kept]
    kspace = np.fft.fft(np.fft.ifftshift(image, -1), norm="ortho")
    return np.fft.fftshift(kspace, -1).astype(np.complex64)
