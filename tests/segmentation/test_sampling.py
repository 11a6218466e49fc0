"""Patches: where they lie, what they hold, and who cuts them."""

import numpy as np
import pytest

from medjax.data.pipeline import PipelineConfig, build_pipeline
from medjax.segmentation.sampling import (
    PatchConfig,
    Patches,
    foreground_voxel,
    foreground_voxels,
    place,
    window,
)

RNG = np.random.default_rng(0)


def case(shape=(9, 40, 30)):
    """Every voxel knows its place; two small structures in opposite corners."""
    image = np.stack(np.indices(shape), axis=-1).astype(np.float32) + 1
    label = np.zeros(shape, np.int16)
    label[1, 2:4, 2] = 1
    label[-2, -10:-2, -10:-2] = 2
    voxels, classes = foreground_voxels(label, 3)
    return {"image": image, "label": label, "voxels": voxels, "classes": classes}


CASE = case()
CONFIG = PatchConfig(patch=(4, 16, 16), source=(6, 20, 20), batch_size=6, batches=2)


def test_the_last_third_holds_the_foreground():
    patches = Patches([CASE], CONFIG)
    assert [CONFIG.forced(i) for i in range(6)] == [False] * 4 + [True] * 2
    seen = set()
    for epoch in range(20):
        for row in (4, 5, 10, 11):
            found = patches.cut({"index": row}, np.random.default_rng(epoch * 12 + row))
            assert found["image"].shape == (6, 20, 20, 3)
            assert found["label"].any()
            seen |= set(np.unique(found["label"])) - {0}
    assert seen == {1, 2}


def test_classes_are_equally_likely_however_large():
    counts = np.zeros(3)
    for i in range(400):
        voxel = foreground_voxel(
            CASE["voxels"], CASE["classes"], np.random.default_rng(i)
        )
        counts[CASE["label"][tuple(voxel)]] += 1
    assert counts[0] == 0 and 150 < counts[1] < 250
    none = np.zeros((0, 3), np.int32), np.zeros(0, np.int16)
    assert foreground_voxel(*none, np.random.default_rng(0)) is None


def test_voxels_of_a_large_structure_are_thinned_evenly():
    label = np.zeros((2, 50, 50), np.int16)
    label[1], label[0, 0] = 1, 3  # 3 is "ignored" among three labels
    voxels, classes = foreground_voxels(label, 3, most=100)
    assert len(voxels) == 100 and (classes == 1).all()
    assert voxels[:, 1].min() == 0 and voxels[:, 1].max() == 49


@pytest.mark.parametrize("shape", [(40, 30), (12, 30), (5, 5)])
def test_the_patch_stays_inside_and_reaches_every_border(shape):
    patch, source = (16, 12), (24, 20)
    corners = np.array(
        [place(shape, patch, source, np.random.default_rng(i)) for i in range(600)]
    )
    for axis, (n, p, s) in enumerate(zip(shape, patch, source, strict=True)):
        first = corners[:, axis] + (s - p) // 2
        if n >= p:
            assert first.min() == 0 and first.max() == n - p
        else:  # all of the volume is in every source
            assert corners[:, axis].max() <= 0 and corners[:, axis].min() + s >= n


def test_what_lies_beyond_is_zero():
    found = window(CASE["image"], (-2, 35, 0), (4, 8, 3))
    assert not found[:2].any() and not found[:, 5:].any()
    np.testing.assert_array_equal(found[2:, :5], CASE["image"][:2, 35:, :3])
    assert not window(CASE["label"], (50, 0, 0), (2, 2, 2)).any()


def test_slices_of_volumes_for_a_flat_network():
    config = PatchConfig(patch=(16, 16), source=(20, 20), batch_size=3)
    patches = Patches([CASE], config)
    found = patches.cut({"index": 2}, np.random.default_rng(0))
    assert found["image"].shape == (20, 20, 3) and found["label"].shape == (20, 20)
    planes = found["image"][..., 0]
    assert len(np.unique(planes[planes > 0])) == 1 and found["label"].any()


def test_any_number_of_processes_cuts_the_same_patches():
    patches = Patches([CASE, case((6, 20, 24))], CONFIG)
    settings = PipelineConfig(batch_size=6, shuffle=False, prefetch=1)

    def batches(index, count):
        stream = iter(
            build_pipeline(
                patches,
                settings,
                transform=patches.cut,
                process_index=index,
                process_count=count,
            )
        )
        return [next(stream)["image"] for _ in range(3)]

    alone, halves = batches(0, 1), [batches(i, 2) for i in range(2)]
    for whole, first, second in zip(alone, *halves, strict=True):
        np.testing.assert_array_equal(whole, np.concatenate([first, second]))
    assert (alone[0] != alone[2]).any(), "another epoch, other patches"


def test_no_case_is_refused():
    with pytest.raises(ValueError, match="no case"):
        Patches([], CONFIG)
