"""Where the challenge keeps its files, by edition.

2023::

    {MultiCoil,SingleCoil}/{Cine,Mapping}/{TrainingSet,...}/
        {FullSample,AccFactor04,AccFactor08,AccFactor10}/P001/
            T1map.mat  T1map_mask.mat  T1map.csv  cine_sax.mat ...
    SingleCoil/{Cine,Mapping}/TrainingSet/SegmentROI/P001/T1map_label.nii.gz

2024 (multi-coil only; masks in folders of their own, pattern in the file name)::

    MultiCoil/{Cine,Mapping,Aorta,Tagging,...}/{TrainingSet,ValidationSet}/
        FullSample/P001/T1map.mat
        Mask_Task1/P001/T1map_mask_Uniform4.mat
        UnderSample_Task1/P001/T1map_kus_Uniform4.mat

2025 (several centres and scanners, whose patients are numbered each for itself)::

    MultiCoil/{Cine,Mapping,LGE,...}/
        TrainingSet/FullSample/Center001/UIH_30T_umr780/P001/T1map.mat
        TrainingSet/Mask_TaskAll/Center001/UIH_30T_umr780/P001/T1map_mask_Uniform8.mat
        ValidationSet/UnderSample_TaskR1/Center006/Siemens_30T_Prisma/P007/
            T1map_kus_ktRadial8.mat

The layout of 2025 is that of published listings and of scripts that read it; nobody has
run this on the real tree. Not verified: where the masks of the validation set lie (any
folder ``Mask_Task*`` is searched), whether full k-space is called ``kspace`` or
``kspace_full`` everywhere (the first file decides), and times, which no listing shows:
nominal ones are used, with a warning.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from medjax.data import mat73

Edition = Literal[2023, 2024, 2025]
EDITIONS: tuple[Edition, ...] = (2023, 2024, 2025)

_FOLDERS = {
    "t1map": "Mapping",
    "t2map": "Mapping",
    "cine": "Cine",
    "aorta": "Aorta",
    "tagging": "Tagging",
    "flow2d": "Flow2d",
    "blackblood": "BlackBlood",
    "t2smap": "Mapping",
    "t1rho": "T1rho",
    "t1w": "T1w",
    "t2w": "T2w",
    "lge": "LGE",
    "perfusion": "Perfusion",
}


@dataclasses.dataclass(frozen=True)
class SeriesFiles:
    """The files of one series of one patient; optional ones are ``None`` if absent.

    Attributes:
        patient: e.g. ``"P001"``, in 2025 ``"Center001/UIH_30T_umr780/P001"``.
        name: e.g. ``"T1map"``, ``"cine_sax"``.
        kspace: the ``.mat`` file of k-space.
        key: its variable.
        mask: the ``.mat`` file of the sampling mask.
        mask_key: its variable.
        times: the ``.csv`` of inversion or echo times.
        labels: the ``.nii.gz`` of the segmentation.
    """

    patient: str
    name: str
    kspace: Path
    key: str
    mask: Path | None
    mask_key: str
    times: Path | None
    labels: Path | None


def find(
    root: str | Path,
    *,
    name: str,
    edition: Edition = 2023,
    coils: Literal["MultiCoil", "SingleCoil"] = "MultiCoil",
    subset: str = "TrainingSet",
    sampling: str = "full",
) -> tuple[SeriesFiles, ...]:
    """All patients' files of one kind of series, sorted by patient.

    Args:
        root: the folder that holds ``MultiCoil`` and ``SingleCoil``.
        name: ``T1map``, ``T2map``, ``cine_sax``, ``cine_lax``, ``aorta_sag``, ...
        edition: 2023, 2024 or 2025.
        coils: multi-coil, or 2023's emulated single-coil data.
        subset: ``TrainingSet``, ``ValidationSet`` or ``TestSet``.
        sampling: ``"full"``; the acceleration in 2023 (``"4"``, ``"8"``, ``"10"``); the
            pattern since 2024 (``"Uniform4"``, ``"ktRadial8"``).

    Returns:
        One entry per patient that has such a series.

    Raises:
        ValueError: for an unknown series, edition or sampling.
        FileNotFoundError: where the folder is missing or holds no such series; the
            message names the place looked at.
    """
    modality = _FOLDERS.get(name.lower().split("_")[0])
    if modality is None:
        raise ValueError(f"name='{name}' is none of {sorted(_FOLDERS)}")
    if edition not in EDITIONS:
        raise ValueError(f"edition={edition} is none of {EDITIONS}")
    top = Path(root) / coils / modality / subset
    if edition == 2025:
        return _find_2025(top, name, coils, sampling)
    find_in = _find_2023 if edition == 2023 else _find_2024
    folder, file, key = find_in(name, coils, sampling)
    if not (top / folder).is_dir():
        raise FileNotFoundError(
            f"{top / folder}: no such folder of CMRxRecon {edition}"
        )
    found = []
    for patient in sorted(p.name for p in (top / folder).iterdir() if p.is_dir()):
        kspace = top / folder / patient / file
        if not kspace.is_file():
            continue
        if edition == 2023:
            mask = kspace.with_name(f"{name}_mask.mat")
            mask_key = f"mask{int(sampling):02d}" if sampling != "full" else "mask"
        else:
            task = "Mask_Task2" if sampling.startswith("kt") else "Mask_Task1"
            mask = top / task / patient / f"{name}_mask_{sampling}.mat"
            mask_key = "mask"
        roi = Path(root) / "SingleCoil" / modality / subset / "SegmentROI" / patient
        labels = roi / f"{name}_label.nii.gz"
        times = [top / f / patient / f"{name}.csv" for f in (folder, "FullSample")]
        found.append(
            SeriesFiles(
                patient=patient,
                name=name,
                kspace=kspace,
                key=key,
                mask=mask if mask.is_file() else None,
                mask_key=mask_key,
                times=next((t for t in times if t.is_file()), None),
                labels=labels if labels.is_file() else None,
            )
        )
    if not found:
        raise FileNotFoundError(f"{top / folder}: no patient has {file}")
    return tuple(found)


def _find_2023(name: str, coils: str, sampling: str) -> tuple[str, str, str]:
    """Folder, file and variable of the 2023 edition."""
    single = "single_" if coils == "SingleCoil" else ""
    if sampling == "full":
        return "FullSample", f"{name}.mat", f"kspace_{single}full"
    if not sampling.isdigit():
        raise ValueError(f"sampling='{sampling}' is neither 'full' nor a number (2023)")
    factor = f"{int(sampling):02d}"
    return f"AccFactor{factor}", f"{name}.mat", f"kspace_{single}sub{factor}"


def _find_2024(name: str, coils: str, sampling: str) -> tuple[str, str, str]:
    """Folder, file and variable of the 2024 edition."""
    if coils != "MultiCoil":
        raise ValueError(f"coils='{coils}': the 2024 edition is MultiCoil only")
    if sampling == "full":
        return "FullSample", f"{name}.mat", "kspace_full"
    task = "2" if sampling.startswith("kt") else "1"
    return f"UnderSample_Task{task}", f"{name}_kus_{sampling}.mat", "kus"


def _find_2025(
    top: Path, name: str, coils: str, sampling: str
) -> tuple[SeriesFiles, ...]:
    """Files of all centres and scanners, by the same place in the folders beside."""
    if coils != "MultiCoil":
        raise ValueError(f"coils='{coils}': the 2025 edition is MultiCoil only")
    full = sampling == "full"
    kind = "FullSample" if full else "UnderSample_Task*"
    file = f"{name}.mat" if full else f"{name}_kus_{sampling}.mat"
    folders = sorted(p for p in top.glob(kind) if p.is_dir())
    if not folders:
        raise FileNotFoundError(f"{top / kind}: no such folder of CMRxRecon 2025")
    places: dict[Path, Path] = {}  # a patient may be in several tasks
    for folder in folders:
        for kspace in sorted(folder.glob(f"*/*/*/{file}")):
            places.setdefault(kspace.parent.relative_to(folder), kspace)
    if not places:
        raise FileNotFoundError(
            f"{top / kind}: no {file} in <centre>/<scanner>/<patient> below"
        )
    key = "kus"
    if full:
        stored = mat73.variables(next(iter(places.values())))
        key = next((k for k in ("kspace", "kspace_full") if k in stored), "kspace")
    found = []
    for place, kspace in sorted(places.items()):
        masks = sorted(top.glob(f"Mask_Task*/{place}/{name}_mask_{sampling}.mat"))
        times = kspace.with_name(f"{name}.csv")
        found.append(
            SeriesFiles(
                patient=place.as_posix(),
                name=name,
                kspace=kspace,
                key=key,
                mask=None if full or not masks else masks[0],
                mask_key="mask",
                times=times if times.is_file() else None,
                labels=None,
            )
        )
    return tuple(found)
