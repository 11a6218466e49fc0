"""Masks keep what they promise, and describe() says what they really measure."""

import jax
import numpy as np
import pytest

from medjax.mri import masks

# Counted by running the challenge's formula (every R-th line, 24 central ones).
CMRXRECON_COUNTS = {
    144: (54, 39, 36),
    116: (47, 36, 34),
    204: (69, 47, 42),
    246: (80, 52, 47),
    168: (60, 42, 39),
}


@pytest.mark.parametrize("lines", CMRXRECON_COUNTS)
def test_cmrxrecon_masks_keep_the_challenges_number_of_lines(lines):
    for acceleration, count in zip((4, 8, 10), CMRXRECON_COUNTS[lines], strict=True):
        mask = np.asarray(masks.cmrxrecon(lines, acceleration=acceleration))
        assert mask.shape == (lines, 1) and mask.sum() == count
        assert mask[lines // 2 - 12 : lines // 2 + 12].all()
        assert mask[::acceleration].all()


@pytest.mark.parametrize(("acceleration", "true"), [(4, 2.67), (8, 3.69), (10, 4.0)])
def test_describe_tells_nominal_from_true_acceleration(acceleration, true):
    said = masks.describe(masks.cmrxrecon(144, acceleration=acceleration))
    assert said.nominal == acceleration
    assert round(said.true, 2) == true
    # Index 84 is a multiple of 4 that touches the block [60, 84).
    assert said.acs == (25 if acceleration == 4 else 24)
    assert f"nominal R {acceleration}, true R {true:.2f}" in str(said)


def test_the_calibration_region_is_what_every_frame_samples():
    lines = masks.cmrxrecon(144, acceleration=4)
    assert masks.calibration_region(lines) == (slice(60, 85), slice(None))
    points = masks.variable_density(
        20, 24, acceleration=9, acs=4, key=jax.random.key(0)
    )
    rows, columns = masks.calibration_region(points)
    assert np.asarray(points)[rows, columns].all() and rows.stop - rows.start >= 4
    centreless = masks.equispaced(9, acceleration=3, acs=0)
    rows, _ = masks.calibration_region(centreless)
    assert rows.stop == rows.start and masks.describe(centreless).acs == 0


def test_describe_reads_readout_lines_out_of_a_full_grid():
    lines = masks.cmrxrecon(40, acceleration=4, acs=8)
    grid = lines & np.ones((40, 12), bool)
    assert masks.describe(grid) == masks.describe(lines)


def test_describe_of_everything_of_nothing_and_of_a_lone_centre():
    full = masks.describe(np.asarray(masks.equispaced(9, acceleration=1, acs=0)))
    assert (full.nominal, full.true, full.acs) == (1.0, 1.0, 9)
    centre = masks.describe(masks.equispaced(9, acceleration=9, acs=3, offset=3))
    assert (centre.nominal, centre.true, centre.acs) == (float("inf"), 3.0, 3)
    with pytest.raises(ValueError, match="samples nothing"):
        masks.describe(np.zeros((4, 1), bool))


@pytest.mark.parametrize("acceleration", [3.0, 4.5])
def test_random_lines_have_the_true_acceleration_and_follow_the_key(acceleration):
    def draw(seed):
        key = jax.random.key(seed)
        return np.asarray(
            masks.random_lines(60, acceleration=acceleration, acs=8, key=key)
        )

    assert draw(0).sum() == round(60 / acceleration)
    assert draw(0)[26:34].all()
    np.testing.assert_array_equal(draw(0), draw(0))
    assert (draw(0) != draw(1)).any()


def test_interleaved_frames_cover_k_space_between_them():
    mask = np.asarray(masks.kt_equispaced(37, 4, acceleration=4, acs=5))
    assert mask.shape == (4, 37, 1)
    assert mask.any(axis=0).all()
    assert mask[:, 16:21].all()
    outside = np.delete(mask[..., 0], np.r_[16:21], axis=1)
    assert (outside.sum(axis=0) == 1).all()


def test_gaussian_frames_are_denser_at_the_centre():
    mask = masks.kt_gaussian(
        100, 64, acceleration=5, acs=0, key=jax.random.key(0), alpha=0.6
    )
    per_frame = np.asarray(mask)[..., 0]
    assert (per_frame.sum(axis=1) == 20).all()
    density = per_frame.mean(axis=0)
    assert density[40:60].mean() > 2 * density[:20].mean()
    assert (per_frame[0] != per_frame[1]).any()


def test_spokes_pass_the_centre_and_turn():
    mask = np.asarray(masks.kt_radial(40, 64, 3, acceleration=12, acs=6))
    assert mask.shape == (3, 40, 64)
    assert mask[:, 17:23, 29:35].all()
    assert (mask[0] != mask[1]).any()
    # fifteen spokes, each no longer than the diagonal
    assert 15 * 20 < mask[0].sum() < 15 * 76
    assert masks.describe(mask).acs >= 6


def test_variable_density_has_an_exact_count_and_a_full_centre():
    mask = masks.variable_density(24, 30, acceleration=6, acs=5, key=jax.random.key(4))
    assert int(mask.sum()) == 120
    said = masks.describe(mask)
    assert said.true == 6.0 and said.acs >= 5 and "of 720 samples" in str(said)


def test_impossible_requests_are_refused_by_name():
    with pytest.raises(ValueError, match="acs=20 central lines do not fit in 16"):
        masks.equispaced(16, acceleration=2, acs=20)
    with pytest.raises(ValueError, match="offset=4 is not in"):
        masks.equispaced(16, acceleration=4, acs=2, offset=4)
    with pytest.raises(ValueError, match="acceleration must be at least 1"):
        masks.random_lines(16, acceleration=0.5, acs=2, key=jax.random.key(0))
