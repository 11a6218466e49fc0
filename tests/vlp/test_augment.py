"""Augmentation against other implementations, one transform at a time."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter, zoom

from medjax.vlp.augment import (
    AUGMENTATIONS,
    AugmentConfig,
    _square_to_quad,
    augment,
    evaluate,
)

FILMS = np.random.default_rng(0).integers(0, 256, (3, 24, 24)).astype(np.uint8)
ON_DEVICE = jnp.asarray(FILMS)
PLAIN = AugmentConfig(size=24, normalise="none")
KEY = jax.random.key(0)


def grey(config: AugmentConfig, films: np.ndarray = FILMS, seed: int = 0) -> np.ndarray:
    out = augment(jnp.asarray(films), config, key=jax.random.key(seed))
    return np.asarray(out)[..., 0] * 255


def test_identity_is_exact():
    np.testing.assert_array_equal(np.round(grey(PLAIN), 3), FILMS.astype(np.float32))


def test_normalisation_gives_three_channels():
    out = np.asarray(augment(ON_DEVICE, replace(PLAIN, normalise="imagenet"), key=KEY))
    expected = (FILMS[..., None] / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_a_view_is_brought_to_another_size_corners_on_corners():
    """As SciPy does, and as nothing else is changed by it."""
    config = replace(PLAIN, upsample=35)
    found = np.asarray(evaluate(ON_DEVICE, config))[..., 0] * 255
    assert found.shape == (3, 35, 35)
    for film, ours in zip(FILMS, found, strict=True):
        theirs = zoom(film.astype(float), 35 / 24, order=1, grid_mode=False)
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
    np.testing.assert_allclose(found[:, ::34, ::34], FILMS[:, ::23, ::23], atol=1e-3)
    with pytest.raises(ValueError, match="upsample: expected two pixels"):
        replace(PLAIN, upsample=1)


@pytest.mark.parametrize(("name", "axis"), [("horizontal", 2), ("vertical", 1)])
def test_flips_are_exact(name, axis):
    flipped = grey(replace(PLAIN, **{f"flip_{name}": 1.0}))
    np.testing.assert_allclose(flipped, np.flip(FILMS, axis), atol=1e-3)


def test_quarter_turn_is_counter_clockwise():
    turned = grey(replace(PLAIN, rotation=(90.0, 90.0)))
    np.testing.assert_allclose(turned, np.rot90(FILMS, axes=(1, 2)), atol=0.05)


def test_rotation_equals_pillow():
    smooth = np.stack([gaussian_filter(f.astype(float), 2) for f in FILMS])
    smooth = smooth.astype(np.uint8)
    turned = grey(replace(PLAIN, rotation=(25.0, 25.0)), smooth)
    for film, ours in zip(smooth, turned, strict=True):
        theirs = Image.fromarray(film).rotate(25, Image.Resampling.BILINEAR)
        # Pillow treats the one-pixel rim its own way.
        inner = np.hypot(*(np.indices((24, 24)) - 11.5)) < 10
        np.testing.assert_allclose(ours[inner], np.asarray(theirs)[inner], atol=1.0)


def test_crops_are_whole_pixels_and_all_offsets_occur():
    config = replace(PLAIN, size=21, crop_area=((21 / 24) ** 2,) * 2)
    windows = np.lib.stride_tricks.sliding_window_view(FILMS[0], (21, 21))
    seen = set()
    many = np.repeat(FILMS[:1], 200, axis=0)
    for crop in grey(config, many):
        error = np.abs(windows - crop).max((2, 3))
        assert error.min() < 1e-3
        seen.add(int(error.argmin()))
    assert len(seen) == 16


def test_centre_crop_and_evaluation_are_deterministic():
    config = replace(AUGMENTATIONS["imitate"], size=21, normalise="none")
    out = np.asarray(evaluate(ON_DEVICE, config))[..., 0] * 255
    middle = evaluate(
        ON_DEVICE, replace(config, crop_area=((20 / 24) ** 2,) * 2, size=20)
    )
    np.testing.assert_allclose(out, FILMS[:, 1:22, 1:22], atol=1e-3)
    expected = FILMS[:, 2:22, 2:22]
    np.testing.assert_allclose(np.asarray(middle)[..., 0] * 255, expected, atol=1e-3)
    whole = evaluate(
        ON_DEVICE, replace(AUGMENTATIONS["convirt"], size=24, normalise="none")
    )
    np.testing.assert_allclose(np.asarray(whole)[..., 0] * 255, FILMS, atol=1e-3)


def test_padding_is_black():
    config = replace(PLAIN, pad=8)
    films = np.full((50, 24, 24), 200, np.uint8)
    out = grey(config, films)
    assert np.isin(np.round(out), (0, 200)).all()
    assert (np.round(out) == 0).any((1, 2)).mean() > 0.9


def test_resize_equals_torch():
    torch = pytest.importorskip("torch", reason="parity needs PyTorch (extra: parity)")
    ours = grey(replace(PLAIN, size=37))
    theirs = torch.nn.functional.grid_sample(
        torch.from_numpy(FILMS[:, None].astype(np.float32)),
        torch.nn.functional.affine_grid(
            torch.eye(2, 3)[None].repeat(3, 1, 1), [3, 1, 37, 37], align_corners=False
        ),
        align_corners=False,
    )
    np.testing.assert_allclose(ours, theirs[:, 0].numpy(), atol=0.01)


def test_affine_equals_torch():
    torch = pytest.importorskip("torch", reason="parity needs PyTorch (extra: parity)")
    config = replace(PLAIN, rotation=(12.0, 12.0), zoom=(1.2, 1.2))
    c, s = np.cos(np.deg2rad(12)) / 1.2, np.sin(np.deg2rad(12)) / 1.2
    theta = torch.tensor([[c, -s, 0.0], [s, c, 0.0]], dtype=torch.float32)
    grid = torch.nn.functional.affine_grid(
        theta[None].repeat(3, 1, 1), [3, 1, 24, 24], align_corners=False
    )
    films = torch.from_numpy(FILMS[:, None].astype(np.float32))
    theirs = torch.nn.functional.grid_sample(films, grid, align_corners=False)
    np.testing.assert_allclose(grey(config), theirs[:, 0].numpy(), atol=0.01)


def test_homography_takes_corners_to_corners():
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)
    quad = (corners * (1 - 0.5 * np.random.default_rng(1).random((4, 2)))).astype("f4")
    m = np.asarray(_square_to_quad(jnp.asarray(quad)))
    points = np.c_[corners, np.ones(4)] @ m.T
    np.testing.assert_allclose(points[:, :2] / points[:, 2:], quad, atol=1e-5)


def test_perspective_only_shrinks_towards_the_middle():
    config = replace(PLAIN, size=48, perspective=0.5, perspective_probability=1.0)
    out = grey(config, np.full((40, 48, 48), 255, np.uint8))
    assert out[:, 18:30, 18:30].min() > 250, "the middle stays covered"
    covered = (out > 128).mean((1, 2))
    assert (covered < 1).all() and (covered > 0.25).all() and np.ptp(covered) > 0.1
    same = grey(replace(config, perspective_probability=0.0), FILMS)
    assert same.shape == (3, 48, 48)


def test_translation_moves_by_at_most_its_share():
    film = np.zeros((60, 24, 24), np.uint8)
    film[:, 12, 12] = 255
    out = grey(replace(PLAIN, translation=0.25), film)
    rows, columns = np.indices((24, 24))
    mass = out.sum((1, 2))
    y, x = (out * rows).sum((1, 2)) / mass, (out * columns).sum((1, 2)) / mass
    assert 4 < np.abs(np.c_[x, y] - 12).max() <= 6.01


def test_autocontrast_equals_pillow():
    films = (FILMS // 3 + 40).astype(np.uint8)
    ours = grey(replace(PLAIN, autocontrast=1.0), films)
    for film, out in zip(films, ours, strict=True):
        theirs = np.asarray(ImageOps.autocontrast(Image.fromarray(film)))
        np.testing.assert_allclose(out, theirs, atol=1.0)
    flat = np.full((1, 24, 24), 90, np.uint8)
    np.testing.assert_allclose(
        grey(replace(PLAIN, autocontrast=1.0), flat), 90, rtol=1e-5
    )


def test_blur_equals_scipy():
    ours = grey(replace(PLAIN, blur=(1.3, 1.3)))
    for film, out in zip(FILMS, ours, strict=True):
        theirs = gaussian_filter(film.astype(float), 1.3, mode="mirror", radius=4)
        np.testing.assert_allclose(out, theirs, atol=0.01)


def test_brightness_and_contrast_by_hand():
    bright = grey(replace(PLAIN, brightness=(1.4, 1.4)))
    np.testing.assert_allclose(bright, np.minimum(FILMS * 1.4, 255), rtol=1e-5)
    contrast = grey(replace(PLAIN, contrast=(0.5, 0.5)))
    mean = FILMS.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(contrast, (FILMS + mean) / 2, rtol=1e-4)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_recipes_are_finite_and_determined_by_the_key(name):
    config = replace(AUGMENTATIONS[name], size=16)
    first, again, other = (
        np.asarray(augment(ON_DEVICE, config, key=jax.random.key(seed)))
        for seed in (1, 1, 2)
    )
    assert first.shape == (3, 16, 16, 3) and first.dtype == np.float32
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() == (name != "eval")


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="crop_area"):
        AugmentConfig(crop_area=(0.0, 1.0))
    with pytest.raises(ValueError, match="rotation"):
        AugmentConfig(rotation=(10.0, -10.0))
    with pytest.raises(ValueError, match="square"):
        augment(jnp.zeros((1, 8, 9), jnp.uint8), PLAIN, key=KEY)
