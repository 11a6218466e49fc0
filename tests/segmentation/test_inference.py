"""Tiles: against MONAI's, a brute force, and laws."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.segmentation import inference
from medjax.segmentation.inference import (
    WindowConfig,
    importance,
    planes,
    sliding_window,
    starts,
    tile_mesh,
)
from medjax.train.mesh import MeshConfig, make_mesh

RNG = np.random.default_rng(0)
MONAI = WindowConfig(placement="clamped", batch=3)
FLAT, SOLID = (16, 12), (6, 16, 12)
VOLUMES = {
    "flat": (FLAT, (5, 37, 30)),
    "solid": (SOLID, (15, 37, 30)),
    "larger patch": (SOLID, (4, 9, 30)),
}


def positions(shape):
    """Something that depends on the place in the tile, so that tiles disagree."""
    grid = np.indices(shape).astype(np.float32)
    return sum((i + 1) * g for i, g in enumerate(grid))[..., None]


def tile_of(patch):
    ramp = jnp.asarray(positions(patch))

    def tile(variables, patches, key):
        double = patches * variables["gain"] + 0.1 * ramp[None] * jnp.sign(patches)
        return {"value": double, "square": double**2}

    return tile


TILES = {patch: tile_of(patch) for patch in (FLAT, SOLID)}
GAIN = {"gain": jnp.float32(2)}


def volume(shape):
    return RNG.normal(size=(*shape, 1)).astype(np.float32)


def brute(patch, image, config):
    """Every tile by itself, in double precision."""
    full = (1,) * (3 - len(patch)) + patch
    pads = [
        (max(k - n, 0) // 2, max(k - n, 0) - max(k - n, 0) // 2)
        for n, k in zip(image.shape, full, strict=False)
    ]
    wide = np.pad(image.astype(float), [*pads, (0, 0)])
    laid = [
        starts(n, k, step=config.step, placement=config.placement)
        for n, k in zip(wide.shape, full, strict=False)
    ]
    weight = importance(full, gaussian=config.gaussian)[..., None].astype(float)
    sums, total = np.zeros(wide.shape), np.zeros(wide.shape)
    ramp = positions(patch).reshape(*full, 1)
    for z in laid[0]:
        for y in laid[1]:
            for x in laid[2]:
                at = tuple(
                    slice(a, a + k) for a, k in zip((z, y, x), full, strict=True)
                )
                said = 2 * wide[at] + 0.1 * ramp * np.sign(wide[at])
                sums[at] += weight * said
                total[at] += weight
    inside = tuple(
        slice(p, p + n) for (p, _), n in zip(pads, image.shape, strict=False)
    )
    return (sums / total)[inside]


@pytest.mark.parametrize("name", VOLUMES)
@pytest.mark.parametrize("placement", ["even", "clamped"])
def test_every_voxel_is_the_weighted_mean_of_its_tiles(name, placement):
    patch, shape = VOLUMES[name]
    config = dataclasses.replace(MONAI, placement=placement)
    image = volume(shape)
    found = sliding_window(TILES[patch], GAIN, image, patch=patch, config=config)
    assert found["value"].shape == found["square"].shape == (*shape, 1)
    expected = brute(patch, image, config)
    np.testing.assert_allclose(found["value"], expected, atol=2e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["solid", "larger patch"])
def test_equal_to_monais(name):
    torch = pytest.importorskip("torch", reason="oracle: MONAI")
    inferers = pytest.importorskip("monai.inferers", reason="oracle: MONAI")
    patch, shape = VOLUMES[name]
    image = volume(shape)
    ramp = torch.tensor(positions(patch))[None].movedim(-1, 1)

    def theirs(x):
        return 2 * x + 0.1 * ramp * torch.sign(x)

    expected = inferers.sliding_window_inference(
        torch.tensor(image)[None].movedim(-1, 1),
        patch,
        3,
        theirs,
        overlap=0.5,
        mode="gaussian",
    )
    found = sliding_window(TILES[patch], GAIN, image, patch=patch, config=MONAI)
    scale = float(expected.abs().max())
    expected = expected[0].movedim(0, -1).numpy()
    np.testing.assert_allclose(found["value"], expected, atol=1e-6 * scale)


def test_what_depends_on_voxels_alone_is_not_changed_by_tiles():
    def square(variables, patches, key):
        return {"square": patches**2}

    image = volume((15, 37, 30))
    found = sliding_window(
        square, {}, image, patch=SOLID, config=WindowConfig(mirror=True)
    )
    np.testing.assert_allclose(found["square"], image**2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("placement", ["even", "clamped"])
def test_a_patch_may_be_one_voxel_along_an_axis(placement):
    def plus(variables, patches, key):
        return {"plus": patches + 1}

    image, config = volume((3, 9, 8)), WindowConfig(placement=placement)
    found = sliding_window(plus, {}, image, patch=(1, 8, 8), config=config)
    np.testing.assert_allclose(found["plus"], image + 1, rtol=1e-5)


def test_mirrors_are_averaged():
    """A tile that says where it is has, averaged over mirrors, the same said by all."""
    config = WindowConfig(mirror=True, batch=5)
    image = np.ones((5, *FLAT, 1), np.float32)
    found = sliding_window(TILES[FLAT], GAIN, image, patch=FLAT, config=config)
    middle = 2 + 0.1 * positions(FLAT).mean()
    np.testing.assert_allclose(found["value"], middle, rtol=1e-5)


def test_one_program_for_volumes_of_a_bucket():
    image = volume((15, 37, 30))
    sliding_window(TILES[SOLID], GAIN, image, patch=SOLID, config=MONAI)
    before = inference._row._cache_size()
    for shape in ((15, 34, 27), (40, 60, 32), (6, 33, 12)):
        sliding_window(TILES[SOLID], GAIN, volume(shape), patch=SOLID, config=MONAI)
    assert inference._row._cache_size() == before


def test_planes_come_as_they_are_finished():
    image = volume((15, 37, 30))
    pieces = list(planes(TILES[SOLID], GAIN, image, patch=SOLID, config=MONAI))
    assert [len(piece["value"]) for piece in pieces] == [3, 3, 3, 6]


def test_one_key_for_all_tiles_or_one_for_each():
    def draw(variables, patches, key):
        return {"drawn": jnp.ones_like(patches) * jax.random.normal(key)}

    image = volume((15, 37, 30))
    own = sliding_window(draw, {}, image, patch=SOLID, config=WindowConfig())
    config = WindowConfig(shared_key=True)
    shared = sliding_window(draw, {}, image, patch=SOLID, config=config)
    assert own["drawn"].std() > 0.1 and shared["drawn"].std() < 1e-5
    other = sliding_window(
        draw, {}, image, patch=SOLID, config=config, key=jax.random.key(1)
    )
    assert abs(other["drawn"].mean() - shared["drawn"].mean()) > 1e-3


@pytest.mark.parametrize("name", ["flat", "solid"])
@pytest.mark.parametrize("config", [MONAI, dataclasses.replace(MONAI, shared_key=True)])
def test_eight_devices_say_what_one_says(name, config):
    """To the last bit, draws included: what is added up has one order."""
    patch, shape = VOLUMES[name]
    image = volume(shape)

    def tile(variables, patches, key):
        noise = jax.random.normal(key, patches.shape)
        return {**TILES[patch](variables, patches, key), "drawn": noise}

    run = functools.partial(
        sliding_window, tile, GAIN, image, patch=patch, config=config
    )
    alone = run()
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    together = run(mesh=mesh)
    for said, expected in alone.items():
        np.testing.assert_array_equal(together[said], expected)
    assert alone["drawn"].std() > 0.1


def test_a_mesh_is_of_as_many_devices_as_asked():
    assert tile_mesh() is None and tile_mesh(1) is None  # this is a CPU
    assert tile_mesh(4).size == 4
    with pytest.raises(ValueError, match="devices: 9, expected 1 to the 8"):
        tile_mesh(9)


def test_starts_cover_all_and_end_at_the_end():
    assert starts(10, 10, step=0.5, placement="even") == [0]
    assert starts(10, 10, step=0.5, placement="clamped") == [0]
    # nnU-Net's documentation: 110 voxels, patches of 64, a step of 32.
    assert starts(110, 64, step=0.5, placement="even") == [0, 23, 46]
    assert starts(110, 64, step=0.5, placement="clamped") == [0, 32, 46]


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="step 0"):
        WindowConfig(step=0)
