"""Readers on small look-alike trees of every data set, whole and with faults."""

import gzip
import json
import tarfile

import numpy as np
import pytest

from medjax.vlp.datasets import (
    CHEXPERT_FINDINGS,
    CheXpert,
    CovidX,
    DataError,
    LabelPolicy,
    Ledger,
    MimicCxr,
    NihCxr14,
    OpenI,
    RsnaPneumonia,
    Study,
    Table,
    split_by_patient,
)


def quiet(on_error="raise"):
    return Ledger(on_error, log=lambda line: None)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)


REPORT = " FINDINGS:\n \n Clear lungs.\n \n IMPRESSION:\n \n Normal chest.\n"


@pytest.fixture(params=["2.0.0 csv.gz", "2.1.0 csv"])
def mimic(tmp_path, request):
    """Five images of three studies: a lateral, one without section, one in no split."""
    version, ext = request.param.split()
    root = tmp_path / f"physionet.org/files/mimic-cxr-jpg/{version}"
    stem = f"mimic-cxr-{version}-"
    rows = ["d1,10000032,50000001,PA", "d2,10000032,50000001,LATERAL"]
    rows += ["d3,10000032,50000002,AP", "d4,10000764,50000003,AP"]
    rows += ["d5,10000764,50000003,PA"]
    head = "dicom_id,subject_id,study_id,ViewPosition\n"
    write(root / f"{stem}metadata.{ext}", head + "\n".join(rows) + "\n")
    split = "d1,50000001,10000032,train\nd2,50000001,10000032,train\n"
    split += "d3,50000002,10000032,train\nd4,50000003,10000764,validate\n"
    write(root / f"{stem}split.{ext}", "dicom_id,study_id,subject_id,split\n" + split)
    names = ",".join(sorted(CHEXPERT_FINDINGS))
    values = ["1.0", "-1.0", "0.0", *[""] * 11]
    write(
        root / f"{stem}chexpert.{ext}",
        f"subject_id,study_id,{names}\n10000032,50000001,{','.join(values)}\n",
    )
    files = root / "files/p10"
    write(files / "p10000032/s50000001.txt", REPORT)
    write(files / "p10000032/s50000002.txt", " COMPARISON: None.\n \n Fine lungs.\n")
    write(files / "p10000764/s50000003.txt", " IMPRESSION:\n Effusion.\n")
    return root


def test_mimic(mimic):
    ledger = quiet()
    first, last = MimicCxr(mimic).read(ledger)
    assert (first.id, first.patient, first.split, first.view) == (
        "d1",
        "10000032",
        "train",
        "PA",
    )
    assert first.image == mimic / "files/p10/p10000032/s50000001/d1.jpg"
    assert (first.findings, first.impression) == ("Clear lungs.", "Normal chest.")
    assert first.text == "Normal chest. Clear lungs."
    assert (last.id, last.split, last.findings) == ("d4", "valid", "")
    assert ledger.filters == [
        ("images in the metadata", 5, 0),
        ("view PA/AP", 4, 1),
        ("in the official split", 3, 1),
        ("report on file", 3, 0),
        ("has findings, impression", 2, 1),
    ]
    assert first.labels["Atelectasis"] == 1.0
    assert np.isnan(first.labels["Cardiomegaly"])  # uncertain
    assert first.labels["Consolidation"] == 0.0 and np.isnan(first.labels["Fracture"])
    assert all(np.isnan(v) for v in last.labels.values())  # not in the table
    assert last.labels.keys() == first.labels.keys()


def test_mimic_from_above_and_with_the_last_paragraph(mimic):
    reader = MimicCxr(mimic.parents[3], last_paragraph=True, labeler="none")
    studies = reader.read(quiet())
    assert [s.id for s in studies] == ["d1", "d3", "d4"]
    assert studies[1].text == "Fine lungs." and studies[1].labels == {}


def test_mimic_reports_elsewhere(mimic, tmp_path):
    (mimic / "files").rename(tmp_path / "reports")
    with pytest.raises(DataError, match="none of 3 reports.*separate download"):
        MimicCxr(mimic).read(quiet())
    assert len(MimicCxr(mimic, reports=tmp_path / "reports").read(quiet())) == 2


def test_mimic_numbers_that_are_none(mimic):
    """They would be folders' names of any length."""
    table = next(mimic.glob("*metadata*"))
    opened = gzip.open if table.suffix == ".gz" else open
    with opened(table, "rt") as file:
        text = file.read()
    write(table, text.replace("d4,10000764", "d4," + "9" * 4000))
    ledger = quiet("skip")
    assert [s.id for s in MimicCxr(mimic).read(ledger)] == ["d1"]
    assert [s.id for s in ledger.skipped if "metadata" in s.id] == [f"{table}:5"]


def test_mimic_missing_report(mimic):
    (mimic / "files/p10/p10000764/s50000003.txt").unlink()
    with pytest.raises(DataError, match="s50000003: no report file"):
        MimicCxr(mimic).read(quiet())
    ledger = quiet("skip")
    assert [s.id for s in MimicCxr(mimic).read(ledger)] == ["d1"]
    assert [(s.id, s.reason) for s in ledger.skipped] == [
        ("s50000003", "no report file")
    ]


HEADER = "Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(CHEXPERT_FINDINGS)


@pytest.fixture
def chexpert(tmp_path):
    root = tmp_path / "CheXpert-v1.0-small"
    values = dict.fromkeys(CHEXPERT_FINDINGS, "")
    values |= {"Edema": "-1.0", "Cardiomegaly": "-1.0", "Fracture": "1.0"}
    cells = ",".join(values.values())
    old = "CheXpert-v1.0-small"  # as the table says, whatever the folder is called now
    rows = [
        f"{old}/train/patient00001/study1/view1_frontal.jpg,F,68,Frontal,AP,{cells}"
    ]
    rows += [f"{old}/train/patient00001/study1/view2_lateral.jpg,F,68,Lateral,,{cells}"]
    write(root / "train.csv", "\n".join([HEADER, *rows]) + "\n")
    row = f"{old}/valid/patient64541/study1/view1_frontal.jpg,M,73,Frontal,PA,{cells}"
    write(root / "valid.csv", f"{HEADER}\n{row}\n")
    return root


def test_chexpert(chexpert, tmp_path):
    train, test = CheXpert(tmp_path).read(quiet())
    assert train.image == chexpert / "train/patient00001/study1/view1_frontal.jpg"
    assert (train.patient, train.split, train.view) == ("patient00001", "", "AP")
    assert (test.patient, test.split, test.view) == ("patient64541", "test", "PA")
    assert train.labels["Edema"] == 1.0 and train.labels["Cardiomegaly"] == 0.0
    assert train.labels["Fracture"] == 1.0 and train.labels["Pneumonia"] == 0.0
    moved = chexpert.rename(tmp_path / "renamed")
    assert len(CheXpert(moved, frontal=False).read(quiet())) == 3


def test_label_policy():
    keep = LabelPolicy()
    assert np.isnan(keep("Edema", "")) and np.isnan(keep("Edema", "-1.0"))
    assert keep("Edema", "1.0") == 1.0 and keep("Edema", "0") == 0.0
    assert LabelPolicy(uncertain="positive")("Fracture", "-1") == 1.0
    assert LabelPolicy(uncertain="negative", blank="negative")("Fracture", "") == 0.0


@pytest.mark.parametrize("year", ["2017", "2017_v2020"])
def test_nih(tmp_path, year):
    old = year == "2017"
    head = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient "
    head += "Gender,View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing"
    head += "[x,y]," if old else "[x,y]"
    tail = ",057Y,M,PA,2682,2749,0.143,0.143" + "," * old
    rows = [
        "00000001_000.png,Cardiomegaly|Effusion,0,1",
        "00000002_000.png,No Finding,0,2",
    ]
    rows += ["00000003_000.png,Hernia,0,3"]
    text = "\n".join([head, *(row + tail for row in rows)]) + "\n"
    write(tmp_path / f"Data_Entry_{year}.csv", text)
    write(tmp_path / "train_val_list.txt", "00000001_000.png\n")
    write(tmp_path / "test_list.txt", "00000002_000.png\n")
    write(tmp_path / "images_001/images/00000001_000.png", "")
    ledger = quiet()
    train, test = NihCxr14(tmp_path).read(ledger)
    assert (train.id, train.patient, train.view) == ("00000001_000", "1", "PA")
    assert (train.split, test.split) == ("", "test")
    assert train.image == tmp_path / "images_001/images/00000001_000.png"
    present = {finding for finding, value in train.labels.items() if value}
    assert present == {"Cardiomegaly", "Effusion"} and len(train.labels) == 14
    assert not any(test.labels.values())
    assert ledger.filters[-1] == ("in an official list", 2, 1)


def test_rsna_gathers_boxes(tmp_path):
    write(
        tmp_path / "stage_2_train_labels.csv",
        "patientId,x,y,width,height,Target\na,,,,,0\n"
        "b,264.0,152.0,213.0,379.0,1\nb,562.0,152.0,256.0,453.0,1\n",
    )
    write(
        tmp_path / "stage_2_detailed_class_info.csv",
        "patientId,class\na,No Lung Opacity / Not Normal\nb,Lung Opacity\n",
    )
    (tmp_path / "stage_2_train_images").mkdir()
    a, b = RsnaPneumonia(tmp_path).read(quiet())
    assert a.boxes == () and a.labels["Pneumonia"] == 0.0
    assert a.labels["No Lung Opacity / Not Normal"] == 1.0
    assert (
        b.boxes[1] == (562.0, 152.0, 256.0, 453.0) and b.labels["Lung Opacity"] == 1.0
    )
    assert b.image == tmp_path / "stage_2_train_images/b.dcm"


def test_covidx(tmp_path):
    write(
        tmp_path / "train_COVIDx9A.txt",
        "101 ARDSSevere.png pneumonia cohen\n102 a b.png COVID-19 sirm\n\n",
    )
    write(tmp_path / "test_COVIDx9A.txt", "7 x.png normal rsna\nbroken line\n")
    with pytest.raises(DataError, match="test_COVIDx9A.txt:2.*patient file class"):
        CovidX(tmp_path).read(quiet())
    one, two, three = CovidX(tmp_path).read(quiet("skip"))
    assert one.labels == {"normal": 0.0, "pneumonia": 1.0, "COVID-19": 0.0}
    assert two.image == tmp_path / "train/a b.png" and two.patient == "102"
    assert three.split == "test" and three.image == tmp_path / "test/x.png"


def openi_xml(findings, impression, major, images=()):
    parts = "".join(f'<parentImage id="{i}"/>' for i in images)
    return (
        "<eCitation><AbstractText Label='FINDINGS'>"
        f"{findings}</AbstractText><AbstractText Label='IMPRESSION'>{impression}"
        f"</AbstractText><MeSH>{''.join(f'<major>{m}</major>' for m in major)}</MeSH>"
        f"{parts}</eCitation>"
    )


@pytest.fixture
def openi(tmp_path):
    folder = tmp_path / "ecgen-radiology"
    images = ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"]
    write(folder / "1.xml", openi_xml("Clear.", "Normal chest.", ["normal"], images))
    write(folder / "2.xml", openi_xml("", "Big heart.", ["Cardiomegaly/mild"]))
    write(folder / "3.xml", openi_xml("", "", ["no indexing"]))
    write(
        tmp_path / "indiana_reports.csv",
        "uid,MeSH,Problems,image,indication,comparison,findings,impression\n"
        "1,normal,normal,x,y,z,Clear.,Normal chest.\n"
        "2,Cardiomegaly/mild;Spine,c,x,y,z,,Big heart.\n",
    )
    write(
        tmp_path / "indiana_projections.csv",
        "uid,filename,projection\n1,1_IM-0001-4001.dcm.png,Frontal\n"
        "1,1_IM-0001-3001.dcm.png,Lateral\n",
    )
    return tmp_path


@pytest.mark.parametrize("form", ["folder", "archive", "inside", "csv"])
def test_openi_reports(openi, form):
    root, source = openi, "xml"
    if form == "archive":
        with tarfile.open(openi / "NLMCXR_reports.tgz", "w:gz") as archive:
            archive.add(openi / "ecgen-radiology", "ecgen-radiology")
    elif form == "inside":
        root = openi / "ecgen-radiology"
    elif form == "csv":
        source = "csv"
    one, two = OpenI(root, source=source).read(quiet())
    assert (one.id, one.findings, one.impression) == ("1", "Clear.", "Normal chest.")
    assert one.image is None and one.labels["No Finding"] == 1.0
    assert two.findings == "" and two.labels["Cardiomegaly"] == 1.0
    assert two.labels["Fracture"] == 0.0


@pytest.mark.parametrize("source", ["xml", "csv"])
def test_openi_pairs_frontal_images(openi, source):
    images = openi / "png"
    style = "CXR1_{}.png" if source == "xml" else "{}.dcm.png"
    for key in ("1_IM-0001-3001", "1_IM-0001-4001"):
        write(images / style.format(key), "")
    (study,) = OpenI(openi, images=images, source=source).read(quiet())
    assert study.id == "1_IM-0001-4001" and study.view == "Frontal"
    assert study.image == images / style.format("1_IM-0001-4001")


def test_openi_broken_xml(openi):
    write(openi / "ecgen-radiology/4.xml", "<eCitation>")
    with pytest.raises(DataError, match="4.xml: unreadable XML"):
        OpenI(openi).read(quiet())
    ledger = quiet("skip")
    assert len(OpenI(openi).read(ledger)) == 2
    assert [skip.id for skip in ledger.skipped] == ["4.xml"]


@pytest.mark.parametrize(
    "reader", [MimicCxr, CheXpert, NihCxr14, RsnaPneumonia, CovidX, OpenI]
)
def test_a_wrong_folder_says_what_was_expected_and_found(reader, tmp_path):
    write(tmp_path / "holiday.jpg", "")
    with pytest.raises(DataError, match="does not look like.*expected.*holiday.jpg"):
        reader(tmp_path).read(quiet())
    with pytest.raises(DataError, match="is not a folder"):
        reader(tmp_path / "nowhere").read(quiet())


def test_a_missing_column_names_those_that_came(chexpert):
    text = (chexpert / "train.csv").read_text().replace("Edema", "Oedema")
    write(chexpert / "train.csv", text)
    with pytest.raises(DataError, match=r"no column \['Edema'\].*Oedema"):
        CheXpert(chexpert).read(quiet())


@pytest.fixture
def notes(tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / f"img/{name}.png", "")
    rows = "id,who,part,text,edema,kind\na,p1,train,FINDINGS: Clear.,0,x\n"
    rows += "b,p1,Val,Just words.,,\nc,p2,,,1,y\nd,p2,,Lost image.,1,y\n"
    write(tmp_path / "notes.csv", rows)
    return tmp_path / "notes.csv"


FLAGS = {"image": "img/{id}.png", "id": "id", "patient": "who", "split": "part"}


def test_table(notes):
    ledger = quiet("skip")
    table = Table(notes, labels=("edema",), classes="kind", **FLAGS)
    a, b = table.read(ledger)
    assert (a.id, a.patient, a.split, a.findings, a.report) == (
        "a",
        "p1",
        "train",
        "Clear.",
        "",
    )
    assert (b.split, b.report, b.findings) == ("valid", "Just words.", "")
    assert a.image == notes.parent / "img/a.png"
    assert a.labels == {"edema": 0.0, "x": 1.0}
    assert all(np.isnan(v) for v in b.labels.values())
    assert [(s.id, s.reason) for s in ledger.skipped] == [
        ("notes.csv:4 (c)", "empty report"),
        ("notes.csv:5 (d)", "no image (img/d.png)"),
    ]
    with pytest.raises(DataError, match="notes.csv:4 .c.: empty report"):
        table.read(quiet())


def test_table_faults(notes):
    with pytest.raises(DataError, match=r"no column \['report'\].*who"):
        Table(notes, text="report", image=None, patient="who").read(quiet())
    with pytest.raises(DataError, match="notes.csv:2: 'kind': expected a number"):
        Table(notes, image=None, labels=("kind",)).read(quiet("skip"))
    with pytest.raises(DataError, match="notes.csv:2: unknown split, expected"):
        Table(notes, image=None, split="who").read(quiet())
    with pytest.raises(DataError, match="is no file"):
        Table(notes.parent).read(quiet())


def test_table_as_jsonl(tmp_path):
    lines = [json.dumps({"image": None, "text": "Clear lungs.", "edema": 1})]
    lines += ["", json.dumps({"text": "Second.", "who": 7}), "{broken"]
    write(tmp_path / "notes.jsonl", "\n".join(lines))
    table = Table(
        tmp_path / "notes.jsonl", image=None, patient="who", labels=("edema",)
    )
    with pytest.raises(DataError, match="notes.jsonl:4: no JSON object"):
        table.read(quiet())
    one, two = table.read(quiet("skip"))
    assert (one.text, one.labels, two.patient) == ("Clear lungs.", {"edema": 1.0}, "7")
    assert one.patient == "1"  # no patient known: a row of its own
    with pytest.raises(DataError, match=r"no key \['pic'\]"):
        Table(tmp_path / "notes.jsonl", image="pic").read(quiet("skip"))


def test_table_in_the_encoding_of_spreadsheets(tmp_path):
    (tmp_path / "a.csv").write_bytes("text\nFever of 39°C.\n".encode("cp1252"))
    assert (
        Table(tmp_path / "a.csv", image=None).read(quiet())[0].text == "Fever of 39°C."
    )


def test_splits_are_by_patient_and_stay():
    studies = [Study(id=str(i), patient=f"p{i // 3}") for i in range(900)]
    drawn = split_by_patient(studies, valid=0.1, test=0.2, seed=0)
    splits: dict[str, set[str]] = {}
    for study in drawn:
        splits.setdefault(study.patient, set()).add(study.split)
    assert all(len(found) == 1 for found in splits.values())
    shares = {k: sum(s.split == k for s in drawn) / 900 for k in ("valid", "test")}
    assert 0.05 < shares["valid"] < 0.15 and 0.14 < shares["test"] < 0.26
    # A patient stays where it is when others go or come.
    assert split_by_patient(studies[300:], valid=0.1, test=0.2, seed=0) == drawn[300:]
    assert split_by_patient(studies, valid=0.1, test=0.2, seed=1) != drawn
    official = [*studies, Study(id="x", patient="q", split="test")]
    again = split_by_patient(official, valid=0.1, test=0.2, seed=0)
    assert {s.id for s in again if s.split == "test"} == {"x"}
    with pytest.raises(ValueError, match="less than 1"):
        split_by_patient(studies, valid=0.5, test=0.5, seed=0)


def test_the_real_openi_set(shared_data):
    root = shared_data / "cxr" / "openi"
    for source, all_, no_findings, no_impression, neither in (
        ("xml", 3955, 530, 34, 28),
        ("csv", 3851, 514, 31, 25),
    ):
        ledger = quiet()
        studies = OpenI(root, source=source).read(ledger)
        assert ledger.filters[0][1] == all_
        assert ledger.filters[1][1:] == (all_ - neither, neither)
        assert sum(not s.findings for s in studies) == no_findings - neither
        assert sum(not s.impression for s in studies) == no_impression - neither


def test_the_real_figure1_set(shared_data):
    table = Table(
        shared_data / "cxr/figure1/metadata.csv",
        image="images/{patientid}.jpg",
        text="notes",
        id="patientid",
        patient_regex=r"COVID-\d+",
        classes="finding",
    )
    ledger = quiet("skip")
    studies = table.read(ledger)
    assert len(studies) == 27 and ledger.filters[0] == ("rows in metadata.csv", 55, 0)
    reasons = [skip.reason for skip in ledger.skipped]
    assert sum(r == "empty report" for r in reasons) == 3
    assert sum(r.startswith("no image") for r in reasons) == 25
    assert len({s.patient for s in studies}) == 26  # COVID-00013 has two films
