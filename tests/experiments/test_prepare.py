"""From files to a prepared set and back, as the command line does it."""

import dataclasses
import functools
import json
import os
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from experiments import convirt, generator
from experiments.prepare.reports import command, main
from experiments.prepare.upload import main as upload
from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger
from medjax.data.pipeline import PipelineConfig, build_pipeline
from medjax.data.records import RecordSource, read_metadata
from medjax.vlp.corpus import Corpus, CorpusConfig, open_corpus
from medjax.vlp.datasets import (
    READERS,
    OpenI,
    PrepareConfig,
    RsnaPneumonia,
    Table,
    open_prepared,
    prepare,
)
from medjax.vlp.datasets.prepared import sentence_ids
from medjax.vlp.labelled import LabelledConfig, open_labelled
from medjax.vlp.pretraining import run as pretrain
from medjax.vlp.text_lengths import LengthsConfig, lengths_of
from medjax.vlp.towers import ImageTowerConfig, TextTowerConfig


@pytest.fixture
def table(tmp_path):
    """Twelve pairs of six patients; one image is truncated, one id comes twice."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "raw"
    folder.mkdir()
    rows = ["image,text,patient,edema"]
    for i in range(12):
        noise = rng.integers(0, 255, (30, 40), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.jpg")
        sections = (
            f"FINDINGS: Lungs are clear. A nodule of {i}.5 cm. IMPRESSION: Case {i}."
        )
        text = f"Plain words number {i}." if i == 5 else sections
        rows.append(f"{i}.jpg,{text},p{i // 2},{i % 2}")
    broken = folder / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:400])
    rows += [rows[1], "0.jpg,,p0,0"]
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    return folder / "pairs.csv"


SMALL = ["--patient", "patient", "--labels", "edema", "--image-size", "16"]
SMALL += ["--vocab-size", "80", "--valid", "0.2", "--test", "0.2", "--seed", "2"]


def run(table, out, *flags):
    return main(["table", "--root", str(table), "--out", str(out), *SMALL, *flags])


@pytest.fixture
def prepared(table, tmp_path):
    assert run(table, tmp_path / "set", "--on-error", "skip") == 0
    return tmp_path / "set"


def test_faults_stop_or_are_counted_and_listed(table, tmp_path, capsys):
    assert run(table, tmp_path / "set") == 1
    assert "empty report" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
    assert run(table, tmp_path / "set", "--on-error", "skip") == 0
    printed = capsys.readouterr().out
    for line in (
        "rows in pairs.csv: kept 14 (dropped 0)",
        "has image and text: kept 13 (dropped 1)",
        "report of 3 words or more: kept 12 (dropped 0)",
        "readable image: kept 11 (dropped 1)",
        "skipped: 3",
    ):
        assert line in printed
    listed = (tmp_path / "set/skipped.csv").read_text()
    assert "empty report" in listed and "duplicate id" in listed and "3.jpg" in listed
    metadata = read_metadata(tmp_path / "set")
    assert metadata["skipped"] == 3 and sum(metadata["splits"].values()) == 11
    assert metadata["finding_names"] == ["edema"] and metadata["image_size"] == 16
    assert str(tmp_path) not in json.dumps(metadata)  # no private path


def test_the_same_command_returns_and_another_is_refused(table, prepared, capsys):
    before = (prepared / "metadata.json").stat().st_mtime_ns
    assert run(table, prepared, "--on-error", "skip") == 0
    assert "already prepared" in capsys.readouterr().out
    assert (prepared / "metadata.json").stat().st_mtime_ns == before
    other = ("--on-error", "skip", "--resize", "imitate")
    assert run(table, prepared, *other) == 1
    assert "other settings" in capsys.readouterr().err
    assert run(table, prepared, *other, "--overwrite") == 0
    assert read_metadata(prepared)["settings"]["resize"] == "imitate"


@pytest.mark.parametrize("edit", ["text", "label", "image"])
def test_an_edited_source_is_not_taken_for_prepared(table, prepared, capsys, edit):
    if edit == "image":
        film = table.parent / "0.jpg"
        film.write_bytes(film.read_bytes()[:-2] + b"\xff\xd8")  # as long as before
    else:
        old, new = {"text": ("Case 7", "Case 8"), "label": ("p3,0", "p3,1")}[edit]
        table.write_text(table.read_text().replace(old, new))
    assert run(table, prepared, "--on-error", "skip") == 1
    assert "these have changed since" in capsys.readouterr().err


def test_films_of_known_size_and_time_are_not_opened_again(table, prepared, capsys):
    film = table.parent / "0.jpg"
    before, content = film.stat(), film.read_bytes()
    changed = content[:-2] + b"\xff\xd8"
    for time, said in ((before.st_mtime_ns, "already"), (1, "changed since")):
        film.write_bytes(changed)
        os.utime(film, ns=(time, time))
        run(table, prepared, "--on-error", "skip")
        told = capsys.readouterr()
        assert said in told.out + told.err
    film.write_bytes(content)  # a copy has another time and the same content
    assert run(table, prepared, "--on-error", "skip") == 0
    (prepared / "films.json").write_text('{"0.jpg": [1]}')
    assert run(table, prepared, "--on-error", "skip") == 1
    assert "films.json" in capsys.readouterr().err


def test_nothing_is_replaced_that_was_not_prepared(table, prepared, tmp_path, capsys):
    stranger = tmp_path / "thesis"
    stranger.mkdir()
    (stranger / "chapter.txt").write_text("years of work")
    flags = ("--on-error", "skip", "--overwrite")
    for folder, added in ((stranger, None), (prepared, "notes.txt")):
        if added:
            (folder / added).write_text("mine")
        before = sorted(p.name for p in folder.iterdir())
        assert run(table, folder, *flags) == 1
        error = capsys.readouterr().err
        assert "is not replaced" in error and error.count("\n") == 1
        assert sorted(p.name for p in folder.iterdir()) == before
    assert run(table, stranger / "chapter.txt", *flags) == 1


def test_a_split_whose_films_are_all_unreadable_is_no_set(table, tmp_path, capsys):
    lines = table.read_text().splitlines()[:13]
    parts = ["part", *("test" if i < 3 else "train" for i in range(12))]
    rows = [f"{line},{part}" for line, part in zip(lines, parts, strict=True)]
    table.write_text("\n".join(rows) + "\n")
    for i in range(3):
        (table.parent / f"{i}.jpg").write_bytes(b"no film")
    flags = ("--split", "part", "--on-error", "skip")
    assert run(table, tmp_path / "set", *flags) == 1
    assert "none of the 3 studies of the test split" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--image-size", "0"], "image_size: expected 1 or more"),
        (["--patient-regex", "P[0-9"], "patient_regex: 'P[0-9' is no regular exp"),
        (["--render", "photograph"], "photograph"),
        (["--tokenizer", "nowhere"], "tokenizer"),
        (["--labels", "patient"], "pairs.csv:2: 'patient': expected a number"),
    ],
)
def test_flags_that_make_no_sense_end_with_a_sentence(
    table, tmp_path, capsys, flags, words
):
    assert run(table, tmp_path / "set", "--on-error", "skip", *flags) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert not (tmp_path / "set").exists()


def test_equal_files_give_equal_sets(table, prepared, tmp_path):
    assert run(table, tmp_path / "again", "--on-error", "skip") == 0
    one, two = read_metadata(prepared), read_metadata(tmp_path / "again")
    assert one == two
    for split in one["splits"]:
        a, b = RecordSource(prepared, split), RecordSource(tmp_path / "again", split)
        for i in range(len(a)):
            for name, value in a[i].items():
                np.testing.assert_array_equal(value, b[i][name])


def test_rows_keep_the_contract_of_batches(prepared):
    source = open_prepared(prepared, "train", max_tokens=24)
    config = PipelineConfig(batch_size=4, shuffle=False, epochs=1, remainder="pad")
    batch = next(iter(build_pipeline(source, config, transform=source.transform)))
    assert batch["image"].shape == (4, 16, 16) and batch["image"].dtype == np.uint8
    for name in ("findings", "impression", "report"):
        assert batch[name].shape == (4, 24) and batch[name].dtype == np.int32
        assert (batch[name][:, 0] == 2).all()  # [CLS], also of a missing section
    assert batch["has_findings"].dtype == np.bool_
    assert batch["labels"].shape == (4, 1) and batch["index"].tolist() == [0, 1, 2, 3]
    words = source.tokenizer()
    texts = open_prepared(prepared, "train", fields=["findings_text"]).all(
        "findings_text"
    )
    again = words.encode(texts, 24)
    np.testing.assert_array_equal(again[:4], batch["findings"])


def test_a_missing_section_is_marked(prepared):
    rows = {}
    for split in read_metadata(prepared)["splits"]:
        source = open_prepared(prepared, split, fields=["id", "findings", "impression"])
        rows |= {source[i]["id"]: source[i] for i in range(len(source))}
    plain = rows.pop("5.jpg")
    assert not plain["has_findings"] and not plain["has_impression"]
    assert all(row["has_findings"] and row["has_impression"] for row in rows.values())


def test_one_sentence_is_drawn_per_example(prepared):
    source = open_prepared(prepared, "train", fields=["sentence"], max_tokens=12)
    config = PipelineConfig(batch_size=2, seed=1, shuffle=False, epochs=8)
    words = source.tokenizer()
    drawn = [
        [words.decode(row) for row in batch["sentence"]]
        for batch in build_pipeline(source, config, transform=source.transform)
    ]
    again = build_pipeline(source, config, transform=source.transform)
    assert drawn == [[words.decode(r) for r in b["sentence"]] for b in again]
    raw = RecordSource(prepared, "train", fields=["sentences", "sentence_ends"])
    first = {words.decode(ids) for ids in sentence_ids(raw[0])}
    steps = len(drawn) // 8
    seen = {step[0] for step in drawn[::steps]}
    assert seen <= first and len(first) == 3 and len(seen) > 1


def test_patients_are_in_one_split_and_numbered(prepared):
    numbers = {
        split: set(
            map(int, open_prepared(prepared, split, fields=["patient"]).all("patient"))
        )
        for split in read_metadata(prepared)["splits"]
    }
    everyone = [n for found in numbers.values() for n in found]
    assert sorted(everyone) == list(range(6))


def test_png_holds_the_same_pixels(table, prepared, tmp_path):
    assert run(table, tmp_path / "png", "--on-error", "skip", "--encoding", "png") == 0
    for a, b in zip(
        open_prepared(prepared, "train").all("image"),
        open_prepared(tmp_path / "png", "train").all("image"),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_a_tokenizer_can_be_given(table, prepared, tmp_path):
    folder = str(prepared / "tokenizer")
    flags = ("--on-error", "skip", "--tokenizer", folder)
    assert run(table, tmp_path / "given", *flags) == 0
    assert read_metadata(tmp_path / "given")["tokenizer"] == "tokenizer"
    for a, b in zip(
        open_prepared(prepared, "train").all("report"),
        open_prepared(tmp_path / "given", "train").all("report"),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def reports(tmp_path):
    head = "uid,MeSH,Problems,image,indication,comparison,findings,impression\n"
    rows = [f"{i},normal,,,,,Lungs {i % 9} clear.,Normal chest." for i in range(40)]
    (tmp_path / "indiana_reports.csv").write_text(head + "\n".join(rows) + "\n")
    return OpenI(tmp_path)


def test_reports_alone(reports, tmp_path):
    config = PrepareConfig(distinct=True)
    prepare(reports, tmp_path / "set", config)
    metadata = read_metadata(tmp_path / "set")
    assert "image" not in metadata["fields"] and metadata["image_size"] is None
    assert ["distinct report", 9, 31] in metadata["filters"]
    assert "report" in open_prepared(tmp_path / "set", "train")[0]


def test_images_are_drawn_from_reports(reports, tmp_path):
    config = PrepareConfig(render="drawn", image_size=32)
    prepare(reports, tmp_path / "set", config)
    images = open_prepared(tmp_path / "set", "train").all("image")
    assert images[0].shape == (32, 32) and images[0].std() > 0
    assert not np.array_equal(images[0], images[1])


def test_a_render_seed_is_of_films_and_a_seed_of_splits(reports, tmp_path):
    plain = PrepareConfig(render="drawn", image_size=16, vocab_size=80)
    seeds = {"first": {}, "films": {"render_seed": 3}, "splits": {"seed": 3}}
    seeds["both"] = {"seed": 3, "render_seed": 3}
    ids, films = {}, {}
    for name, chosen in seeds.items():
        folder = tmp_path / name
        prepare(reports, folder, dataclasses.replace(plain, **chosen))
        sources = {s: open_prepared(folder, s) for s in ("train", "valid", "test")}
        ids[name] = {split: source.all("id") for split, source in sources.items()}
        films[name] = {
            key: film.tobytes()
            for source in sources.values()
            for key, film in zip(source.all("id"), source.all("image"), strict=True)
        }
    assert ids["first"] == ids["films"] != ids["splits"] == ids["both"]
    assert films["first"] == films["splits"] and films["films"] == films["both"]
    assert all(films["first"][i] != film for i, film in films["films"].items())
    (said,) = Corpus(tmp_path / "films", max_tokens=16).generators
    assert said == {"name": "drawn", "section": "report", "size": 16, "seed": 3}
    with pytest.raises(FileExistsError, match="other settings"):
        prepare(reports, tmp_path / "films", plain)
    with pytest.raises(ValueError, match="render_seed: expected 0 or more"):
        prepare(reports, tmp_path / "x", dataclasses.replace(plain, render_seed=-1))


def test_boxes_follow_the_image(tmp_path):
    dicom = pytest.importorskip("pydicom", reason="DICOM needs the extra: medical")
    from tests.data.test_images import write_dicom

    assert dicom
    folder = tmp_path / "stage_2_train_images"
    folder.mkdir()
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    for name in "abcdefgh":
        write_dicom(folder / f"{name}.dcm", pixels)
    rows = "".join(f"{n},16,8,32,40,1\n" for n in "abcdefg") + "h,,,,,0\n"
    head = "patientId,x,y,width,height,Target\n"
    (tmp_path / "stage_2_train_labels.csv").write_text(head + rows)
    info = "patientId,class\n" + "".join(f"{n},Lung Opacity\n" for n in "abcdefgh")
    (tmp_path / "stage_2_detailed_class_info.csv").write_text(info)
    config = PrepareConfig(image_size=32, valid=0.0, test=0.0)
    prepare(RsnaPneumonia(tmp_path), tmp_path / "set", config)
    boxes = open_prepared(tmp_path / "set", "train", fields=["boxes"]).all("boxes")
    np.testing.assert_allclose(boxes[0], [[8, 4, 24, 24]])
    assert boxes[-1].shape == (0, 4)
    with pytest.raises(ValueError, match="no reports to draw"):
        prepare(RsnaPneumonia(tmp_path), tmp_path / "x", PrepareConfig(render="drawn"))
    for file in (tmp_path / "set").rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert b"SECRET-77" not in content and b"Doe" not in content


def test_films_without_reports_are_refused_before_anything_is_trained(table, tmp_path):
    out = tmp_path / "set"
    assert run(table, out, "--text", "None", "--on-error", "skip") == 0
    data = CorpusConfig(root=out, batch_size=4)
    for preset, train in (
        (convirt.PRESETS["tiny"], functools.partial(pretrain, build=convirt.convirt)),
        (generator.PRESETS["tiny"], generator.run),
    ):
        config = dataclasses.replace(preset, data=data, workdir=tmp_path / "run")
        with pytest.raises(DataError, match="set has no reports, of which this reads"):
            train(config)
    assert not (tmp_path / "run").exists()


def test_patients_in_two_splits_are_announced(table, tmp_path):
    lines: list[str] = []
    text = table.read_text().splitlines()
    rows = [f"{text[0]},part", f"{text[1]},train", f"{text[2]},test"]
    table.write_text("\n".join(rows) + "\n")
    prepare(
        Table(table, patient="patient", split="part"),
        tmp_path / "set",
        PrepareConfig(image_size=16),
        ledger=Ledger(log=lines.append),
    )
    assert "WARNING: 1 patients are in more than one split" in lines


def test_nothing_left_is_an_error(table, tmp_path):
    table.write_text("\n".join(["image,text", "0.jpg,Too short"]) + "\n")
    with pytest.raises(ValueError, match="nothing is left"):
        prepare(Table(table), tmp_path / "set")


def test_every_data_set_has_a_command():
    for name in READERS:
        asked = command([name, "--root", "r", "--out", "o", "--image-size", "64"])
        assert asked.config.image_size == 64


def test_a_set_is_prepared_to_an_address_and_opened_from_it(
    table, prepared, tmp_path, capsys
):
    store = fsspec.filesystem("memory")
    store.store.clear()
    address, cache = "memory://films/set", str(tmp_path / "cache")
    flags = ("--on-error", "skip", "--cache", cache)
    for _ in range(2):  # the second time there is nothing to do
        assert run(table, address, *flags) == 0
    told = capsys.readouterr().out
    assert "already uploaded" in told and f"prepared set: {address}" in told
    host = tmp_path / "host"
    corpus = CorpusConfig(root=Path(address), cache=host)
    # Of masks: so few labels teach nothing, and that is refused.
    films = LabelledConfig(data=Path(address), cache=host, target=("mask",))
    for found in (
        open_corpus(corpus, tmp_path, tokenizer=None, max_tokens=32),
        open_labelled(films, tmp_path, image_size=16, resize="mgca").corpus,
    ):
        assert found.folder.is_relative_to(tmp_path / "host")
        for split in found.splits:
            pairs = zip(
                RecordSource(found.folder, split),
                RecordSource(prepared, split),
                strict=True,
            )
            for ours, theirs in pairs:
                np.testing.assert_equal(ours, theirs)
    assert upload([f"--root={prepared}", "--out", "memory://films/other"]) == 0
    assert upload([f"--root={prepared}", "--out", str(tmp_path)]) == 1
    assert "expected an address, as s3://bucket/set" in capsys.readouterr().err
    store.store.clear()


def test_raw_data_at_an_address_are_refused_by_name(tmp_path, capsys):
    raw = Path("s3://bucket/mimic")
    told = r"data.root \((mimic|table)\): s3://bucket/.*experiments.prepare writes one"
    for config in (
        CorpusConfig(root=raw, format="mimic"),
        CorpusConfig(root=raw / "films.csv", format="table"),
    ):
        with pytest.raises(DataError, match=told):
            open_corpus(config, tmp_path, tokenizer=None, max_tokens=32)
    with pytest.raises(DataError, match="data.prepared: gs://bucket/set: expected a"):
        config = CorpusConfig(prepared=Path("gs://bucket/set"))
        open_corpus(config, tmp_path, tokenizer=None, max_tokens=32)
    assert main(["mimic", "--root", str(raw), "--out", str(tmp_path / "set")]) == 1
    assert "root: s3://bucket/mimic: expected a place" in capsys.readouterr().err


def test_lengths_of_texts_are_those_of_the_tokens_stored(prepared):
    corpus = Corpus(prepared, max_tokens=64)
    rows = RecordSource(prepared, "train")
    reports = [len(row["report"]) for row in rows]
    assert corpus.text_lengths("report", most=99).tolist() == reports
    assert corpus.text_lengths("report", most=2).tolist() == reports[:2]
    sentences = [len(s) for row in rows for s in sentence_ids(row)]
    assert corpus.text_lengths("sentence", most=99).tolist() == sentences


def test_batches_of_texts_get_lengths_that_hold_every_study(prepared, capsys):
    corpus = Corpus(prepared, max_tokens=32)
    rows = RecordSource(prepared, "train")
    system = convirt.convirt(
        dataclasses.replace(convirt.PRESETS["tiny"].system, text="sentence"),
        ImageTowerConfig("vit_tiny"),
        TextTowerConfig("tiny"),
    )
    assert system.tokens == ("sentence",)
    longest = [max(len(s) for s in sentence_ids(row)) for row in rows]
    both = np.maximum(longest, [min(len(row["report"]), 32) for row in rows])
    assert corpus.longest_texts(["report", "sentence"]).tolist() == both.tolist()
    of = functools.partial(lengths_of, corpus=corpus, system=system, limit=32)
    assert of(LengthsConfig(), shapes=8) is None
    known = of(LengthsConfig(buckets=(12, 20)), shapes=3, rows=np.asarray([2, 0]))
    assert known.rows.tolist() == [longest[2], longest[0]]
    assert known.sizes == (12, 20, 32) and known.fields == ("sentence",)
    assert "studies by the length of their texts: " in capsys.readouterr().out
    with pytest.raises(ValueError, match="lengths.buckets: expected .* 32, got .64,."):
        of(LengthsConfig(buckets=(64,)), shapes=8)
    with pytest.raises(ValueError, match="these are 3 lengths, .* allows 2"):
        of(LengthsConfig(buckets=(12, 20)), shapes=2)
