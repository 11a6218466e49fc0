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
"""

import dataclasses
from pathlib import Path
from typing import Literal

Edition = Literal[2023, 2024]
EDITIONS: tuple[Edition, ...] = (2023, 2024)

_FOLDERS = {
    "t1map": "Mapping",
    "t2map": "Mapping",
    "cine": "Cine",
    "aorta": "Aorta",
    "tagging": "Tagging",
    "flow2d": "Flow2d",
    "blackblood": "BlackBlood",
}


@dataclasses.dataclass(frozen=True)
class SeriesFiles:
    """The files of one series of one patient; optional ones are ``None`` if absent.

    Attributes:
        patient: e.g. ``"P001"``.
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
        edition: 2023 or 2024.
        coils: multi-coil, or 2023's emulated single-coil data.
        subset: ``TrainingSet``, ``ValidationSet`` or ``TestSet``.
        sampling: ``"full"``; the acceleration in 2023 (``"4"``, ``"8"``, ``"10"``); the
            pattern in 2024 (``"Uniform4"``, ``"ktRadial8"``).

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
