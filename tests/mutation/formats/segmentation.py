"""The formats of segmentation: what describes the folders of its data sets."""

import json
from collections.abc import Callable
from pathlib import Path

from medjax.data.ledger import Ledger
from medjax.segmentation.datasets import Acdc, Mnms, NnunetRaw, Pairs, Reader
from tests.mutation import mutators as m
from tests.mutation.formats import Format

FIRST = {
    "name": "liver",
    "modality": {"0": "CT"},
    "labels": {"0": "background", "1": "liver", "2": "tumour"},
    "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
}
SECOND = {
    "channel_names": {"0": "T1", "1": "T2"},
    "labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
    "regions_class_order": [1, 2],
    "numTraining": 2,
    "file_ending": ".nii.gz",
}
FOLDS = [{"train": ["a"], "val": ["b"]}]


def _build(folder: Path) -> None:
    def write(name: str, text: str = "") -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("first/dataset.json", json.dumps(FIRST))
    write("second/dataset.json", json.dumps(SECOND))
    write("second/splits_final.json", json.dumps(FOLDS))
    for name in "ab":
        write(f"first/imagesTr/{name}.nii.gz")
        write(f"first/labelsTr/{name}.nii.gz")
        write(f"second/labelsTr/{name}.nii.gz")
        for channel in range(2):
            write(f"second/imagesTr/{name}_{channel:04d}.nii.gz")
    patient = "acdc/patient001/patient001"
    write("acdc/patient001/Info.cfg", "ED: 1\nES: 12\nGroup: DCM\nWeight: 73.0\n")
    for frame in ("01", "12"):
        write(f"{patient}_frame{frame}.nii.gz")
        write(f"{patient}_frame{frame}_gt.nii.gz")
    rows = "External code,Vendor,ED,ES\nA1,A,0,11\nB2,B,1,9\n"
    write("mnms/Information.csv", rows)
    write("mnms/A1/A1_sa.nii.gz")
    write("mnms/A1/A1_sa_gt.nii.gz")
    rows = "image,label,case,split,frame\na.nii,b.nii,1,train,\nc.nii,d.nii,2,test,3\n"
    write("pairs.csv", rows)


def _read(reader: Reader) -> list:
    found = reader.read(Ledger("skip", log=lambda line: None))
    return [found.labels.values, [case.frame or 0 for case in found.cases]]


def _of(make: Callable[[Path], Reader]) -> Callable[[Path], list]:
    return lambda folder: _read(make(folder))


FORMATS = {
    "volumes": Format(
        build=_build,
        reads={
            "first": _of(lambda f: NnunetRaw(f / "first")),
            "second": _of(lambda f: NnunetRaw(f / "second")),
            "acdc": _of(lambda f: Acdc(f / "acdc")),
            "mnms": _of(lambda f: Mnms(f / "mnms")),
            "table": _of(lambda f: Pairs(f / "pairs.csv")),
        },
        damage={"*.json": m.JSON, "*.cfg": m.TEXT, "*.csv": m.TEXT},
        # A description may name files that the folder does not have.
        also=("first", "second"),
    )
}
