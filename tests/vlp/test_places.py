"""Masks and boxes from towers: losses by hand, targets that decode, films that move."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.metrics.detection import iou
from medjax.vlp.augment import AUGMENTATIONS, AugmentConfig, augment_by, augment_masks
from medjax.vlp.augment import draws as drawn_numbers
from medjax.vlp.detector import (
    ANCHOR_SIZE,
    ANCHORS,
    DetectorConfig,
    decode,
    detection_loss,
    detector,
    distinct,
    surest,
    targets,
)
from medjax.vlp.place_system import recipe
from medjax.vlp.segmenter import SegmenterConfig, segmentation_loss, segmenter
from medjax.vlp.towers import ImageTowerConfig

SIZE = 64
GRIDS = (2, 4, 8)
loss_of = jax.jit(detection_loss, static_argnums=2)


def test_the_loss_of_masks_is_its_formula():
    rng = np.random.default_rng(0)
    logits, mask = rng.normal(size=(2, 5, 4)), rng.random((2, 5, 4)) < 0.4
    said = 1 / (1 + np.exp(-logits))
    wrong = np.where(mask, 1 - said, said)
    focal = (wrong**2 * -np.log(1 - wrong)).mean()
    dice = (2 * said[mask].sum() + 1) / (said.sum() + mask.sum() + 1)
    found = segmentation_loss(
        jnp.asarray(logits, jnp.float32), jnp.asarray(mask), focal=10.0
    )
    np.testing.assert_allclose(found, 10 * focal - np.log(dice), rtol=1e-5)
    sure = jnp.where(jnp.asarray(mask), 30.0, -30.0)
    assert segmentation_loss(sure, jnp.asarray(mask), focal=10.0) < 1e-6


def test_a_mask_moves_as_its_film_does():
    """A white shape on black, turned and shifted: the mask is where it is white."""
    films = np.zeros((3, 40, 40), np.uint8)
    films[:, 8:25, 12:30] = 255
    config = recipe(AugmentConfig(size=32, normalise="none"), moves=True)
    drawn = drawn_numbers(jax.random.key(3), 3)
    seen = augment_by(jnp.asarray(films), config, drawn)[..., 0]
    moved = augment_masks(jnp.asarray(films > 0), config, drawn)
    np.testing.assert_array_equal(moved, seen > 0.5)
    assert len({bytes(np.asarray(m)) for m in moved}) == 3
    whole = recipe(AUGMENTATIONS["imitate"], moves=False)
    assert whole.crop_area == (1.0, 1.0) and whole.flip_vertical == 0.0


def random_boxes(rng, films, most):
    low = rng.uniform(0, SIZE - 30, (films, most, 2))
    boxes = np.concatenate([low, low + rng.uniform(4, 28, (films, most, 2))], axis=2)
    return boxes.astype(np.float32)


@jax.jit
def perfect(boxes):
    """Answers that say what is asked, and nothing where nothing is."""
    answers = []
    for grid, anchors in zip(GRIDS, ANCHORS, strict=True):
        asked, _, wanted = targets(jnp.asarray(boxes), anchors, grid, SIZE)
        place = jnp.log(wanted[..., :2]) - jnp.log1p(-wanted[..., :2])
        sure = jnp.where(asked, 20.0, -20.0)[..., None]
        kind = jnp.full_like(sure, 20.0)
        parts = [place, wanted[..., 2:], sure, kind]
        answers.append(jnp.concatenate(parts, axis=-1))
    return answers


def test_what_is_asked_decodes_to_the_boxes():
    """By one box a film, so that no two want the same cell."""
    boxes = random_boxes(np.random.default_rng(0), 6, 1)
    found, scores = jax.jit(decode, static_argnums=1)(perfect(boxes), SIZE)
    assert found.shape == (6, 3 * sum(g * g for g in GRIDS), 4)
    for film in range(6):
        sure = np.asarray(scores[film] > 0.5)
        assert sure.sum() == 3  # once by every scale
        expected = np.repeat(boxes[film], 3, axis=0)
        np.testing.assert_allclose(found[film][sure], expected, atol=1e-3)


def test_targets_are_those_of_a_loop():
    rng = np.random.default_rng(1)
    boxes = random_boxes(rng, 4, 5)
    boxes[0, 2:], boxes[1] = 0.0, 0.0
    grid, anchors = 4, np.asarray(ANCHORS[1]) * 4 / ANCHOR_SIZE
    asked = np.zeros((4, grid, grid, 3), bool)
    spared, wanted = asked.copy(), np.zeros((4, grid, grid, 3, 4))
    for film, row in enumerate(boxes):
        for box in row[row[:, 2] > 0] * grid / SIZE:
            w, h = box[2:] - box[:2]
            x, y = (box[2:] + box[:2]) / 2
            own = np.array([[0, 0, w, h]])
            shapes = np.concatenate([np.zeros((3, 2)), anchors], axis=1)
            like = iou(own, shapes)[0]
            at = (film, int(y), int(x), int(like.argmax()))
            asked[at] = True
            spared[film, int(y), int(x)] |= like > 0.5
            ratio = np.log([w, h] / anchors[at[3]])
            wanted[at] = [x - int(x), y - int(y), *ratio]
    found = targets(jnp.asarray(boxes), ANCHORS[1], grid, SIZE)
    for one, expected in zip(found, (asked, spared, wanted), strict=True):
        np.testing.assert_allclose(one, expected, atol=1e-5)


def test_the_loss_of_boxes_is_that_of_a_loop():
    """Cell by cell and anchor by anchor, in float64; two films, one without a box."""
    rng = np.random.default_rng(5)
    boxes = random_boxes(rng, 2, 2)
    boxes[1] = 0.0
    answers = [rng.normal(size=(2, g, g, 3, 6)) for g in GRIDS]
    sure = [-np.log(1 / (1 + np.exp(-a))) for a in answers]
    unsure = [-np.log(1 / (1 + np.exp(a))) for a in answers]
    expected = 0.0
    for said, yes, no, grid, anchors in zip(
        answers, sure, unsure, GRIDS, ANCHORS, strict=True
    ):
        shapes = np.asarray(anchors) / ANCHOR_SIZE * SIZE
        cost = 0.5 * no[..., 4]
        for x0, y0, x1, y1 in boxes[0].astype(float):
            size = np.array([x1 - x0, y1 - y0])
            least = np.minimum(size, shapes).prod(1)
            like = least / (size.prod() + shapes.prod(1) - least)
            x, y = (x0 + x1) / 2 * grid / SIZE, (y0 + y1) / 2 * grid / SIZE
            at = 0, int(y), int(x)
            cost[at][like > 0.5] = 0.0
            a = int(like.argmax())
            tx, ty = x - int(x), y - int(y)
            w, h = np.log(size / shapes[a])
            place = tx * yes[at][a, 0] + (1 - tx) * no[at][a, 0]
            place += ty * yes[at][a, 1] + (1 - ty) * no[at][a, 1]
            extent = (said[at][a, 2] - w) ** 2 + (said[at][a, 3] - h) ** 2
            cost[at][a] = 2.5 * (place + extent) + yes[at][a, 4] + yes[at][a, 5]
        expected += cost.mean()
    found = loss_of(
        [jnp.asarray(a, jnp.float32) for a in answers], jnp.asarray(boxes), SIZE
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_loss_of_boxes_is_least_where_answers_are_right():
    boxes = jnp.asarray(random_boxes(np.random.default_rng(2), 3, 2))
    right = perfect(boxes)
    floor = loss_of(right, boxes, SIZE)
    # What stays is the entropy of the place in the cell.
    for part in (slice(0, 2), slice(2, 4), slice(4, 5)):
        moved = [answer.at[..., part].add(-21.0) for answer in right]
        assert loss_of(moved, boxes, SIZE) > floor + 1e-4
    nothing = jnp.zeros((3, 2, 4))
    quiet = [jnp.full_like(answer, -20.0) for answer in right]
    assert loss_of(quiet, nothing, SIZE) < 1e-6
    assert loss_of(right, nothing, SIZE) > 0.1


def test_overlapping_boxes_are_dropped_as_a_loop_drops_them():
    rng = np.random.default_rng(3)
    boxes = random_boxes(rng, 1, 40)[0]
    scores = np.sort(rng.random(40))[::-1].astype(np.float32)
    kept: list[int] = []
    for i in range(40):
        if all(iou(boxes[i : i + 1], boxes[j : j + 1])[0, 0] < 0.3 for j in kept):
            kept.append(i)
    found = distinct(jnp.asarray(boxes), jnp.asarray(scores), 0.3)
    assert np.flatnonzero(found).tolist() == kept and 5 < len(kept) < 40
    np.testing.assert_array_equal(found[np.asarray(kept)], scores[kept])


def answers_for(boxes, scores):
    """Answers of one film whose finest map says these boxes, and nothing else."""
    answers = [np.full((1, g, g, 3, 6), -20.0, np.float32) for g in GRIDS]
    cell = SIZE / GRIDS[2]
    shape = np.asarray(ANCHORS[2][0]) / ANCHOR_SIZE * SIZE
    for box, score in zip(np.asarray(boxes, float), scores, strict=True):
        middle, extent = (box[:2] + box[2:]) / 2 / cell, box[2:] - box[:2]
        within = middle - middle.astype(int)
        x, y = middle.astype(int)
        place = np.log(within / (1 - within))
        said = [*place, *np.log(extent / shape), np.log(score / (1 - score)), 0.0]
        answers[2][0, y, x, 0] = said
    return [jnp.asarray(a) for a in answers]


def test_boxes_that_reach_over_the_border_are_one_if_what_is_seen_is_one():
    """24 by 24 pixels of the film both, and one of them goes on where there is none."""
    config = DetectorConfig(AugmentConfig(), overlap=0.6)
    over, within = [-22, 2, 24, 26], [1, 2, 25, 26]
    assert iou(np.array([over], float), np.array([within], float)) < 0.6
    found = surest(answers_for([over, within], [0.9, 0.8]), SIZE, config)[0]
    kept = np.asarray(found[found[:, 4] > 0])
    np.testing.assert_allclose(kept, [[0, 2, 24, 26, 0.9]], rtol=1e-4, atol=1e-4)
    # One that covers all because its size overflowed is one still.
    endless = answers_for([over], [0.9])
    endless[0] = endless[0].at[0, 0, 0, :2].set(jnp.asarray([0, 0, 99, 99, 3, 0.0]))
    found = surest(endless, SIZE, config)[0]
    kept = np.asarray(found[found[:, 4] > 0])
    np.testing.assert_allclose(kept[0, :4], [0, 0, SIZE, SIZE])
    assert len(kept) == 2


@pytest.mark.parametrize(
    ("architecture", "size"), [("resnet50", 299), ("vit_b16", 224)]
)
def test_every_tower_gives_a_pixel_for_a_pixel(architecture, size):
    still = AugmentConfig(size=size)
    image = ImageTowerConfig(architecture)
    system = segmenter(SegmenterConfig(still, train_tower=False), image)
    shapes = jax.eval_shape(system.init, jax.random.key(0), {})
    films = jnp.zeros((2, 256, 256), jnp.uint8)
    assert jax.eval_shape(system.find, shapes, films).shape == (2, size, size)
    assert system.frozen == ("^image/",)
    if architecture == "resnet50":
        boxes = detector(DetectorConfig(still), image)
        shapes = jax.eval_shape(boxes.init, jax.random.key(0), {})
        found = jax.eval_shape(boxes.find, shapes, films)
        assert found.shape == (2, 100, 5)
        # YOLOv3's widths behind maps of 2048, 1024 and 512 channels.
        head = shapes["params"]["head"]
        into = [head[f"scale{i}_conv0"]["kernel"].shape for i in range(3)]
        out = [head[f"scale{i}_out"]["kernel"].shape for i in range(3)]
        wide = [(1, 1, 2048, 512), (1, 1, 1024 + 256, 256), (1, 1, 512 + 128, 128)]
        assert into == wide and out == [(1, 1, 2 * w[3], 18) for w in wide]


def test_statistics_of_a_tower_that_is_kept_move_if_asked():
    config = SegmenterConfig(AugmentConfig(size=16), False, widths=(4,) * 5)
    image = ImageTowerConfig("resnet_tiny")
    systems = {
        moves: segmenter(dataclasses.replace(config, moving_statistics=moves), image)
        for moves in (False, True)
    }
    batch = {
        "image": jnp.arange(512, dtype=jnp.uint8).reshape(2, 16, 16),
        "mask": jnp.zeros((2, 16, 16), bool),
    }
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(systems[True].init, jax.random.key(0), batch)
    variables = jax.tree.map(lambda s: jnp.asarray(rng.random(s.shape)), shapes)
    variables = jax.tree.map(lambda x: x.astype(jnp.float32), variables)

    @jax.jit
    def updated(variables):
        key = jax.random.key(1)
        found = {m: s.loss(variables, batch, key)[1] for m, s in systems.items()}
        return {m: others["batch_stats"] for m, (_, others) in found.items()}

    after, before = updated(variables), variables["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, after[False]["image"], before["image"])
    for side in ("image", "decoder"):
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), after[True], before)
        assert all(jax.tree.leaves(moved[side]))


def test_boxes_ask_for_stages():
    config = dataclasses.replace(ImageTowerConfig(), architecture="vit_tiny")
    with pytest.raises(ValueError, match="three stages of a ResNet, got 'vit_tiny'"):
        detector(DetectorConfig(AugmentConfig()), config)
