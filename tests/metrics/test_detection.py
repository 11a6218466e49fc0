"""Average precision by hand, by brute force, and where the published one looks away."""

import numpy as np
import pytest

from medjax.metrics.detection import (
    Detections,
    average_precision,
    challenge_precision,
    iou,
    right,
)

NONE = np.zeros((0, 4))
NOTHING = Detections(NONE, np.zeros(0))


def random_set(seed, images=12):
    """Boxes, and detections that are near some of them and far from all."""
    rng = np.random.default_rng(seed)

    def boxes(count):
        low = rng.uniform(0, 50, (count, 2))
        return np.concatenate([low, low + rng.uniform(5, 30, (count, 2))], axis=1)

    truth = [boxes(rng.integers(0, 4)) for _ in range(images)]
    found = []
    for there in truth:
        near = there + rng.normal(0, 2, there.shape)
        kept = np.concatenate([near[rng.random(len(near)) < 0.8], boxes(1)])
        found.append(Detections(kept, rng.random(len(kept))))
    return found, truth


def test_overlap_of_boxes_by_counting_pixels():
    rng = np.random.default_rng(0)
    low = rng.integers(0, 10, (6, 2))
    boxes = np.concatenate([low, low + rng.integers(1, 10, (6, 2))], axis=1)
    drawn = np.zeros((6, 20, 20), bool)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        drawn[i, y0:y1, x0:x1] = True
    both = (drawn[:, None] & drawn[None]).sum((2, 3))
    either = (drawn[:, None] | drawn[None]).sum((2, 3))
    boxes = boxes.astype(float)
    np.testing.assert_allclose(iou(boxes, boxes), both / either)
    assert iou(np.zeros((1, 4)), np.zeros((1, 4))) == 0.0


def test_each_box_is_found_once_and_by_the_surest():
    truth = np.array([[0.0, 0, 10, 10]])
    twice = Detections(
        np.array([[0.0, 0, 10, 9], [0.0, 0, 10, 10]]), np.array([1, 2.0])
    )
    (hits,) = right([(twice, truth)], [0.5, 0.95])
    np.testing.assert_array_equal(hits, [[1, 0], [1, 0]])
    # Precision is 1 at every recall, the second comes behind.
    assert average_precision([twice], [truth]) == pytest.approx(1.0)
    assert challenge_precision([twice], [truth]) == pytest.approx(0.5)


def test_area_by_hand():
    """Right, wrong, right of three boxes: precision 1 to a third, 2/3 to two thirds."""
    truth = [np.array([[0.0, 0, 4, 4], [10, 0, 14, 4], [20, 0, 24, 4]])]
    boxes = np.array([[0.0, 0, 4, 4], [50, 50, 60, 60], [10, 0, 14, 4]])
    found = [Detections(boxes, np.array([0.9, 0.8, 0.7]))]
    # Recalls 0.00 to 0.33 are 34 of 101, 0.34 to 0.66 are 33.
    expected = (34 * 1.0 + 33 * 2 / 3) / 101
    assert average_precision(found, truth) == pytest.approx(expected)
    assert challenge_precision(found, truth) == pytest.approx(2 / 4)


def brute_area(found, truth, threshold):
    """All images at once, every prefix of the detections counted anew."""
    every = sorted(
        ((s, i, b) for i, f in enumerate(found) for b, s in zip(*f, strict=True)),
        key=lambda item: -item[0],
    )
    taken, points = set(), []
    for count, (_, i, box) in enumerate(every, start=1):
        overlaps = [
            (iou(box[None], b[None])[0, 0], j)
            for j, b in enumerate(truth[i])
            if (i, j) not in taken
        ]
        best, j = max(overlaps, default=(0.0, None))
        if best >= threshold:
            taken.add((i, j))
        points.append((len(taken) / sum(map(len, truth)), len(taken) / count))
    precisions = [
        max((p for r, p in points if r >= recall), default=0.0)
        for recall in np.linspace(0, 1, 101)
    ]
    return np.mean(precisions)


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_that_of_brute_force(seed):
    found, truth = random_set(seed)
    for threshold in (0.4, 0.75):
        got = average_precision(found, truth, thresholds=[threshold])
        assert got == pytest.approx(brute_area(found, truth, threshold))


def test_what_the_published_number_does_not_see():
    box = np.array([[0.0, 0, 10, 10]])
    hit = Detections(box, np.array([0.9]))
    alarm = Detections(box, np.array([0.95]))
    found, truth = [hit, NOTHING, alarm, NOTHING], [box, box, NONE, NONE]
    assert average_precision(found, truth, counted="both") == pytest.approx(1.0)
    # One of two boxes found, behind a surer false alarm: half to recall 0.5.
    assert average_precision(found, truth) == pytest.approx(0.5 * 51 / 101)
    # The image with neither does not count.
    assert challenge_precision(found, truth) == pytest.approx(1 / 3)


def test_nothing_to_find_has_no_precision():
    assert np.isnan(average_precision([NOTHING], [NONE]))
    assert np.isnan(challenge_precision([NOTHING], [NONE]))
    assert average_precision([NOTHING], [np.ones((1, 4))]) == 0.0
    with pytest.raises(ValueError, match="got 1 and 2"):
        average_precision([NOTHING], [NONE, NONE])
