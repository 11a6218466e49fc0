"""Map errors per region and segment, on a heart whose geometry is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.mri import map_evaluation


def heart(rv_angle: float = 180.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels with the RV in a direction (degrees counter-clockwise from the right)."""
    y, x = np.meshgrid(np.arange(81) - 40, np.arange(81) - 40, indexing="ij")
    radius = np.hypot(y, x)
    angle = np.rad2deg(np.arctan2(-y, x)) % 360
    turned = np.deg2rad(rv_angle)
    label = np.zeros((81, 81), np.int32)
    label[np.hypot(y + 30 * np.sin(turned), x - 30 * np.cos(turned)) < 8] = 3
    label[radius < 20] = 2
    label[radius < 12] = 1
    return label, angle


# Usual display, RV on the left: segment and the direction of its middle as seen.
BASAL = {1: 90, 2: 150, 3: 210, 4: 270, 5: 330, 6: 30}
APICAL = {13: 90, 14: 180, 15: 270, 16: 0}


@pytest.mark.parametrize(
    ("level", "middles"),
    [
        ("basal", BASAL),
        ("mid", {k + 6: v for k, v in BASAL.items()}),
        ("apical", APICAL),
    ],
)
@pytest.mark.parametrize("turn", [0, 35])
@pytest.mark.parametrize("mirrored", [False, True])
def test_segments_lie_where_the_model_puts_them(level, middles, turn, mirrored):
    label, angle = heart(180 + turn)
    found = np.asarray(
        map_evaluation.aha_segments(jnp.asarray(label), level=level, mirrored=mirrored)
    )
    np.testing.assert_array_equal(found > 0, label == 2)
    assert set(np.unique(found)) == {0, *middles}
    half = 180 / len(middles)
    for segment, middle in middles.items():
        # a mirror image turns the model around the axis through the septum
        seen = 180 + turn + (180 - middle if mirrored else middle - 180)
        off = np.abs((angle[found == segment] - seen + 180) % 360 - 180)
        assert off.max() < half + 1.5


def test_a_slice_without_right_ventricle_has_no_segments():
    label, _ = heart()
    label[label == 3] = 0
    found = map_evaluation.aha_segments(jnp.asarray(label), level="mid")
    assert not np.asarray(found).any()
    with pytest.raises(ValueError, match="level='apex' is none of"):
        map_evaluation.aha_segments(jnp.asarray(label), level="apex")


def test_errors_are_in_ms_per_region_and_segment():
    label, _ = heart()
    truth = np.choose(label, [0.0, 1900, 1200, 1850]).astype(np.float32)
    estimate = truth.copy()
    estimate[label == 1] += 30
    estimate[label == 3] -= 40
    segments = np.asarray(
        map_evaluation.aha_segments(jnp.asarray(label), level="basal")
    )
    estimate[segments == 4] += 100
    estimate[np.nonzero(segments == 4)[0][0], np.nonzero(segments == 4)[1][0]] = np.nan
    errors = jax.jit(
        lambda e: map_evaluation.map_errors(
            e, jnp.asarray(truth), jnp.asarray(label), level="basal"
        )
    )(jnp.asarray(estimate))
    errors = {name: float(value) for name, value in errors.items()}
    assert errors["lv"] == pytest.approx(30)
    assert errors["rv"] == pytest.approx(40)
    assert errors["aha_04"] == pytest.approx(100)
    assert errors["aha_01"] == 0
    lost = (segments == 4).sum() - 1
    expected = 100 * np.sqrt(lost / ((label == 2).sum() - 1))
    assert errors["myocardium"] == pytest.approx(expected, rel=1e-4)
    assert 30 < errors["heart"] < 100
    bare = map_evaluation.map_errors(
        jnp.asarray(estimate), jnp.asarray(truth), jnp.zeros((81, 81), jnp.int32)
    )
    assert np.isnan(float(bare["lv"])) and set(bare) == {
        "lv",
        "myocardium",
        "rv",
        "heart",
    }
