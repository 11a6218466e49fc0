"""Demonstrations on real files: trees like theirs, invented and tiny."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.compare import (
    real_fills,
    real_hearts,
    real_lesions,
    real_segmentation,
)
from experiments.compare.real_segmentation import Demonstration, compare, table
from medjax.data import nifti
from medjax.metrics.lesionwise import EDGES
from medjax.mri.motion import MODES
from medjax.segmentation.pretrained import Segmenter
from medjax.segmentation.segmented import Segmented
from tests.compiling import quickly

SHAPE = (30, 32, 28)
LESIONS = {"01": (4, 9), "02": (5, 20), "07": (10, 10), "19": (16, 10), "26": (22, 10)}


@pytest.fixture(scope="module", autouse=True)
def quick_to_compile():
    with quickly():
        yield


def mask_of(first, second):
    """Two lesions: 4x4x4 voxels, and one of 3."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[first : first + 4, second : second + 4, 8:12] = 1
    mask[14, 25:28, 20] = 1
    return mask


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Five patients, three with images whose brains rise evenly; a stroke; a cine."""
    folder = tmp_path_factory.mktemp("data")
    patients, strokes = folder / "lesions/open_ms", folder / "lesions/lesymap"
    cine = folder / "heart/ep_dataset"
    for place in (patients, strokes, cine):
        place.mkdir(parents=True)
    turned = np.diag([-1.0, 1, 1, 1])
    i, j, k = np.indices(SHAPE)
    brain = 3.0 + 0.1 * i + 0.05 * j + 0.02 * k
    brain[[0, -1]] = brain[:, [0, -1]] = 0
    for name, place in LESIONS.items():
        mask = mask_of(*place)
        nifti.write(patients / f"MNI_patient{name}_GT.nii.gz", mask, affine=turned)
        if int(name) in (7, 19, 26):
            image = (brain + 4.0 * mask).astype(np.float32)
            path = patients / f"MNI_patient{name}_FLAIR.nii.gz"
            nifti.write(path, image, affine=turned)
    stroke = np.zeros((29, 31, 27), np.float32)
    stroke[12:20, 15:22, 14:20] = 1
    other = np.eye(4)
    other[0, 3] = -29.0
    nifti.write(strokes / "Subject_001.nii.gz", stroke, affine=other)
    rng = np.random.default_rng(0)
    y, x = np.indices((24, 24)) - 12
    labels = np.zeros((24, 24, 3, 4), np.uint8)
    labels[(y**2 + x**2 < 49)] = 2
    labels[(y**2 + x**2 < 16)] = 1
    image = 10.0 * labels + rng.random(labels.shape)
    affine = np.diag([2.0, 2.0, 8.0, 1.0])
    nifti.write(cine / "sa.nii.gz", image.astype(np.int16), affine=affine)
    nifti.write(cine / "seg_sa.nii.gz", labels, affine=affine)
    return folder


class Knows(Segmenter):
    """A trained network that gives the annotation."""

    def __init__(self, found):
        object.__setattr__(self, "found", found)

    def segment(self, images, *, id, maps):
        (case,) = (c for c in self.found.data.cases if c.id == id)
        return Segmented(id, self.found.data.read(case)[1], {})


@pytest.fixture
def asked(monkeypatch):
    """What would have been trained, on what."""
    runs = []

    def fitted(config, found):
        runs.append((config, found))
        return Knows(found)

    monkeypatch.setattr(real_lesions, "fitted", fitted)
    monkeypatch.setattr(real_hearts, "fitted", fitted)
    few = ("ring", "telea", "limit")
    fills = {name: real_fills.FILLS[name] for name in few}
    monkeypatch.setattr(real_fills, "FILLS", fills)
    monkeypatch.setattr(real_fills, "BOX", 20)
    return runs


@pytest.fixture
def config(root, tmp_path):
    return Demonstration(
        root=root,
        steps=3,
        widths=(2, 3),
        fills=2,
        strokes=1,
        trained_frames=2,
        workdir=tmp_path,
    )


def test_without_the_files_it_says_which(config, tmp_path):
    with pytest.raises(ValueError, match="root: these are demonstrations on real"):
        compare(dataclasses.replace(config, root=None))
    with pytest.raises(FileNotFoundError, match=r"open_ms.*lesymap.*ep_dataset"):
        compare(dataclasses.replace(config, root=tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no folder .*ep_dataset; leave parts"):
        compare(dataclasses.replace(config, root=tmp_path, parts=("cine",)))
    with pytest.raises(ValueError, match="parts is empty"):
        compare(dataclasses.replace(config, parts=()))
    (tmp_path / "lesions/open_ms").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no mask MNI_"):
        compare(dataclasses.replace(config, root=tmp_path, parts=("ms",)))


def test_loads_and_sizes_are_those_of_the_masks(root):
    found = real_lesions.described(root / "lesions/open_ms", root / "lesions/lesymap")
    ms, stroke = found["multiple sclerosis"], found["stroke"]
    assert (ms["masks"], ms["lesions"]) == (5, 10)
    assert ms["load_ml"] == pytest.approx([0.067] * 3)
    assert ms["sizes_mm3"][0] == 3 and ms["sizes_mm3"][-1] == 64
    shares = dict(zip(("less", *EDGES), ms["shares"], strict=True))
    assert shares[3.0] == shares[50.0] == 0.5 and sum(ms["shares"]) == 1
    assert stroke["load_ml"] == pytest.approx([8 * 7 * 6 / 1000] * 3)
    assert stroke["sides"] == [8] * 5


def test_every_patient_is_held_out_of_the_others(config, asked):
    found = compare(dataclasses.replace(config, parts=("ms",)))
    assert len(asked) == len(found["ms"]) == 6
    for (run, data), row in zip(asked, found["ms"], strict=True):
        held = {c.id: c.split for c in data.data.cases}
        assert held.pop(row["patient"]) == "test"
        assert set(held.values()) == {"train"} and len(data.train) == len(held) == 2
        assert run.mixing.method == row["method"] and run.train.steps == 3
        # Axial slices of the voxels as they are.
        assert data.preparation.order[0] == 2
        assert data.preparation.spacing == (1.0, 1.0, None)
        assert row["dice"] == row["lesion_f1"] == 1 and row["n_missed"] == 0
    assert table(found).count("| LesionMix | patient") == 3


def test_fills_are_compared_where_the_truth_is_known(config, asked):
    """Of tissue that rises evenly the harmonic limit is exact, a mean is not."""
    found = compare(dataclasses.replace(config, parts=("fills",)))["fills"]
    small, large = found["lesions"]["fills"], found["strokes"]["fills"]
    assert found["lesions"]["n"] == 2 and found["strokes"]["n"] == 1
    assert found["lesions"]["volumes_mm3"] == [64, 64, 64]
    assert small["limit"]["from_limit"]["mean"] == 0
    assert small["limit"]["error"]["mean"] < 0.02 < small["ring"]["error"]["mean"]
    assert large["limit"]["error"]["mean"] < large["telea"]["error"]["mean"]
    (row,) = (line for line in table({"fills": found}).split("\n") if "mean of" in line)
    assert f"{small['ring']['error']['median']:.3f}" in row


def test_late_frames_are_scanned_in_every_way(config, asked):
    found = compare(dataclasses.replace(config, parts=("cine",)))
    assert len(asked) == 2 and len(found["cine"]) == 2 * (1 + len(MODES))
    for _, data in asked:
        frames = [c.id.split("-")[0] for c in data.data.cases if c.split == "train"]
        assert set(frames) == {"frame00", "frame01"}
        late = {c.id.split("-")[0] for c in data.cases("test")}
        assert late == {"frame02", "frame03"}
    clean, moved = (len(data.train) for _, data in asked)
    assert (clean, moved) == (2, 2 + 2 * real_hearts.COPIES)
    rest, *breathing = found["cine"][:5]
    assert rest["mode"] == "at_rest" and rest["severity_mm"] == 0
    assert all(row["frames"] == 2 for row in found["cine"])
    assert breathing[-1]["severity_mm"] > 1 and rest["LV"]["dice"] == 1
    with pytest.raises(ValueError, match="trained_frames: 4 of 4"):
        compare(
            dataclasses.replace(
                config, parts=("cine",), trained_frames=4, workdir=config.workdir / "a"
            )
        )


def test_what_is_finished_is_kept(config, asked):
    some = dataclasses.replace(config, parts=("masks", "ms"))
    first = compare(some)
    assert json.loads(json.dumps(first)) == first
    assert compare(some) == first and len(asked) == 6
    assert str(config.root) not in json.dumps(first)
    with pytest.raises(ValueError, match="use another workdir"):
        compare(dataclasses.replace(some, steps=4))
    text = table(first)
    assert "multiple sclerosis" in text and "| fill |" not in text
    assert first["budget"]["steps"] == 3 and "fills" not in first["budget"]


def test_the_parts_are_those_of_the_command():
    assert set(real_segmentation.BUDGETS) == set(Demonstration().parts)
    assert jax.tree.all({k: v[0] != "" for k, v in real_fills.FILLS.items()})
