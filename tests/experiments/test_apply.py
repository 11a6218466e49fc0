"""Commands that use a trained run: any image that training reads, by id, resumable."""

import csv
import dataclasses
import hashlib
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import medjax
from experiments import embed, retrieve, zero_shot
from medjax.data.boundary import DataError
from medjax.vlp.films import find_films
from medjax.vlp.prompts import PROMPTS_VERSION
from tests.full_disk import full_disk
from tests.vlp.pairs import random_pair

TEXTS = ["No pneumothorax.", "There is a small left pleural effusion.", "Normal."]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return random_pair(tmp_path_factory.mktemp("runs") / "convirt", TEXTS)


@pytest.fixture(scope="module")
def pair(run):
    return medjax.load(run)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Five films of several kinds, and one that is none."""
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, (5, 40, 30)).astype(np.uint8)
    (folder / "sub").mkdir()
    Image.fromarray(grey[0]).save(folder / "a.png")
    Image.fromarray(grey[1].astype(np.uint16) * 257).save(folder / "b16.png")
    Image.fromarray(np.repeat(grey[2, ..., None], 3, -1)).save(folder / "sub" / "c.png")
    Image.fromarray(grey[3]).save(folder / "d.tif")
    Image.fromarray(grey[4]).save(folder / "e.bmp")
    (folder / "f.png").write_bytes(b"no image")
    return folder


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_embeds_on_all_devices_what_one_would(pair, films):
    good = sorted(p for p in films.rglob("*.*") if p.name != "f.png")
    whole = pair.embed_images(good, batch_size=8)
    assert whole.shape == (5, 16) and pair.mesh.size == 8
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, rtol=1e-5)
    # Neither the batch nor what shares it changes a row.
    np.testing.assert_allclose(pair.embed_images(good[2:3]), whole[2:3], atol=1e-5)
    texts = pair.embed_texts(TEXTS)
    assert texts.shape == (3, 16)
    assert pair.image_features(good[:1]).shape[1] != 16
    with pytest.raises(ValueError, match="expected one film at least"):
        pair.embed_images([])


def test_a_few_rows_do_not_wait_for_a_whole_batch(pair, monkeypatch):
    sizes = []

    def recorded(variables, pixels):
        sizes.append(len(pixels))
        return pixels.max((1, 2))[:, None]

    apply = {"image_embedding": recorded}
    monkeypatch.setattr(type(pair.system), "apply", apply)
    counting = dataclasses.replace(pair)  # has compiled nothing
    side = pair.record.image_size
    rows = np.arange(150)[:, None, None].repeat(side, 1).repeat(side, 2)
    rows = rows.astype(np.uint8)
    for count, size in ((1, 8), (9, 16), (64, 64), (150, 64)):
        some = counting.embed_images(rows[:count])
        np.testing.assert_array_equal(some[:, 0], np.arange(count))
        assert sizes[-1] == size, f"{count} films"
    # Three programs are all there are; a batch that is not full gets none of its own.
    assert sizes == [8, 16, 64]


def test_a_moved_run_is_the_same_run(pair, run, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(run, moved)
    again = medjax.load(moved)
    assert again.checksum == pair.checksum
    np.testing.assert_array_equal(again.embed_texts(TEXTS), pair.embed_texts(TEXTS))


def test_embed_lists_what_it_cannot_read(pair, run, films, tmp_path):
    out = tmp_path / "e.npz"
    (tmp_path / "t.txt").write_text("\n".join([*TEXTS, ""]))
    command = [str(run), "--images", str(films), "--texts", str(tmp_path / "t.txt")]
    assert embed.main([*command, "--out", str(out)]) == 1
    with np.load(out) as found:
        assert found["image_ids"].tolist() == [
            "a.png", "b16.png", "d.tif", "e.bmp", "sub/c.png"
        ]  # fmt: skip
        expected = pair.embed_images([films / i for i in found["image_ids"]])
        np.testing.assert_allclose(found["image"], expected, atol=1e-5)
        assert found["texts"].tolist() == TEXTS
        assert str(found["weights"]) == pair.checksum
    (skipped,) = rows_of(tmp_path / "e.npz.skipped.csv")
    assert skipped["id"] == "f.png" and "f.png" in skipped["reason"]
    assert not (tmp_path / "e.npz.parts").exists()
    assert embed.main([*command, "--out", str(out), "--on-error", "skip"]) == 0


def test_embed_goes_on_where_it_was_stopped(run, films, tmp_path, monkeypatch):
    from medjax.vlp import embedding
    from medjax.vlp.pretrained import Pretrained

    monkeypatch.setattr(embedding, "PART", 2)
    asked = []
    whole = Pretrained.embed_films

    def embed_films(pair, some, **options):
        asked.append([film.id for film in some])
        if len(asked) == 2:
            raise OSError(28, "No space left on device")
        return whole(pair, some, **options)

    monkeypatch.setattr(Pretrained, "embed_films", embed_films)
    command = [str(run), "--images", str(films), "--out", str(tmp_path / "e.npz")]
    assert embed.main([*command, "--on-error", "skip"]) == 1
    assert not (tmp_path / "e.npz").exists()
    assert embed.main([*command, "--on-error", "skip"]) == 0
    assert asked[0] not in asked[1:] and len(asked) == 4
    with np.load(tmp_path / "e.npz") as found:
        assert len(found["image"]) == 5


def test_zero_shot_scores_are_cosines_to_the_sentences(pair, run, films, tmp_path):
    prompts = {"Effusion": [[TEXTS[1]], [TEXTS[2], TEXTS[0]]]}
    (tmp_path / "p.json").write_text(json.dumps(prompts))
    command = [str(run), "--images", str(films / "*.png"), "--on-error", "skip"]
    command += ["--out", str(tmp_path / "s.csv")]
    assert zero_shot.main([*command, "--prompts", str(tmp_path / "p.json")]) == 0
    rows = rows_of(tmp_path / "s.csv")
    assert [row["id"] for row in rows] == [str(films / n) for n in ("a.png", "b16.png")]
    texts = pair.embed_texts(TEXTS)
    away = texts[2] + texts[0]
    direction = texts[1] - away / np.linalg.norm(away)
    expected = pair.embed_images([row["id"] for row in rows]) @ direction
    got = [float(row["Effusion"]) for row in rows]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert rows[0]["weights"] == pair.checksum[:16]
    said = hashlib.sha256(json.dumps(prompts).encode()).hexdigest()[:16]
    told = [rows[0][name] for name in ("wording", "prompts", "ensemble")]
    assert told == ["p.json", said, "embeddings global"]
    command += ["--wording", "biovil"]
    assert zero_shot.main([*command, "--classes", "Edema", "Mass"]) == 0
    row = rows_of(tmp_path / "s.csv")[0]
    assert {"Edema", "Mass"} <= row.keys()
    assert (row["wording"], row["prompts"]) == ("biovil", PROMPTS_VERSION)
    (tmp_path / "p.json").write_text('{"Effusion": ["There is", "There is not"]}')
    assert zero_shot.main([*command, "--prompts", str(tmp_path / "p.json")]) == 1


def test_a_film_is_its_own_nearest(run, films, tmp_path):
    out = tmp_path / "h.csv"
    command = [str(run), "--corpus", str(films), "--queries", str(films / "*.tif")]
    assert retrieve.main([*command, "--out", str(out), "--on-error", "skip"]) == 0
    rows = rows_of(out)
    assert [row["rank"] for row in rows] == list("12345")
    assert rows[0]["hit"] == "d.tif" and float(rows[0]["cosine"]) > 0.9999
    cosines = [float(row["cosine"]) for row in rows]
    assert cosines == sorted(cosines, reverse=True)
    page = out.with_suffix(".html").read_text()
    assert page.count("data:image/png") == 6 and "real patients" in page


def test_films_are_found_by_folder_pattern_table_and_name(films, tmp_path):
    assert len(find_films(films)) == 6
    assert len(find_films(films / "*.png")) == 3
    table = tmp_path / "t.csv"
    table.write_text(f"path,age\n{films / 'a.png'},3\n{films / 'e.bmp'},4\n")
    assert [f.path.name for f in find_films(table, column="path")] == ["a.png", "e.bmp"]
    assert find_films(films / "d.tif")[0].id == "d.tif"
    with pytest.raises(DataError, match="found none"):
        find_films(tmp_path / "*.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not the folder of a run"),
        ("{", "system.json"),
        ('{"family": "deep thought"}', "does not know"),
        ('{"family": "convirt", "system": {"colour": 1}}', "no field 'colour'"),
    ],
)
def test_what_is_no_run_is_refused_by_name(content, message, tmp_path):
    if content is not None:
        (tmp_path / "system.json").write_text(content)
    with pytest.raises((DataError, FileNotFoundError), match=message) as refused:
        medjax.load(tmp_path)
    assert str(tmp_path) in str(refused.value)


def last_line(captured):
    """What a command ended with, which is no traceback."""
    assert "Traceback" not in captured.err
    return captured.err.strip().split("\n")[-1]


def test_where_nothing_can_be_written_one_sentence_says_so(
    run, films, tmp_path, capsys
):
    (tmp_path / "t.txt").write_text(TEXTS[0])
    (tmp_path / "file").touch()
    below = str(tmp_path / "file" / "out.csv")
    for door, flags in (
        (embed, ["--texts", str(tmp_path / "t.txt")]),
        (zero_shot, ["--images", str(films)]),
        (retrieve, ["--queries", str(films), "--corpus", str(films)]),
    ):
        assert door.main([str(run), *flags, "--out", below]) == 1
        said = last_line(capsys.readouterr())
        assert re.fullmatch(r"error: .*file.*: (File exists|Not a directory)", said)
    films = str(films / "*.png")
    for door, flags, name in (
        (embed, ["--texts", str(tmp_path / "t.txt")], "e.npz"),
        (zero_shot, ["--images", films, "--classes", "Edema"], "s.csv"),
        (retrieve, ["--queries", films, "--corpus", films], "h.csv"),
    ):
        command = [str(run), *flags, "--on-error", "skip", "--out"]
        # Its programs are kept by now: keeping one is not what is tested.
        assert door.main([*command, str(tmp_path / f"before_{name}")]) == 0
        command.append(str(tmp_path / name))
        with full_disk():
            assert door.main(command) == 1, name
        said = last_line(capsys.readouterr())
        assert name in said and "too large" in said
        assert not (tmp_path / name).exists()
