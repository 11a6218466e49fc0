"""The formats of radiographs and reports: images, DICOM, tables, archives, words."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

from medjax.data.images import read_image
from medjax.data.ledger import Ledger, OnError
from medjax.nn.bert import BERTS, BertConfig
from medjax.vlp.datasets import (
    CHEXPERT_FINDINGS,
    CheXpert,
    CovidX,
    MimicCxr,
    NihCxr14,
    ObjectCxr,
    OpenI,
    Reader,
    RsnaPneumonia,
    Table,
)
from medjax.vlp.tokens import load_tokenizer, train_tokenizer
from medjax.vlp.towers import TextTowerConfig, bert_config
from tests.mutation import inside
from tests.mutation import mutators as m
from tests.mutation.formats import Format

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
SECRET = "Zebra"
"""Stands in every report and patient's name; no message may hold it."""
LISTED = "on_error=skip"
"""What a fault of one row says: the row in place of the file, and the way on."""
HIDDEN = {"secret": SECRET, "also": (LISTED,)}


def _build_images(folder: Path) -> None:
    grey = Image.fromarray(RAMP)
    grey.save(folder / "grey.png")
    grey.convert("P").save(folder / "palette.png")
    Image.fromarray(RAMP.astype(np.uint16) * 200).save(folder / "deep.png")
    grey.convert("LA").save(folder / "alpha.png")
    grey.convert("RGB").save(folder / "colour.jpg")
    grey.save(folder / "progressive.jpg", progressive=True)
    grey.save(folder / "plain.tif")
    grey.save(folder / "packed.tif", compression="tiff_lzw")
    Image.fromarray(RAMP.astype(np.float32) / 7).save(folder / "float.tif")
    grey.save(folder / "grey.bmp")


def _dicom(path: Path, pixels: np.ndarray, syntax: str, **tags: object) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.PatientName, data.PatientID = f"{SECRET}^Jane", f"{SECRET}77"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit = data.BitsStored - 1
    data.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    if syntax == JPEGBaseline8Bit:
        packed = io.BytesIO()
        Image.fromarray(pixels).save(packed, "JPEG")
        data.PixelData = encapsulate([packed.getvalue()])
        data["PixelData"].is_undefined_length = True
    data.save_as(path, enforce_file_format=True)


def _build_dicom(folder: Path) -> None:
    deep = RAMP.astype(np.uint16) * 100
    window = {"WindowCenter": [9000, 40], "WindowWidth": [8000, 400]}
    rescale = {"RescaleSlope": "2", "RescaleIntercept": "-1024"}
    _dicom(folder / "window.dcm", deep, ExplicitVRLittleEndian, **window, **rescale)
    _dicom(folder / "padded.dcm", deep, ExplicitVRLittleEndian, PixelPaddingValue=0)
    _dicom(folder / "deflated.dcm", deep, DeflatedExplicitVRLittleEndian, **rescale)
    _dicom(folder / "jpeg.dcm", RAMP, JPEGBaseline8Bit)
    table = pydicom.Dataset()
    table.LUTDescriptor = [256, 0, 16]
    table.LUTData = np.arange(256, dtype="<u2")[::-1].tobytes()
    table["LUTData"].VR = "OW"
    _dicom(folder / "lut.dcm", RAMP, ExplicitVRLittleEndian, VOILUTSequence=[table])
    _dicom(folder / "packed.dcm", deep, ExplicitVRLittleEndian)
    data = pydicom.dcmread(folder / "packed.dcm")
    data.compress(RLELossless, generate_instance_uid=False)
    data.save_as(folder / "packed.dcm")


def _values(studies) -> list[object]:
    """The numbers of studies; NaN is a label that is not known."""
    labels = [v for s in studies for v in s.labels.values() if not np.isnan(v)]
    return [*labels, *(box for study in studies for box in study.boxes)]


def _read(make: Callable[[Path], Reader], on_error: OnError):
    def read(folder: Path) -> list[object]:
        return _values(make(folder).read(Ledger(on_error, log=lambda line: None)))

    return read


def _both(**readers: Callable[[Path], Reader]):
    """Each data set twice: stopped by the first fault, and listing them."""
    ways: tuple[OnError, ...] = ("raise", "skip")
    return {f"{k} {way}": _read(v, way) for k, v in readers.items() for way in ways}


def _build_tables(folder: Path) -> None:
    names = ("image", "text", "patient", "split", "view", "sick", "class")
    rows = [
        (f"{i}.png", f"FINDINGS: {SECRET} {i}. IMPRESSION: fine, {i}.", f"p{i // 2}")
        + (("train", "valid", "")[i % 3], "PA", str(i % 2), "ab"[i % 2])
        for i in range(8)
    ]
    for mark, name in ((",", "a.csv"), ("\t", "b.tsv")):
        lines = [names, *rows]
        quoted = [mark.join(f'"{cell}"' for cell in line) for line in lines]
        (folder / name).write_text("\n".join(quoted) + "\n")
    (folder / "c.csv.gz").write_bytes(
        gzip.compress((folder / "a.csv").read_bytes(), mtime=0)
    )
    lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    (folder / "d.jsonl").write_text("\n".join(lines) + "\n")
    for i in range(8):
        (folder / f"{i}.png").write_bytes(b"")


def _table(name: str) -> Callable[[Path], Reader]:
    return lambda folder: Table(
        folder / name,
        patient="patient",
        split="split",
        view="view",
        labels=("sick",),
        classes="class",
    )


def _openi_xml(i: int) -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?><eCitation>'
        f'<AbstractText Label="FINDINGS">{SECRET} lungs {i}.</AbstractText>'
        '<AbstractText Label="IMPRESSION">Normal chest.</AbstractText>'
        "<MeSH><major>normal</major><major>Cardiomegaly/mild</major></MeSH>"
        f'<parentImage id="CXR{i}_1_IM-0001-4001"/></eCitation>'
    )


def _build_openi(folder: Path) -> None:
    for name in ("archive", "folder", "csv", "images"):
        (folder / name).mkdir()
    (folder / "folder/ecgen-radiology").mkdir()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for i in range(1, 5):
            text = _openi_xml(i).encode()
            (folder / f"folder/ecgen-radiology/{i}.xml").write_bytes(text)
            (folder / f"images/CXR{i}_1_IM-0001-4001.png").write_bytes(b"")
            member = tarfile.TarInfo(f"ecgen-radiology/{i}.xml")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    (folder / "archive/NLMCXR_reports.tgz").write_bytes(
        gzip.compress(packed.getvalue(), mtime=0)
    )
    head = "uid,MeSH,Problems,image,indication,comparison,findings,impression\n"
    row = f"normal;Spine,normal,x,y,z,{SECRET} lungs.,Normal chest.\n"
    (folder / "csv/indiana_reports.csv").write_text(
        head + "".join(f"{i},{row}" for i in range(1, 5))
    )
    rows = "".join(f"{i},{i}_1_IM-0001-4001.dcm.png,Frontal\n" for i in range(1, 5))
    for name in ("archive", "folder", "csv"):
        (folder / name / "indiana_projections.csv").write_text(
            "uid,filename,projection\n" + rows
        )


def _build_trees(folder: Path) -> None:
    findings, blank = ",".join(CHEXPERT_FINDINGS), "1.0,-1.0,0.0" + "," * 11

    def write(name: str, text: str) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        packed = path.suffix == ".gz"
        path.write_bytes(gzip.compress(text.encode(), mtime=0) if packed else b"")
        if not packed:
            path.write_text(text)

    stem = "mimic/mimic-cxr-2.0.0-"
    write(
        f"{stem}metadata.csv.gz",
        "dicom_id,subject_id,study_id,ViewPosition\nd1,10000032,50000001,PA\n"
        "d2,10000032,50000002,AP\n",
    )
    write(
        f"{stem}split.csv.gz",
        "dicom_id,study_id,subject_id,split\nd1,50000001,10000032,train\n"
        "d2,50000002,10000032,validate\n",
    )
    write(
        f"{stem}chexpert.csv.gz",
        f"subject_id,study_id,{findings}\n10000032,50000001,{blank}\n",
    )
    for i in (1, 2):
        write(
            f"mimic/files/p10/p10000032/s5000000{i}.txt",
            f" FINDINGS:\n {SECRET} lungs.\n IMPRESSION:\n Normal chest.\n",
        )
    row = "CheXpert-v1.0-small/{0}/patient0000{1}/study1/view1_frontal.jpg,F,68,"
    for name in ("train", "valid"):
        text = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{findings}\n"
        for i in (1, 2):
            text += row.format(name, i) + f"Frontal,AP,{blank}\n"
        write(f"chexpert/CheXpert-v1.0-small/{name}.csv", text)
    write(
        "nih/Data_Entry_2017.csv",
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
        "00000001_000.png,Cardiomegaly|Effusion,0,1,057Y,M,PA,2682,2749,0.143,0.143,\n"
        "00000002_000.png,No Finding,0,2,057Y,M,PA,2682,2749,0.143,0.143,\n",
    )
    write("nih/train_val_list.txt", "00000001_000.png\n")
    write("nih/test_list.txt", "00000002_000.png\n")
    write(
        "rsna/stage_2_train_labels.csv",
        "patientId,x,y,width,height,Target\na,,,,,0\n"
        "b,264.0,152.0,213.0,379.0,1\nb,562.0,152.0,256.0,453.0,1\n",
    )
    write(
        "rsna/stage_2_detailed_class_info.csv",
        "patientId,class\na,No Lung Opacity / Not Normal\nb,Lung Opacity\n",
    )
    (folder / "rsna/stage_2_train_images").mkdir()
    for part in ("train", "dev"):
        write(
            f"object_cxr/{part}.csv",
            "image_name,annotation\n00001.jpg,0 8 10 28 40;1 40 10 60 30\n"
            "00002.jpg,\n00003.jpg,2 70 20 90 20 90 50 70 50\n",
        )
    rows = "101 ARDSSevere.png pneumonia cohen\n102 a b.png COVID-19 sirm\n"
    write("covidx/train_COVIDx9A.txt", rows)
    write("covidx/test_COVIDx9A.txt", "7 x.png normal rsna\n")


TEXTS = ["No pleural effusion.", "Small left effusion.", "The lungs are clear."]


def _build_words(folder: Path) -> None:
    train_tokenizer(TEXTS * 3, vocab_size=60).save(folder / "words")


def _build_vocabulary(folder: Path) -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "effusion", "##s"]
    (folder / "words").mkdir()
    (folder / "words/vocab.txt").write_text("\n".join(pieces) + "\n")
    _build_config(folder / "words")


def _build_config(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(BERTS["tiny"].to_dict(), indent=2))


def _encode(folder: Path) -> list[np.ndarray]:
    tokenizer = load_tokenizer(folder / "words")
    tokenizer.decode(tokenizer.encode([TEXTS[0]], 8)[0])
    return tokenizer.ids(TEXTS, 6)


FORMATS = {
    "images": Format(
        build=_build_images,
        reads={
            "read_image": lambda folder: [
                read_image(path) for path in sorted(folder.iterdir())
            ]
        },
        damage={
            "*.png": (*m.BYTES[:6], *(inside.in_png,) * 12),
            "*.[jtb]*": m.BYTES,
        },
    ),
    "dicom": Format(
        build=_build_dicom,
        reads={
            "read_image": lambda folder: [
                read_image(path) for path in sorted(folder.iterdir())
            ]
        },
        damage={"*.dcm": (*m.BYTES, *(m.flipped, m.extreme, m.blanked) * 3)},
        secret=SECRET,
    ),
    "tables": Format(
        build=_build_tables,
        reads=_both(
            csv=_table("a.csv"),
            tsv=_table("b.tsv"),
            gz=_table("c.csv.gz"),
            jsonl=_table("d.jsonl"),
        ),
        damage={
            "*.csv": m.TEXT,
            "*.tsv": m.TEXT,
            "*.gz": (*m.BYTES, *(inside.in_gzip(*m.TEXT),) * 6),
            "*.jsonl": m.JSONL,
        },
        **HIDDEN,
    ),
    "openi": Format(
        build=_build_openi,
        reads=_both(
            archive=lambda f: OpenI(f / "archive"),
            folder=lambda f: OpenI(f / "folder", images=f / "images"),
            csv=lambda f: OpenI(f / "csv", source="csv", images=f / "images"),
        ),
        damage={
            "*.tgz": (*m.BYTES, *(inside.in_tar(*m.XML),) * 20),
            "*.xml": m.XML,
            "*.csv": m.TEXT,
        },
        **HIDDEN,
    ),
    "trees": Format(
        build=_build_trees,
        reads=_both(
            mimic=lambda f: MimicCxr(f / "mimic"),
            chexpert=lambda f: CheXpert(f / "chexpert"),
            nih=lambda f: NihCxr14(f / "nih"),
            rsna=lambda f: RsnaPneumonia(f / "rsna"),
            object_cxr=lambda f: ObjectCxr(f / "object_cxr"),
            covidx=lambda f: CovidX(f / "covidx"),
        ),
        damage={
            "*.csv": m.TEXT,
            "*.gz": (*m.BYTES[:6], *(inside.in_gzip(*m.TEXT),) * 12),
            "*.txt": m.TEXT,
        },
        **HIDDEN,
    ),
    "words": Format(
        build=_build_words,
        reads={"encode": _encode},
        damage={"tokenizer.json": m.JSON, "*.json": m.JSON},
        also=("words",),
    ),
    "vocabulary": Format(
        build=_build_vocabulary,
        reads={"encode": _encode},
        damage={"*.txt": m.TEXT},
        also=("words",),
        share=0.3,
    ),
    "config": Format(
        build=_build_config,
        reads={
            "tower": lambda folder: bert_config(
                TextTowerConfig(checkpoint=str(folder), max_length=16)
            ),
            "json": lambda folder: BertConfig.from_json(folder / "config.json"),
        },
        damage={"config.json": m.JSON},
    ),
}
