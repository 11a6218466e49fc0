"""The baselines on hearts that are known to be simple."""

import numpy as np
import pytest

from medjax.heart.completion import (
    Nearest,
    ShapeSpace,
    Standard,
    distance_maps,
    draw_features,
    mean_dice,
    nearest_people,
    repeat,
)

SPACING = (4.0, 3.0, 3.0)


def sphere(radius, middle=(0.0, 0.0, 0.0), shape=(12, 16, 16)):
    """A cavity in a wall of 6 mm, and a right ventricle beside them."""
    axes = [
        s * (np.arange(n) - (n - 1) / 2) for s, n in zip(SPACING, shape, strict=True)
    ]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    r = np.sqrt((z - middle[0]) ** 2 + (y - middle[1]) ** 2 + (x - middle[2]) ** 2)
    labels = np.where(r < radius + 6, 2, 0)
    labels[r < radius] = 1
    labels[(labels == 0) & (np.hypot(y, z) < 9) & (x > 0) & (r < radius + 11)] = 3
    return labels.astype(np.int32)


@pytest.fixture(scope="module")
def people():
    """Spheres that shrink by a share that the first condition tells."""
    rng = np.random.default_rng(0)
    radius, share = rng.uniform(9, 13, 40), rng.uniform(0.15, 0.35, 40)
    labels = np.stack(
        [
            [sphere(r * (1 - s * f)) for f in (0, 1, 0.5)]
            for r, s in zip(radius, share, strict=True)
        ]
    )
    conditions = np.stack([share, rng.normal(size=40)], axis=-1)
    return labels, conditions


def test_what_does_not_move_is_repeated(people):
    labels, _ = people
    again = repeat(labels[:2, 0], 3)
    np.testing.assert_array_equal(again[:, 2], labels[:2, 0])


def test_the_most_alike_persons_cycle_is_taken(people):
    labels, conditions = people
    model = Nearest(labels, conditions, Standard.of(conditions))
    found = model.complete(labels[[3, 17], 0], conditions[[3, 17]])
    np.testing.assert_array_equal(found, labels[[3, 17]])
    shifted = conditions[[5]] + 0.01 * conditions.std(0)
    assert nearest_people(conditions, shifted, model.standard) == [5]


def test_dice_of_one_with_many():
    one, other = sphere(10), np.zeros((12, 16, 16), np.int32)
    found = mean_dice(one, np.stack([one, other]))
    np.testing.assert_allclose(found, [1, 0])


def test_distances_are_negative_inside_and_cut(people):
    maps = distance_maps(people[0][0], SPACING)
    assert maps.shape == (3, 3, 12, 16, 16)
    np.testing.assert_array_equal(maps[:, 0] < 0, people[0][0] == 1)
    assert np.abs(maps).max() == pytest.approx(12)


def test_a_linear_shape_space_completes_what_is_linear(people):
    labels, conditions = people
    model = ShapeSpace.fit(labels[:32], conditions[:32], SPACING, ridge=0.01)
    found = model.complete(labels[32:, 0], conditions[32:])
    np.testing.assert_array_equal(found[:, 0], labels[32:, 0])

    def dice(predicted):
        return np.mean(
            [
                mean_dice(a, b[None])[0]
                for a, b in zip(predicted[:, 1], labels[32:, 1], strict=True)
            ]
        )

    still = repeat(labels[32:, 0], 3)
    near = Nearest(labels[:32], conditions[:32], model.standard).complete(
        labels[32:, 0], conditions[32:]
    )
    assert dice(found) > 0.9 > dice(still) + 0.1
    assert dice(found) > dice(near) - 0.02
    # Draws have the size that their conditions tell.
    told = np.repeat([[0.15, 0.0], [0.35, 0.0]], 40, axis=0)
    drawn = model.draw(told, np.random.default_rng(0))
    cavity = (drawn == 1).sum((2, 3, 4))
    kept = cavity[:, 1] / np.maximum(cavity[:, 0], 1)
    assert kept[:40].mean() == pytest.approx((1 - 0.15) ** 3, abs=0.1)
    assert kept[40:].mean() == pytest.approx((1 - 0.35) ** 3, abs=0.1)
    assert cavity[:, 0].std() > 0.1 * cavity[:, 0].mean()


def test_a_shape_space_of_the_published_size_does_not_fit():
    assert ShapeSpace.affordable((64, 10, 16, 32, 32))
    # 20 frames of three structures are 252 MB of float32 for every person.
    assert not ShapeSpace.affordable((400, 20, 64, 128, 128))


def test_features_are_drawn_with_their_slope_and_spread():
    rng = np.random.default_rng(0)
    train = rng.normal(60, 8, (500, 1))
    features = np.column_stack([300 - 2 * train[:, 0], train[:, 0]]) + rng.normal(
        0, 5, (500, 2)
    )
    drawn = draw_features(train, features, train, rng)
    slope = np.polyfit(train[:, 0], drawn[:, 0], 1)[0]
    assert slope == pytest.approx(-2, abs=0.15)
    left = drawn[:, 0] - (300 - 2 * train[:, 0])
    assert left.std() == pytest.approx(5, rel=0.15)
