"""Compression, whitening and map estimators, on coils whose maps are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.data import mat73
from medjax.mri import coils, espirit, masks, sense
from medjax.mri.fourier import centred_ifft, fft2c, ifft2c
from tests.laws import assert_linear, complex_normal, norm

COILS, H, W = 4, 24, 22


def smooth_maps(
    count: int = COILS, h: int = H, w: int = W, spread: float = 3.0
) -> jax.Array:
    """Unit-norm maps: Gaussian sensitivities around the object, each with a phase."""
    y, x = np.meshgrid(np.linspace(-1, 1, h), np.linspace(-1, 1, w), indexing="ij")
    maps = []
    for i in range(count):
        angle = 2 * np.pi * i / count
        cy, cx = 1.2 * np.sin(angle), 1.2 * np.cos(angle)
        size = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / spread)
        maps.append(size * np.exp(1j * (angle + 0.6 * y * np.cos(angle) - 0.4 * x)))
    return sense.normalise_maps(jnp.asarray(np.stack(maps), jnp.complex64))


def disc(h: int = H, w: int = W) -> np.ndarray:
    y, x = np.meshgrid(np.linspace(-1, 1, h), np.linspace(-1, 1, w), indexing="ij")
    return y**2 + x**2 < 0.7


@pytest.fixture(scope="module")
def scene():
    """Maps, the object's pixels, and full k-space of a textured disc."""
    rng = np.random.default_rng(0)
    texture = 1 + 0.3 * rng.normal(size=(H, W))
    image = jnp.asarray(disc() * texture, jnp.complex64)
    maps = smooth_maps()
    return maps, disc(), fft2c(sense.expand(image, maps))


def agreement(found, truth, where) -> float:
    """Smallest |<found, truth>| over the object: phases per pixel do not matter."""
    return float(np.abs(np.asarray(sense.combine(found, truth)))[where].min())


def test_whitening_makes_noise_independent():
    factor = complex_normal(jax.random.key(0), (3, 3))
    covariance = factor @ jnp.conj(factor.T) + jnp.eye(3, dtype=jnp.complex64)
    white = complex_normal(jax.random.key(1), (3, 60, 60))
    noise = jnp.einsum("vc,chw->vhw", jnp.linalg.cholesky(covariance), white)
    found = jax.jit(coils.whiten)(noise, covariance)
    np.testing.assert_allclose(found, white, atol=1e-4)


def test_compression_rows_are_orthonormal_and_keep_the_most_energy(scene):
    _, _, kspace = scene
    energies = []
    for virtual in (1, 2, COILS):
        matrix = coils.compression_matrix(kspace, virtual=virtual)
        identity = matrix @ jnp.conj(matrix.T)
        np.testing.assert_allclose(identity, np.eye(virtual), atol=1e-5)
        energies.append(norm(coils.compress(kspace, matrix)) / norm(kspace))
    assert energies[0] < energies[1] < energies[2]
    np.testing.assert_allclose(energies[2], 1, rtol=1e-5)
    flat = np.asarray(kspace).reshape(COILS, -1)
    singular = np.linalg.svd(flat, compute_uv=False)
    best = np.sqrt((singular[:2] ** 2).sum() / (singular**2).sum())
    np.testing.assert_allclose(energies[1], best, rtol=1e-4)


def test_compression_is_linear_and_refuses_too_many_coils(scene):
    _, _, kspace = scene
    matrix = coils.compression_matrix(kspace, virtual=2)
    other = complex_normal(jax.random.key(5), kspace.shape)
    assert_linear(lambda k: coils.compress(k, matrix), kspace, other)
    with pytest.raises(ValueError, match=r"virtual=9 is not in 1\.\.4"):
        coils.compression_matrix(kspace, virtual=9)


def test_geometric_compression_keeps_more_and_turns_smoothly(scene):
    """Its optimum at every readout position is at least the common one's there."""
    maps, _, kspace = scene
    common = coils.compression_matrix(kspace, virtual=2)
    own = coils.geometric_compression(kspace, virtual=2)
    identity = own @ jnp.conj(jnp.swapaxes(own, -1, -2))
    np.testing.assert_allclose(
        identity, np.broadcast_to(np.eye(2), (W, 2, 2)), atol=1e-5
    )
    kept = [norm(coils.compress(kspace, m)) / norm(kspace) for m in (common, own)]
    assert kept[0] < kept[1] < 1
    hybrid = centred_ifft(kspace, axes=(-1,))
    alone = [
        coils.compression_matrix(hybrid[..., x : x + 1], virtual=2) for x in range(W)
    ]
    inside = slice(4, -4)  # beside the disc there is nothing to be smooth about
    steps = [
        np.abs(np.diff(np.asarray(m)[inside], axis=0)).mean()
        for m in (jnp.stack(alone), own)
    ]
    assert steps[1] < 0.5 * steps[0]  # unaligned eigenvectors jump
    virtual = coils.compress(maps, own, image=True)
    seen = sense.expand(jnp.asarray(disc(), jnp.complex64), maps)
    images = coils.compress(seen, own, image=True)
    np.testing.assert_allclose(np.asarray(virtual) * disc(), images, atol=1e-5)


@pytest.mark.parametrize("how", ["svd", "geometric"])
def test_all_coils_kept_reconstruct_the_same(scene, how):
    maps, _, kspace = scene
    make = coils.compression_matrix if how == "svd" else coils.geometric_compression
    matrix = make(kspace, virtual=COILS)
    mask = masks.equispaced(H, acceleration=2, acs=6)
    turned = coils.compress(kspace, matrix)
    np.testing.assert_allclose(
        sense.rss(ifft2c(turned)), sense.rss(ifft2c(kspace)), atol=1e-5
    )
    solved = [
        sense.solve(sense.sample(k, mask), m, mask, lam=1e-3, iterations=15)
        for k, m in (
            (kspace, maps),
            (turned, coils.compress(maps, matrix, image=True)),
        )
    ]
    np.testing.assert_allclose(solved[1], solved[0], atol=1e-4)


@pytest.mark.parametrize("estimate", [coils.walsh_maps, coils.inati_maps])
def test_maps_from_coil_images_match_the_truth(scene, estimate):
    maps, inside, kspace = scene
    found = estimate(coils.low_resolution(kspace, acs=16, columns=16))
    size = np.asarray(sense.rss(found))
    np.testing.assert_allclose(size[inside], 1, atol=1e-5)
    assert agreement(found, maps, inside) > 0.97


@pytest.mark.parametrize("scale", [1e-12, 1e-8, 1e-2, 1e8, 1e12])
def test_maps_do_not_depend_on_the_unit_of_k_space(scene, scale):
    _, _, kspace = scene
    exact = 2.0 ** round(np.log2(scale))  # nothing is rounded, so nothing may differ
    for estimate in (
        lambda k: coils.walsh_maps(coils.low_resolution(k, acs=16, columns=16)),
        lambda k: coils.inati_maps(coils.low_resolution(k, acs=16, columns=16)),
        lambda k: espirit.espirit_maps(k, calibration=18, kernel=5),
    ):
        for found, wanted in zip(
            jax.tree.leaves(estimate(kspace * exact)),
            jax.tree.leaves(estimate(kspace)),
            strict=True,
        ):
            np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_scan_of_zeros_has_maps_of_zeros(scene):
    _, _, kspace = scene
    low = jnp.zeros_like(kspace)
    assert not np.any(coils.inati_maps(low))
    assert np.all(np.isfinite(coils.walsh_maps(low)))
    maps, values = espirit.espirit_maps(low, calibration=18, kernel=5)
    assert not np.any(maps) and np.all(np.isfinite(values))


def test_inati_maps_are_smooth_in_phase_too(scene):
    maps, inside, kspace = scene
    found = coils.inati_maps(coils.low_resolution(kspace, acs=16, columns=16))
    # the combined image has the object's phase (zero) up to one constant
    combined = np.asarray(
        sense.combine(sense.expand(jnp.ones_like(maps[0]), maps), found)
    )
    phase = np.angle(combined[inside] / combined[inside].mean())
    assert np.abs(phase).max() < 0.5


def test_box_mean_equals_its_definition_and_needs_a_centre():
    x = complex_normal(jax.random.key(0), (5, 6))
    padded = np.pad(np.asarray(x), 1)
    expected = sum(padded[i : i + 5, j : j + 6] for i in range(3) for j in range(3)) / 9
    np.testing.assert_allclose(coils.box_mean(x, size=3), expected, atol=1e-6)
    with pytest.raises(ValueError, match="smoothing must be odd and positive, got 4"):
        coils.box_mean(x, size=4)


def test_espirit_finds_the_maps_with_eigenvalue_one(scene):
    maps, inside, kspace = scene
    found, values = espirit.espirit_maps(kspace, calibration=18, kernel=5)
    assert found.shape == (1, COILS, H, W) and values.shape == (1, H, W)
    eigenvalues = np.asarray(values[0])
    assert eigenvalues[inside].min() > 0.98 and eigenvalues.max() < 1 + 1e-4
    assert agreement(found[0], maps, inside) > 0.99
    first = np.asarray(found[0, 0])[inside]
    assert np.abs(first.imag).max() < 1e-5 and first.real.min() >= 0


def test_a_folded_field_of_view_needs_two_sets():
    """Halving the field of view puts two maps on one pixel; two sets explain both.

    The texture matters: two constant regions on top of each other are one region with
    the sum of the maps.
    """
    texture = np.random.default_rng(0).normal(size=(2 * H, W))
    image = jnp.asarray(disc(2 * H, W) * texture, jnp.complex64)
    maps = smooth_maps(6, h=2 * H, spread=0.7)
    kspace = fft2c(sense.expand(image, maps))[:, ::2]
    _, values = espirit.espirit_maps(kspace, calibration=18, kernel=5, sets=3, crop=0.9)
    values = np.asarray(values)[:, :, W // 2]
    # the disc is wider than half the field: its top and bottom overlap at the border
    assert values[0].min() > 0.97
    assert values[1, 0] > 0.97 and values[1, H // 2] < 0.9
    assert values[2].max() < 0.8


def test_espirit_refuses_impossible_sizes(scene):
    _, _, kspace = scene
    with pytest.raises(ValueError, match="calibration=4 must be at least the kernel"):
        espirit.espirit_maps(kspace, calibration=4)
    with pytest.raises(ValueError, match=r"sets=5 is not in 1\.\.4 coils"):
        espirit.espirit_maps(kspace, calibration=18, kernel=5, sets=5)


def test_all_estimators_agree_on_the_real_phantom(shared_data):
    """Combining the fully sampled scan with any maps gives the RSS image's detail."""
    path = shared_data / "mri/irt-mr-ghost/setup_mc_axial.mat"
    kspace = jnp.asarray(mat73.read(path, "ycart"), jnp.complex64)
    mask = masks.equispaced(64, acceleration=1, acs=0)
    low = coils.low_resolution(kspace, acs=24, columns=24)
    maps = {
        "walsh": coils.walsh_maps(low),
        "inati": coils.inati_maps(low),
        "espirit": espirit.espirit_maps(kspace, crop=0.0)[0][0],
    }
    reference = np.asarray(mat73.read(path, "xref_sos"))
    for name, found in maps.items():
        image = np.abs(np.asarray(sense.adjoint(kspace, found, mask)))
        assert np.corrcoef(image.ravel(), reference.ravel())[0, 1] > 0.995, name


def test_espirit_agrees_with_sigpy(scene):
    app = pytest.importorskip(
        "sigpy.mri.app", reason="optional peer: pip install sigpy"
    )
    _, inside, kspace = scene
    theirs = app.EspiritCalib(
        np.asarray(kspace), calib_width=18, kernel_width=5, crop=0, show_pbar=False
    ).run()
    ours, _ = espirit.espirit_maps(kspace, calibration=18, kernel=5, crop=0.0)
    difference = np.abs(np.asarray(ours[0]) - theirs)
    assert difference[:, inside].max() < 1e-3
