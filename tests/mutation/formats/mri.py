"""The formats of MRI: volumes, k-space, and the challenge's tree."""

from pathlib import Path

import h5py
import nibabel
import numpy as np
import pydicom
import scipy.io
from pydicom.uid import ExplicitVRLittleEndian

from medjax.data import cfl, fastmri_h5, ismrmrd, mat73, nifti
from medjax.data.dicom_series import read_series as read_images_of
from medjax.mri.cmrxrecon.layout import SeriesFiles
from medjax.mri.cmrxrecon.reader import read_series
from medjax.mri.image_series import read_images
from medjax.mri.kspace_files import read_kspace, read_maps, read_mask
from tests.mutation import inside
from tests.mutation import mutators as m
from tests.mutation.formats import Format

HDF5 = (*m.BYTES, *(inside.in_hdf5,) * 10)


def kspace(*shape: int) -> np.ndarray:
    """Complex noise in single precision."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def _build_nifti(folder: Path) -> None:
    values = np.arange(60, dtype=np.float32).reshape(5, 4, 3)
    nifti.write(folder / "image.nii", values, affine=np.diag([2.0, 2.0, 8.0, 1.0]))
    nifti.write(folder / "packed.nii.gz", values, affine=np.eye(4))
    image = nibabel.Nifti1Image((values % 4).astype(np.int16), np.eye(4))
    image.header.set_slope_inter(1.0, 0.0)
    image.to_filename(folder / "labels.nii")


def _build_matlab(folder: Path) -> None:
    arrays = {
        "kspace_full": kspace(2, 2, 3, 8, 6),
        "mask": np.arange(48).reshape(8, 6) % 2 == 0,
    }
    mat73.write(folder / "both.mat", arrays)
    mat73.write(folder / "one.mat", {"kspace": kspace(2, 8, 6)})
    with h5py.File(folder / "packed.mat", "w", userblock_size=512) as file:
        raw = np.zeros((3, 8, 6), [("real", "f8"), ("imag", "f8")])
        raw["real"] = 1.0
        file.create_dataset("kspace", data=raw, chunks=(1, 8, 6), compression="gzip")


def _build_matlab5(folder: Path) -> None:
    for packed in (False, True):
        scipy.io.savemat(
            folder / f"packed_{packed}.mat",
            {"kspace": kspace(2, 8, 6)},
            do_compression=packed,
        )
        # The first 116 bytes say when it was made: damage would depend on the day.
        with (folder / f"packed_{packed}.mat").open("r+b") as file:
            file.write(b"MATLAB 5.0 MAT-file".ljust(116))


HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<trajectory>cartesian</trajectory>
<encodedSpace><matrixSize><x>8</x><y>6</y><z>1</z></matrixSize>
<fieldOfView_mm><x>400</x><y>300</y><z>8</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>4</x><y>6</y><z>1</z></matrixSize>
<fieldOfView_mm><x>200</x><y>300</y><z>8</z></fieldOfView_mm></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>5</maximum>
<center>3</center></kspace_encoding_step_1></encodingLimits>
</encoding></ismrmrdHeader>"""


def _build_fastmri(folder: Path) -> None:
    for name, coils in (("multi.h5", 3), ("single.h5", 0)):
        with h5py.File(folder / name, "w") as file:
            file["kspace"] = kspace(2, *[coils] * bool(coils), 8, 6)
            file["ismrmrd_header"] = HEADER
            reference = "reconstruction_rss" if coils else "reconstruction_esc"
            file[reference] = np.arange(48, dtype="f4").reshape(2, 6, 4)
            file["mask"] = np.arange(6) % 2 == 0
            file.attrs["acquisition"] = "CORPD_FBK"
            if coils:
                file.attrs["max"] = 47.0


COUNTERS = (
    *("kspace_encode_step_1", "kspace_encode_step_2", "average", "slice"),
    *("contrast", "phase", "repetition", "set", "segment"),
)
IDX = np.dtype([(name, "<u2") for name in COUNTERS] + [("user", "<u2", (8,))])
HEAD = np.dtype(
    [("version", "<u2"), ("flags", "<u8"), ("measurement_uid", "<u4")]
    + [("scan_counter", "<u4"), ("acquisition_time_stamp", "<u4")]
    + [("physiology_time_stamp", "<u4", (3,)), ("number_of_samples", "<u2")]
    + [("available_channels", "<u2"), ("active_channels", "<u2")]
    + [("channel_mask", "<u8", (16,)), ("discard_pre", "<u2"), ("discard_post", "<u2")]
    + [("center_sample", "<u2"), ("encoding_space_ref", "<u2")]
    + [("trajectory_dimensions", "<u2"), ("sample_time_us", "<f4")]
    + [(name, "<f4", (3,)) for name in ("position", "read_dir", "phase_dir")]
    + [(name, "<f4", (3,)) for name in ("slice_dir", "patient_table_position")]
    + [("idx", IDX), ("user_int", "<i4", (8,)), ("user_float", "<f4", (8,))]
)
FLOATS = h5py.vlen_dtype(np.dtype("<f4"))
ACQUISITION = np.dtype([("head", HEAD), ("traj", FLOATS), ("data", FLOATS)])


def _build_ismrmrd(folder: Path) -> None:
    rows = np.zeros(13, ACQUISITION)
    for i, row in enumerate(rows):
        head = row["head"]
        head["number_of_samples"], head["active_channels"] = 8, 2
        head["center_sample"] = 4
        head["idx"]["kspace_encode_step_1"] = (i - 1) % 6
        head["idx"]["slice"] = (i - 1) // 6 % 2
        head["flags"] = (1 << 18) * (i == 0)  # noise
        row["data"] = kspace(13, 2, 8)[i].ravel().view(np.float32)
        row["traj"] = np.zeros(0, np.float32)
    for name, how in (("whole.h5", {}), ("chunked.h5", {"chunks": (5,)})):
        with h5py.File(folder / name, "w") as file:
            file.create_dataset("dataset/data", data=rows, **how)
            file.create_dataset("dataset/xml", data=[HEADER.encode()])


def _build_arrays(folder: Path) -> None:
    cfl.write(folder / "bart", kspace(8, 6, 1, 3))
    np.save(folder / "array.npy", kspace(3, 8, 6))
    np.save(folder / "mask.npy", np.arange(48).reshape(8, 6) % 2 == 0)


def _build_cmrxrecon(folder: Path) -> None:
    mat73.write(folder / "T1map.mat", {"kspace_full": kspace(9, 2, 2, 8, 6)})
    mat73.write(folder / "T1map_mask.mat", {"mask": np.ones((8, 6))})
    rows = [f"frame{i}," + ",".join([str(100.0 + 80 * i)] * 2) for i in range(9)]
    (folder / "T1map.csv").write_text("\n".join(["label,slice1,slice2", *rows]) + "\n")
    labels = np.arange(96, dtype=np.uint8).reshape(6, 8, 2) % 4
    nifti.write(folder / "T1map_label.nii.gz", labels, affine=np.eye(4))


def _series(folder: Path) -> object:
    series = read_series(
        SeriesFiles(
            patient="P001",
            name="T1map",
            kspace=folder / "T1map.mat",
            key="kspace_full",
            mask=folder / "T1map_mask.mat",
            mask_key="mask",
            times=folder / "T1map.csv",
            labels=folder / "T1map_label.nii.gz",
        )
    )
    return series


PATIENT = "Mustermann^Erika"


def _build_series(folder: Path) -> None:
    """Two echoes of two slices as a scanner sends them, and the same as npz."""
    place = folder / "scan"
    place.mkdir()
    signal = np.arange(2 * 2 * 8 * 6, dtype=np.uint16).reshape(2, 2, 8, 6)
    for t, d in np.ndindex(2, 2):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.PatientName = PATIENT
        data.Rows, data.Columns = 8, 6
        data.SamplesPerPixel, data.PixelRepresentation = 1, 0
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PhotometricInterpretation = "MONOCHROME2"
        data.RescaleSlope, data.RescaleIntercept = "2", "1"
        data.EchoTime, data.InstanceNumber = str(10 + 30 * t), str(t)
        data.PixelSpacing, data.SliceThickness = [1.5, 2.0], "8"
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient = [0, 0, 8 * d]
        data.PixelData = signal[t, d].tobytes()
        data.save_as(place / f"{t}{d}.dcm")
    np.savez(place / "s.npz", signal=signal, echo_times=[10.0, 40.0])


def _every(pattern: str, read):
    """One reader on all files of a pattern; the intact ones among them are quick."""
    return lambda folder: [read(path) for path in sorted(folder.glob(pattern))]


FORMATS = {
    "nifti": Format(
        build=_build_nifti,
        reads={
            "read": _every("*.nii*", nifti.read),
            "read_labels": _every("labels.nii", nifti.read_labels),
        },
        damage={
            "*.nii": m.BYTES,
            "*.nii.gz": (*m.BYTES[:8], *(inside.in_gzip(*m.BYTES),) * 12),
        },
    ),
    "matlab": Format(
        build=_build_matlab,
        reads={
            "read": _every("both.mat", lambda path: mat73.read(path, "kspace_full")),
            "mask": _every("both.mat", lambda path: mat73.read(path, "mask", ndim=2)),
            "variables": _every("*.mat", mat73.variables),
            "one": _every("one.mat", mat73.read),
            "kspace": _every("[op]*.mat", read_kspace),
        },
        damage={"*.mat": HDF5},
    ),
    "matlab5": Format(
        build=_build_matlab5,
        reads={
            "read": _every("*.mat", mat73.read),
            "variables": _every("*.mat", mat73.variables),
            "maps": _every("*.mat", read_maps),
        },
        damage={"*.mat": m.BYTES},
    ),
    "fastmri": Format(
        build=_build_fastmri,
        reads={
            "count_slices": _every("*.h5", fastmri_h5.count_slices),
            "read_slice": _every("*.h5", lambda path: fastmri_h5.read_slice(path, 1)),
            "read_kspace": _every("*.h5", read_kspace),
        },
        damage={"*.h5": HDF5},
    ),
    "ismrmrd": Format(
        build=_build_ismrmrd,
        reads={
            "read": _every("*.h5", ismrmrd.read),
            "read_noise": _every("*.h5", ismrmrd.read_noise),
            "read_kspace": _every("*.h5", read_kspace),
        },
        damage={"*.h5": HDF5},
    ),
    "arrays": Format(
        build=_build_arrays,
        reads={
            "bart": lambda folder: read_kspace(folder / "bart"),
            "bart maps": lambda folder: read_maps(folder / "bart.cfl"),
            "cfl": lambda folder: cfl.read(folder / "bart.hdr"),
            "npy": lambda folder: read_kspace(folder / "array.npy"),
            "npy mask": lambda folder: read_mask(folder / "mask.npy"),
            "npy maps": lambda folder: read_maps(folder / "array.npy"),
        },
        damage={"*.cfl": m.BYTES, "*.hdr": m.TEXT, "*.npy": (*m.BYTES, *m.TEXT[:6])},
        also=("bart",),
    ),
    "series": Format(
        build=_build_series,
        reads={
            "dicom": lambda folder: read_images_of(sorted(folder.glob("scan/*.dcm"))),
            "npz": lambda folder: read_images([folder / "scan" / "s.npz"]),
        },
        damage={"scan/*.dcm": m.BYTES, "scan/*.npz": m.BYTES},
        also=("scan",),
        secret=PATIENT,
    ),
    "cmrxrecon": Format(
        build=_build_cmrxrecon,
        reads={"read_series": _series},
        damage={
            "*.mat": HDF5,
            "*.csv": m.TEXT,
            "*.nii.gz": (*m.BYTES[:8], *(inside.in_gzip(*m.BYTES),) * 12),
        },
        also=("T1map.mat",),
    ),
}
