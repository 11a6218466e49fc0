"""Twenty files of every kind that a hospital hands over, through every command."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import medjax
from experiments import classify, embed, retrieve, zero_shot
from experiments.finetune import PRESETS, finetune
from medjax.train.experiment import command
from tests.data.test_images import write_dicom
from tests.vlp.pairs import random_pair

TEXTS = ["No pneumothorax.", "There is a small left pleural effusion.", "Normal."]
BAD = ["empty.png", "one_by_one.png", "text.jpg", "torn.png", "volume.npy"]
WHY = dict.fromkeys(BAD, "not an intact image") | {
    "one_by_one.png": "blank image",
    "volume.npy": "an array of shape (2, 8, 8)",
}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Fifteen films that can be read, five files that cannot; a table names them."""
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)

    def grey(*shape):
        return rng.integers(0, 255, shape).astype(np.uint8)

    colour = grey(33, 47, 3)
    Image.fromarray(grey(40, 30)).save(folder / "a.png")
    deep = grey(64, 64).astype(np.uint16) * 257
    Image.fromarray(deep).save(folder / "b16.png")
    Image.fromarray(colour).save(folder / "c_rgb.png")
    Image.fromarray(grey(20, 20, 4)).save(folder / "d_rgba.png")
    Image.fromarray(colour).convert("P").save(folder / "e_palette.png")
    Image.fromarray(grey(40, 40) > 99).save(folder / "f_bit.png")
    Image.fromarray(grey(50, 31)).save(folder / "g.jpg")
    Image.fromarray(colour).save(folder / "h.JPEG", format="JPEG")
    Image.fromarray(deep).save(folder / "i16.tif")
    Image.fromarray(colour).save(folder / "j.bmp")
    write_dicom(folder / "k16.dcm", deep // 16)
    inverted = {"PhotometricInterpretation": "MONOCHROME1"}
    write_dicom(folder / "l_no_suffix", grey(24, 36), **inverted)
    np.save(folder / "m.npy", grey(30, 30))
    np.save(folder / "n_float.npy", rng.normal(size=(30, 25, 3)).astype(np.float32))
    Image.fromarray(grey(3, 300)).save(folder / "ö wide, long.png")
    (folder / "empty.png").touch()
    Image.fromarray(grey(1, 1)).save(folder / "one_by_one.png")
    (folder / "text.jpg").write_text("Normal chest.")
    torn = (folder / "b16.png").read_bytes()
    (folder / "torn.png").write_bytes(torn[: len(torn) // 2])
    np.save(folder / "volume.npy", grey(2, 8, 8))
    names = sorted(p.name for p in folder.iterdir())
    assert len(names) == 20
    table = folder.parent / "films.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "patient", "split", "Bright"])
        parts = ["train", "valid", "test", "train"]
        for i, name in enumerate(names):
            rows.writerow([folder / name, f"p{i}", parts[i % 4], i // 4 % 2])
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "convirt"
    return random_pair(folder, TEXTS, architecture="resnet_tiny")


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def said_of(path):
    """What could not be read, with why."""
    return {row["id"]: row["reason"] for row in rows_of(path)}


def test_every_command_reads_what_can_be_read_and_names_the_rest(run, films, tmp_path):
    good = sorted({p.name for p in films.iterdir()} - set(BAD))
    out = tmp_path / "e.npz"
    skip = ["--on-error", "skip", "--out"]
    assert embed.main([str(run), "--images", str(films), "--out", str(out)]) == 1
    with np.load(out) as found:
        assert found["image_ids"].tolist() == good
        assert np.isfinite(found["image"]).all()
    for name, reason in said_of(tmp_path / "e.npz.skipped.csv").items():
        assert WHY[name] in reason
    command = [str(run), "--images", str(films), "--classes", "Edema"]
    assert zero_shot.main([*command, *skip, str(tmp_path / "s.csv")]) == 0
    assert [row["id"] for row in rows_of(tmp_path / "s.csv")] == good
    command = [str(run), "--queries", str(films), "--corpus", str(films)]
    assert retrieve.main([*command, *skip, str(tmp_path / "h.csv")]) == 0
    nearest = [row for row in rows_of(tmp_path / "h.csv") if row["rank"] == "1"]
    assert [row["query"] for row in nearest] == good
    assert all(float(row["cosine"]) > 0.9999 for row in nearest)  # itself or its like
    for name in ("e.npz", "s.csv", "h.csv"):
        assert sorted(said_of(tmp_path / f"{name}.skipped.csv")) == BAD, name


def test_a_tower_is_fine_tuned_on_them_and_asked(run, films, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["finetune"])
    line = [str(run), "--data", str(films.parent / "films.csv"), "--patient", "patient"]
    line += ["--split", "split", "--target", "Bright", "--workdir"]
    line += [str(tmp_path / "run"), "--batch-size", "8", "--epochs", "1"]
    line += ["--on-error", "skip"]
    finetune(command(PRESETS, "", line))
    left_out = said_of(tmp_path / "run" / "data" / "skipped.csv")
    assert sorted(Path(name).name for name in left_out) == BAD
    out = tmp_path / "found.csv"
    command_line = [str(tmp_path / "run"), "--images", str(films), "--out", str(out)]
    assert classify.main([*command_line, "--on-error", "skip"]) == 0
    assert len(rows_of(out)) == 15
    assert len(medjax.load(tmp_path / "run").predict([films / "m.npy"])) == 1
