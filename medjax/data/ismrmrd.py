"""ISMRMRD raw data (MRD): single readouts sorted into Cartesian k-space.

An ISMRMRD file is a list of readouts, each with a header that says where it belongs
(line, slice, phase, ...), and an XML description of the scan. Real XML is often not
schema-valid (``Cartesian`` with a capital, no ``reconSpace``), so it is searched for
what is there instead of being validated, and sizes that it lacks come from the data.

Specification: github.com/ismrmrd/ismrmrd, ``doc/mrd_raw_data.md``. Field names are read
by name, so both the packed (340 byte) and the aligned (352 byte) header open.
"""

import dataclasses
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Bool, Complex

AXES = (
    *("average", "repetition", "contrast", "phase", "set", "slice"),
    *("coil", "kz", "ky", "kx"),
)
"""Names of the axes of :attr:`Scan.kspace`."""

_COUNTERS = AXES[:6]

# Bit numbers of the header's flags, counted from 1.
_REVERSE = 22
_NOT_IMAGE = {
    19: "noise",
    20: "parallel calibration",
    23: "navigation",
    24: "phase correction",
    26: "high-pass feedback",
    27: "dummy",
    28: "real-time feedback",
    29: "surface coil correction",
}
_CALIBRATION_AND_IMAGING = 21


@dataclasses.dataclass(frozen=True)
class Scan:
    """A sorted Cartesian scan.

    Attributes:
        kspace: complex64, axes as :data:`AXES`; unmeasured samples are zero; a line
            measured twice is averaged.
        sampled: which readouts were measured, ``[..., kz, ky]`` without coil and kx.
        encoded: encoded matrix (kz, ky, kx) before oversampling was removed.
        recon: matrix (z, y, x) to crop the image to; ``None`` if the header lacks it.
        field_of_view: encoded field of view (z, y, x) in mm; ``None`` if lacking.
        trajectory: the header's word, in lower case; ``"cartesian"`` if lacking.
        skipped: readouts left out because they are not of the image (noise, ...).
    """

    kspace: Complex[np.ndarray, "a r n p s d c kz ky kx"]
    sampled: Bool[np.ndarray, "a r n p s d kz ky"]
    encoded: tuple[int, int, int]
    recon: tuple[int, int, int] | None
    field_of_view: tuple[float, float, float] | None
    trajectory: str
    skipped: int


def read(
    path: str | Path, *, dataset: str = "dataset", remove_oversampling: bool = True
) -> Scan:
    """Read and sort a Cartesian ISMRMRD file.

    Args:
        path: an HDF5 file.
        dataset: the group that holds ``xml`` and ``data``.
        remove_oversampling: crop the readout's field of view to ``reconSpace`` where
            the encoded matrix is wider.

    Returns:
        The scan. Partial Fourier lines and asymmetric echoes are put where the centre
        of k-space ends up at ``n // 2``.

    Raises:
        FileNotFoundError: where there is no such file.
        KeyError: where the group or its members are missing.
        ValueError: where the file is truncated, not Cartesian, or holds no image data.
    """
    path = Path(path)
    xml, readouts = _load(path, dataset)
    where = f"{path}: {dataset}"
    header = _parse(xml, f"{where}/xml")
    trajectory = _text(header, "trajectory", "cartesian").lower()
    if trajectory != "cartesian":
        raise ValueError(f"{where}: trajectory '{trajectory}', expected cartesian")

    head = readouts["head"]
    image = _is_image(head["flags"])
    if not image.any():
        raise ValueError(f"{where}/data: none of {head.size} readouts is of the image")
    head, samples = head[image], readouts["data"][image]
    idx = head["idx"]
    space = header.find(".//encoding/encodedSpace") if header is not None else None
    kx = _size(space, "x", int(head["number_of_samples"].max()))
    ky = _size(space, "y", int(idx["kspace_encode_step_1"].max()) + 1)
    kz = _size(space, "z", int(idx["kspace_encode_step_2"].max()) + 1)
    line = idx["kspace_encode_step_1"].astype(int) + _shift(header, 1, ky)
    part = idx["kspace_encode_step_2"].astype(int) + _shift(header, 2, kz)
    outside = (line < 0) | (line >= ky) | (part < 0) | (part >= kz)
    if outside.any():
        raise ValueError(
            f"{where}/data: {outside.sum()} readouts lie outside the encoded matrix "
            f"(kz {kz}, ky {ky}): lines {line.min()}..{line.max()}"
        )

    counters = [idx[name].astype(int) for name in _COUNTERS]
    sizes = [int(counter.max()) + 1 for counter in counters]
    coils = int(head["active_channels"].max())
    kspace = np.zeros((*sizes, coils, kz, ky, kx), np.complex64)
    count = np.zeros((*sizes, kz, ky), np.int32)
    for i, raw in enumerate(samples):
        readout = _readout(raw, head[i], f"{where}/data[{i}]")
        start = kx // 2 - int(head["center_sample"][i])
        if start < 0 or start + readout.shape[1] > kx:
            start = 0  # centre_sample is often left at 0: then the echo is complete
        place = tuple(int(counter[i]) for counter in counters)
        span = slice(start, start + readout.shape[1])
        kspace[(*place, slice(readout.shape[0]), part[i], line[i], span)] += readout
        count[(*place, part[i], line[i])] += 1
    kspace /= np.maximum(count, 1)[..., None, :, :, None]

    recon = _matrix(header, "reconSpace", "matrixSize")
    if remove_oversampling and recon is not None and recon[2] < kx:
        kspace = _crop_readout(kspace, recon[2])
    return Scan(
        kspace=kspace,
        sampled=count > 0,
        encoded=(kz, ky, kx),
        recon=None if recon is None else (int(recon[0]), int(recon[1]), int(recon[2])),
        field_of_view=_matrix(header, "encodedSpace", "fieldOfView_mm"),
        trajectory=trajectory,
        skipped=int((~image).sum()),
    )


def _load(path: Path, dataset: str) -> tuple[bytes | str, np.ndarray]:
    """The XML and all readouts; the file is closed again."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    h5py = _h5py()
    try:
        with h5py.File(path, "r") as file:
            for key in (dataset, f"{dataset}/xml", f"{dataset}/data"):
                if key not in file:
                    raise KeyError(f"{path}: no '{key}', only {sorted(file)}")
            readouts = file[f"{dataset}/data"][:]
            xml = np.ravel(file[f"{dataset}/xml"][()])
    except OSError as error:
        raise ValueError(f"{path}: not an intact HDF5 file: {error}") from error
    names = readouts.dtype.names or ()
    if not {"head", "data"} <= set(names):
        raise ValueError(f"{path}: {dataset}/data has fields {names}, not ISMRMRD's")
    return (xml[0] if xml.size else ""), readouts


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "reading ISMRMRD needs h5py: pip install 'medjax[medical]'"
        ) from error
    return h5py


def _parse(xml: bytes | str, where: str) -> ElementTree.Element | None:
    """The header's root without namespaces; ``None`` for an empty header."""
    text = xml.decode("utf-8", "replace") if isinstance(xml, bytes) else str(xml)
    text = text.strip().rstrip("\0")
    if not text:
        return None
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"{where} is not XML: {error}") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _text(header: ElementTree.Element | None, name: str, default: str) -> str:
    found = header.find(f".//encoding/{name}") if header is not None else None
    return default if found is None or not found.text else found.text.strip()


def _size(space: ElementTree.Element | None, axis: str, measured: int) -> int:
    """An encoded size, never smaller than what was measured."""
    found = space.find(f"matrixSize/{axis}") if space is not None else None
    stated = int(found.text) if found is not None and found.text else 0
    return max(stated, measured)


def _matrix(
    header: ElementTree.Element | None, space: str, what: str
) -> tuple[float, float, float] | None:
    found = header.find(f".//encoding/{space}/{what}") if header is not None else None
    if found is None:
        return None
    z, y, x = (float(found.findtext(axis) or 0) for axis in "zyx")
    return z, y, x


def _shift(header: ElementTree.Element | None, step: int, size: int) -> int:
    """Partial Fourier: how far lines move so that the centre is at ``size // 2``."""
    if header is None or size == 1:
        return 0
    limits = header.find(f".//encodingLimits/kspace_encoding_step_{step}/center")
    return 0 if limits is None or not limits.text else size // 2 - int(limits.text)


def _is_image(flags: np.ndarray) -> np.ndarray:
    def bit(number: int) -> np.ndarray:
        return (flags >> np.uint64(number - 1)) & np.uint64(1) > 0

    other = np.zeros(flags.shape, bool)
    for number in _NOT_IMAGE:
        other |= bit(number)
    return ~other | bit(_CALIBRATION_AND_IMAGING)


def _readout(raw: Any, head: np.void, where: str) -> np.ndarray:
    """One readout as ``[coil, sample]``, reversed where it was played backwards."""
    coils, samples = int(head["active_channels"]), int(head["number_of_samples"])
    if np.size(raw) != 2 * coils * samples:
        raise ValueError(
            f"{where} has {np.size(raw)} numbers, expected 2 x {coils} coils x "
            f"{samples} samples"
        )
    values = np.asarray(raw, np.float32).view(np.complex64).reshape(coils, samples)
    backwards = (int(head["flags"]) >> (_REVERSE - 1)) & 1
    return values[:, ::-1] if backwards else values


def _crop_readout(kspace: np.ndarray, width: float) -> np.ndarray:
    kx, kept = kspace.shape[-1], int(width)
    image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kspace, -1), norm="ortho"), -1)
    start = kx // 2 - kept // 2
    image = image[..., start : start + kept]
    kspace = np.fft.fft(np.fft.ifftshift(image, -1), norm="ortho")
    return np.fft.fftshift(kspace, -1).astype(np.complex64)
