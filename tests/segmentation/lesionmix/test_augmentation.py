"""Mixing inside a step: one result per key, loads by the law, donors from others."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from medjax.data.boundary import DataError
from medjax.segmentation.labels import classes
from medjax.segmentation.lesionmix.augmentation import (
    COLLECTION,
    MixingConfig,
    apart,
    make_mixing,
)
from medjax.segmentation.lesionmix.inpaint import InpaintConfig
from medjax.segmentation.lesionmix.mix import LesionMixConfig
from medjax.segmentation.lesionmix.patches import LesionPatches, organ_of
from medjax.segmentation.lesionmix.populate import PopulateConfig
from medjax.segmentation.sampling import PatchConfig, foreground_voxels
from medjax.segmentation.system import SegmentationSystem
from medjax.train.mesh import MeshConfig, make_mesh
from tests.segmentation.lesionmix.cases import SPACING, phantoms

LESIONS = LesionMixConfig(PopulateConfig(slots=8), InpaintConfig(sweeps=4))
MIX = MixingConfig(method="lesionmix", p=1.0, lesionmix=LESIONS, room=20)
PATCHES = PatchConfig(patch=(32, 32), source=(40, 40), batch_size=8)
LABELS = classes({"lesion": 1}, ignore=9)
KEY = jax.random.key(3)


def rows_of(count=6):
    """Prepared slices, zero around the brain."""
    rows = []
    for case in phantoms()[:count]:
        label = case.lesion[None].astype(np.int16)
        image = case.image / case.image.std()
        voxels, kinds = foreground_voxels(label, 2)
        row = {"id": case.name, "image": image[None, ..., None].astype(np.float32)}
        rows.append({**row, "label": label, "voxels": voxels, "classes": kinds})
    return rows


def made(config=MIX, **options):
    return make_mixing(config, rows_of(), PATCHES, SPACING, LABELS, **options)


def batch_of(patches):
    rows = [patches.cut({"index": i}, np.random.default_rng(i)) for i in range(8)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.fixture(scope="module")
def lesions():
    """Patches, mixer, a batch, and what becomes of it."""
    patches, mixer = made()
    batch = batch_of(patches)
    batch["label"][0, :4] = 2  # nobody annotated these
    for name in ("label", "host_components", "host_volumes", "host_density"):
        batch[name][1] = 0  # no organ, no lesion
    mix = jax.jit(mixer.mixed)
    return patches, mixer, batch, mix, mix(batch, mixer.collection, KEY)


def test_loads_follow_the_law_by_the_share_of_the_organ(lesions):
    _, mixer, batch, _, found = lesions
    low, high = mixer.law.values
    assert 0 < low < high
    before = (batch["host_components"] > 0).sum((1, 2))
    after = (np.asarray(found["label"]) == 1).sum((1, 2))
    share = batch["host_share"]
    assert (share > 0.2).all() and (share <= 1).all() and share.min() < 0.95
    most = high * share
    slack = np.maximum(0.05 * most, 3)
    more, less = after > before, after < before
    assert more.any() and less.any(), "the seed should show both"
    assert (after[more] <= (most + slack)[more]).all()
    old = batch["host_components"] > 0
    new = np.asarray(found["label"]) == 1
    assert not (new & ~old)[less].any()
    assert new[more].sum() and not (new & (batch["host_density"] == 0))[more].any()


def test_without_an_organ_a_patch_passes_through(lesions):
    _, _, batch, _, found = lesions
    assert batch["host_share"][1] > 0, "lesions are asked for"
    np.testing.assert_array_equal(found["image"][1], batch["image"][1])
    assert not np.asarray(found["label"])[1].any()


def test_what_nobody_annotated_stays_so(lesions):
    _, _, batch, _, found = lesions
    np.testing.assert_array_equal(found["label"] == 2, batch["label"] == 2)
    assert found["label"].dtype == jnp.int16
    assert found["image"].shape == batch["image"].shape


def test_a_row_is_the_same_in_any_batch_and_on_any_devices(lesions):
    _, mixer, batch, mix, whole = lesions
    some = {name: value[:3] for name, value in batch.items()}
    found = mix(some, mixer.collection, KEY)
    for name in ("image", "label"):
        np.testing.assert_array_equal(found[name], whole[name][:3])
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    with jax.set_mesh(mesh):
        placed = jax.device_put(batch, split)
        found = jax.jit(mixer.mixed)(placed, mixer.collection, KEY)
    for name in ("image", "label"):
        np.testing.assert_array_equal(found[name], whole[name])
    other = mix(batch, mixer.collection, jax.random.key(4))
    assert (other["label"] != whole["label"]).any()


def test_a_system_gets_mixed_patches_and_the_bank_is_beside_its_parameters(lesions):
    _, mixer, batch, _, _ = lesions
    seen = {}

    def init(key, batch):
        return {"params": {"w": jnp.zeros(())}}

    def loss(variables, batch, key):
        seen.update(variables=variables, batch=batch)
        return jnp.sum(batch["image"]) * variables["params"]["w"], ({}, {})

    plain = SegmentationSystem(init, loss, lambda *_: {}, lambda found: found)
    system = mixer.system(plain)
    variables = system.init(KEY, batch)
    assert set(variables) == {"params", COLLECTION}
    jax.eval_shape(system.loss, variables, batch, KEY)
    assert set(seen["variables"]) == {"params"}
    assert {name: value.shape for name, value in seen["batch"].items()} == {
        name: batch[name].shape for name in ("image", "label")
    }


def test_mixing_draws_from_keys_that_augmentation_has_not():
    """Not from those of a row, nor from what a row's is split into."""

    def some(key):
        return [jax.random.fold_in(key, i) for i in range(8)]

    def numbers(keys):
        return {tuple(jax.random.key_data(key).tolist()) for key in keys}

    rows = some(KEY)
    others = [key for row in rows for key in (*some(row), *jax.random.split(row, 5))]
    assert not numbers(some(apart(KEY))) & numbers([*rows, *others])


def test_a_patch_is_left_alone_as_often_as_it_says(lesions):
    patches, mixer, batch, _, _ = lesions
    never = dataclasses.replace(mixer, config=dataclasses.replace(MIX, p=0.0))
    found = jax.jit(never.mixed)(batch, never.collection, KEY)
    for name in ("image", "label"):
        np.testing.assert_array_equal(found[name], batch[name])


def test_peers_paste_from_another_case_at_its_own_place():
    patches, mixer = made(dataclasses.replace(MIX, method="cutmix"))
    assert mixer.bank is None and mixer.collection == {}
    batch = batch_of(patches)
    assert not (batch["image"][..., 0] == batch["donor_image"]).all((1, 2)).any()
    mix = jax.jit(mixer.mixed)
    found = mix(batch, {}, KEY)
    some = mix({name: value[:3] for name, value in batch.items()}, {}, KEY)
    for name in ("image", "label"):
        np.testing.assert_array_equal(some[name], found[name][:3])
    image = np.asarray(found["image"])[..., 0]
    changed = image != batch["image"][..., 0]
    old, donor = batch["host_components"] > 0, batch["donor_components"] > 0
    new = np.asarray(found["label"]) == 1
    assert changed.any((1, 2)).sum() > 4
    np.testing.assert_array_equal(new[~changed & ~donor], old[~changed & ~donor])
    assert not (new & ~old & ~donor).any()


def test_fields_are_of_the_source_that_is_cut():
    rows = rows_of(2)
    organs = [organ_of(row["image"][..., 0]) for row in rows]
    np.testing.assert_array_equal(organs[0][0], phantoms()[0].organ)
    patches = LesionPatches(rows, PATCHES, organs, SPACING, room=2, paired=True)
    found = patches.fields("host", 0, rows[0], (0, -4, 3))
    lesion = np.zeros((40, 40), bool)
    lesion[4:, :] = rows[0]["label"][0, :36, 3:43] == 1
    np.testing.assert_array_equal(found["host_components"] > 0, lesion)
    assert found["host_components"].max() == 2, "the rest shares the last number"
    assert found["host_volumes"].sum() == lesion.sum()
    inside = organs[0][0, :36, 3:43]
    assert found["host_share"] == pytest.approx(inside.sum() / organs[0].sum())
    assert ((found["host_density"] > 0).sum()) == inside.sum()
    cut = patches.cut({"index": 7}, np.random.default_rng(1))
    assert cut["donor_image"].shape == (40, 40)


def test_an_image_without_an_outside_is_all_organ():
    image = np.random.default_rng(0).normal(size=(2, 6, 6)).astype(np.float32)
    assert organ_of(image).all() and organ_of(np.zeros_like(image)).all()


def test_what_cannot_be_mixed_is_told_in_words():
    rows = rows_of(2)
    two = classes({"edema": 1, "core": 2})
    with pytest.raises(DataError, match="one channel and one kind of lesion"):
        make_mixing(MIX, rows, PATCHES, SPACING, two)
    with pytest.raises(DataError, match="case1"):
        make_mixing(MIX, rows, PATCHES, SPACING, LABELS, held_out=["case1"])
    with pytest.raises(ValueError, match="two training cases"):
        peer = dataclasses.replace(MIX, method="selfmix")
        make_mixing(peer, rows[:1], PATCHES, SPACING, LABELS)
    bare = [{**row, "label": 0 * row["label"]} for row in rows]
    with pytest.raises(DataError, match="no lesion"):
        make_mixing(MIX, bare, PATCHES, SPACING, LABELS)
    with pytest.raises(ValueError, match="p 2"):
        MixingConfig(p=2)
