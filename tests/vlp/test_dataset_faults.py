"""Every film with its own report, official layouts, labels that are none, no leak."""

import re
import tarfile

import numpy as np
import pytest

from medjax.data.record_writer import write_records
from medjax.data.records import Field
from medjax.vlp.corpus import Corpus
from medjax.vlp.datasets import (
    CHEXPERT_FINDINGS,
    CheXpert,
    CovidX,
    DataError,
    NihCxr14,
    OpenI,
    RsnaPneumonia,
    Table,
)
from medjax.vlp.datasets.openi import image_key
from medjax.vlp.pretraining import check_splits
from tests.vlp.test_datasets import HEADER, openi_xml, quiet, write

REPORTS = (1, 10, 100, 1000, 20)


def film(report, view):
    """The archive's names: reports 10, 100 and 1000 all have a film IM-0001."""
    twice = "1_" if report == 1 else ""
    return f"CXR{report}_{twice}IM-000{str(report)[0]}-{view}001"


@pytest.fixture
def openi(tmp_path):
    lines = ["uid,filename,projection"]
    for report in REPORTS:
        names = [film(report, view) for view in (1, 2)]
        text = openi_xml(f"Report {report}.", "", ["normal"], names)
        write(tmp_path / f"ecgen-radiology/{report}.xml", text)
        for name, side in zip(names, ("Frontal", "Lateral"), strict=True):
            write(tmp_path / f"images/{name}.png", "")
            table = name.removeprefix("CXR").replace("1_1_", "1_")
            lines.append(f"{report},{table}.dcm.png,{side}")
    write(tmp_path / "indiana_projections.csv", "\n".join(lines) + "\n")
    return tmp_path


def test_openi_films_keep_their_report_and_their_side(openi):
    studies = OpenI(openi, images=openi / "images").read(quiet())
    assert len(studies) == len(REPORTS)  # each report's frontal one
    for study in studies:
        assert study.image == openi / f"images/{film(int(study.patient), 1)}.png"
        assert study.findings == f"Report {study.patient}." and study.view == "Frontal"


def test_openi_names_that_mean_one_film_are_refused(openi):
    write(openi / "images/1_IM-0001-1001.dcm.png", "")
    with pytest.raises(DataError, match="CXR1_1_IM-0001-1001.png.*names of one image"):
        OpenI(openi, images=openi / "images").read(quiet())
    with pytest.raises(DataError, match="images: .*nowhere is not a folder"):
        OpenI(openi, images=openi / "nowhere").read(quiet())


def test_the_real_names_of_openi_are_unique(shared_data):
    root = shared_data / "cxr" / "openi"
    names = []
    with tarfile.open(root / "NLMCXR_reports.tgz") as archive:
        for member in archive:
            if file := archive.extractfile(member):
                names += re.findall(rb'<parentImage id="([^"]*)"', file.read())
    keys = {image_key(name.decode()) for name in names}
    table = (root / "indiana_projections.csv").read_text().splitlines()[1:]
    listed = {image_key(line.split(",")[1]) for line in table}
    assert len(names) == len(keys) == 7470
    assert len(table) == len(listed) == 7466 and listed <= keys


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "huge"])
def test_a_damaged_archive_of_reports_is_named(openi, damage):
    path = openi / "NLMCXR_reports.tgz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(openi / "ecgen-radiology", "ecgen-radiology")
        if damage == "huge":
            member = tarfile.TarInfo("a.xml")
            member.size = 2**50
            archive.fileobj.write(member.tobuf())
    raw = bytearray(path.read_bytes())
    if damage == "flip":
        raw[len(raw) // 2] ^= 0xFF
    cut = {"cut": raw[: len(raw) // 2], "text": b"no archive"}
    path.write_bytes(cut.get(damage, raw))
    with pytest.raises(DataError, match="NLMCXR_reports.tgz"):
        OpenI(openi).read(quiet())


def test_chexpert_in_its_official_batches(tmp_path):
    tables = tmp_path / "CheXpert-v1.0 batch 1 (validate & csv)"
    cells = ",".join([""] * len(CHEXPERT_FINDINGS))
    for split, count in (("train", 3), ("valid", 1)):
        rows = [
            f"CheXpert-v1.0/{split}/patient{i}/study1/view1_frontal.jpg,F,50,Frontal,AP,"
            + cells
            for i in range(count)
        ]
        write(tables / f"{split}.csv", "\n".join([HEADER, *rows]) + "\n")
    write(tables / "valid/patient0/study1/view1_frontal.jpg", "")
    for i, batch in ((0, "2 (train 1)"), (1, "2 (train 1)"), (2, "3 (train 2)")):
        folder = tmp_path / f"CheXpert-v1.0 batch {batch}/patient{i}"
        write(folder / "study1/view1_frontal.jpg", "")
    for root in (tmp_path, tables):
        studies = CheXpert(root).read(quiet())
        assert [s.split for s in studies] == ["", "", "", "test"]
        assert all(s.image is not None and s.image.is_file() for s in studies)
        assert len({s.image for s in studies}) == 4
    converted = CheXpert(tmp_path, suffix=".png").read(quiet())
    assert {s.image.suffix for s in converted if s.image} == {".png"}


@pytest.fixture
def plus(tmp_path):
    """CheXpert Plus: .jpg in the table, .png on disk, reports of several lines."""
    write(tmp_path / "PNG/train/p1/s1/v1.png", "")
    write(
        tmp_path / "df_chexpert_plus.csv",
        "path_to_image,deid_patient_id,section_findings,section_impression,Edema\n"
        'train/p1/s1/v1.jpg,p1,"Clear.\nNo effusion.",Normal.,-1.0\n',
    )
    return tmp_path / "df_chexpert_plus.csv"


def plus_table(path, **flags):
    return Table(
        path,
        image="PNG/{path_to_image}",
        text=None,
        findings="section_findings",
        impression="section_impression",
        patient="deid_patient_id",
        labels=("Edema",),
        **flags,
    )


def test_chexpert_plus_as_a_table(plus):
    (study,) = plus_table(plus, suffix=".png", uncertain="one").read(quiet())
    assert study.image == plus.parent / "PNG/train/p1/s1/v1.png"
    assert study.findings == "Clear.\nNo effusion." and study.labels == {"Edema": 1.0}
    with pytest.raises(DataError, match="no image .PNG/train/p1/s1/v1.jpg"):
        plus_table(plus, uncertain="one").read(quiet())
    with pytest.raises(DataError, match="suffix: expected a point"):
        plus_table(plus, suffix="png").read(quiet())


def test_uncertain_labels_are_mapped_by_a_flag_or_refused(plus):
    for flag, value in (("zero", 0.0), ("one", 1.0), ("ignore", np.nan)):
        (study,) = plus_table(plus, suffix=".png", uncertain=flag).read(quiet())
        np.testing.assert_array_equal(study.labels["Edema"], value)
    with pytest.raises(DataError, match="csv:2: label 'Edema' is -1.*--uncertain"):
        plus_table(plus, suffix=".png").read(quiet("skip"))
    plus.write_text(plus.read_text().replace("-1.0", "2"))
    with pytest.raises(DataError, match="label 'Edema' is 2"):
        plus_table(plus, suffix=".png", uncertain="one").read(quiet("skip"))


def test_a_bad_regular_expression_is_a_sentence(plus):
    with pytest.raises(DataError, match="patient_regex: 'P.0-9' is no regular exp"):
        plus_table(plus, suffix=".png", patient_regex="P[0-9").read(quiet())


def test_a_report_taken_for_a_path_is_not_repeated(plus):
    table = Table(plus, image="section_findings", text="section_impression")
    with pytest.raises(DataError, match="csv:2: no image") as caught:
        table.read(quiet())
    assert "effusion" not in str(caught.value)


def test_nih_blank_and_short_lines(tmp_path):
    head = "Image Index,Finding Labels,Follow-up #,Patient ID"
    rows = ["1_000.png,No Finding,0,1", "", "2_000.png,No Finding", "   "]
    write(tmp_path / "Data_Entry_2017.csv", "\n".join([head, *rows]) + "\n\n")
    write(tmp_path / "train_val_list.txt", "1_000.png\n\n")
    write(tmp_path / "test_list.txt", "")
    ledger = quiet("skip")
    (study,) = NihCxr14(tmp_path).read(ledger)
    assert study.id == "1_000"
    assert [s.id for s in ledger.skipped] == ["Data_Entry_2017.csv:4"]


def test_numbers_that_are_none_name_file_line_and_column(tmp_path):
    write(
        tmp_path / "stage_2_train_labels.csv",
        "patientId,x,y,width,height,Target\na,,,,,0\nb,1,SECRET,3,4,1\n",
    )
    info = tmp_path / "stage_2_detailed_class_info.csv"
    write(info, "patientId,class\n")
    (tmp_path / "stage_2_train_images").mkdir()
    expected = "stage_2_train_labels.csv:3: 'y': expected a number"
    with pytest.raises(DataError, match=expected) as caught:
        RsnaPneumonia(tmp_path).read(quiet())
    assert "SECRET" not in str(caught.value)


def test_lists_in_another_encoding(tmp_path):
    line = "7 blaß.png normal rsna\n"
    for name, encoding in (("train", "cp1252"), ("test", "utf-16")):
        (tmp_path / f"{name}_COVIDx9A.txt").write_bytes(line.encode(encoding))
    for study in CovidX(tmp_path).read(quiet()):
        assert study.image is not None and study.image.name == "blaß.png"


def test_labels_of_an_older_set_are_looked_at_before_anything_is_trained(tmp_path):
    fields = {"labels": Field("array", (2,), "float32")}
    with write_records(tmp_path / "set", name="old", fields=fields) as writer:
        for label in (0.0, 1.0, np.nan, -1.0, 2.0):
            writer.add("train", {"labels": np.array([0.0, label], np.float32)})
        for split in ("valid", "test"):
            writer.add(split, {"labels": np.array([1.0, np.nan], np.float32)})
        writer.metadata["finding_names"] = ["Edema", "Mass"]
    corpus = Corpus(tmp_path / "set", max_tokens=8)
    np.testing.assert_array_equal(corpus.labels("test"), [[1.0, np.nan]])
    with pytest.raises(DataError, match=r"2 labels in the train split.*\(Mass\)"):
        check_splits(corpus, {})
