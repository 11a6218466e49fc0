"""The other frames from the first one, without a network: what a network must beat.

*Repeat* says that nothing moves. *Nearest* takes the training person whose first frame
and conditions are most alike, and says that this heart does what theirs did. *Shape
space* is a linear model: signed distance maps of all frames in principal components,
their scores by ridge regression from those of the first frame and the conditions. It
also draws: scores from a Gaussian given the conditions. Of features alone, a linear
regression with a normal residual draws too.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int32, Integer

from medjax.heart.appearance import LABELS
from medjax.metrics.distance import signed_distance

REACH = 12.0
"""Distances are cut at so many mm: far from a wall they say nothing."""
ROOM = 8 * 2**30
"""Bytes of distance maps, and their copies, that a shape space may be made of."""
Sequences = Integer[np.ndarray, "n t d h w"]
Firsts = Integer[np.ndarray, "n d h w"]
Conditions = Float[np.ndarray, "_ c"]


def repeat(first: Firsts, frames: int) -> Integer[np.ndarray, "n t d h w"]:
    """The first frame at all times."""
    return np.repeat(first[:, None], frames, axis=1)


@dataclasses.dataclass(frozen=True)
class Standard:
    """Mean and deviation of conditions over the training people."""

    mean: Float[np.ndarray, " c"]
    deviation: Float[np.ndarray, " c"]

    @classmethod
    def of(cls, conditions: Conditions) -> "Standard":
        """Measured; a condition that never varies is left as it is."""
        deviation = conditions.std(0)
        return cls(conditions.mean(0), np.where(deviation > 0, deviation, 1.0))

    def __call__(self, conditions: Conditions) -> Conditions:
        """Standardised."""
        return (conditions - self.mean) / self.deviation


def nearest_people(
    train: Conditions, test: Conditions, standard: Standard
) -> Integer[np.ndarray, " m"]:
    """The training person whose conditions are most like each other person's."""
    gap = standard(test)[:, None] - standard(train)[None]
    return np.argmin((gap**2).sum(-1), axis=1)


@dataclasses.dataclass(frozen=True)
class Nearest:
    """Training people as they are."""

    labels: Sequences
    conditions: Conditions
    standard: Standard

    def complete(self, first: Firsts, conditions: Conditions) -> np.ndarray:
        """The cycle of the person who is most alike: mean Dice of the first frame less
        a tenth of the distance between standardised conditions."""
        gap = self.standard(conditions)[:, None] - self.standard(self.conditions)[None]
        apart = np.sqrt((gap**2).mean(-1))
        alike = np.stack([mean_dice(one, self.labels[:, 0]) for one in first])
        return self.labels[np.argmax(alike - 0.1 * apart, axis=1)]


def mean_dice(
    one: Integer[np.ndarray, "*s"], many: Integer[np.ndarray, "n *s"]
) -> Float[np.ndarray, " n"]:
    """Dice of one label map with each of several, mean over structures."""
    found = []
    axes = tuple(range(1, many.ndim))
    for code in LABELS.values():
        mine, theirs = one == code, many == code
        both = (mine[None] & theirs).sum(axes)
        size = mine.sum() + theirs.sum(axes)
        found.append(np.where(size > 0, 2 * both / np.maximum(size, 1), 1.0))
    return np.mean(found, axis=0)


@dataclasses.dataclass(frozen=True)
class ShapeSpace:
    """Principal components of distance maps, and regressions of their scores.

    Attributes:
        mean: distance maps of the mean heart, all frames.
        components: orthonormal rows.
        first_mean: distance maps of its first frame.
        first_components: orthonormal rows.
        standard: of conditions.
        completing: from first scores and conditions, and 1, to scores.
        drawing: from conditions, and 1, to scores.
        spread: root of the scores' covariance given the conditions.
        shape: of a sequence, ``t d h w``.
        spacing: of voxels, mm.
    """

    mean: Float[np.ndarray, " f"]
    components: Float[np.ndarray, "q f"]
    first_mean: Float[np.ndarray, " g"]
    first_components: Float[np.ndarray, "p g"]
    standard: Standard
    completing: Float[np.ndarray, "_ q"]
    drawing: Float[np.ndarray, "_ q"]
    spread: Float[np.ndarray, "q q"]
    shape: tuple[int, ...]
    spacing: tuple[float, ...]

    @staticmethod
    def affordable(shape: Sequence[int]) -> bool:
        """Whether distance maps of label maps of this shape, ``n t d h w``, fit into
        :data:`ROOM`: those of hundreds of people at the published size do not."""
        return 2 * 4 * len(LABELS) * math.prod(shape) <= ROOM

    @classmethod
    def fit(
        cls,
        labels: Sequences,
        conditions: Conditions,
        spacing: Sequence[float],
        *,
        components: int = 24,
        ridge: float = 0.1,
    ) -> "ShapeSpace":
        """Learns from training people.

        Args:
            labels: of all frames.
            conditions: of the same people.
            spacing: of voxels, mm.
            components: at most so many; fewer than there are people.
            ridge: penalty of the regression, times people, on standardised conditions
                and on scores in deviations of the largest one.
        """
        shape, spacing = labels.shape[1:], tuple(map(float, spacing))
        maps = np.stack([distance_maps(one, spacing) for one in labels])
        first = maps[:, 0].reshape(len(maps), -1)
        whole = maps.reshape(len(maps), -1)
        count = min(components, len(maps) - 1)
        mean, rows, scores = _principal(whole, count)
        first_mean, first_rows, first_scores = _principal(first, count)
        standard = Standard.of(conditions)
        told = standard(conditions)
        scale = first_scores.std(0).max()
        completing = _ridge(
            np.column_stack([first_scores / scale, told]), scores, ridge
        )
        completing[:count] /= scale
        drawing = _ridge(told, scores, 1e-6)
        left = scores - np.column_stack([told, np.ones(len(told))]) @ drawing
        freedom = max(len(maps) - told.shape[1] - 1, 1)
        covariance = left.T @ left / freedom + 1e-9 * np.eye(count)
        return cls(
            mean,
            rows,
            first_mean,
            first_rows,
            standard,
            completing,
            drawing,
            np.linalg.cholesky(covariance),
            shape,
            spacing,
        )

    def complete(self, first: Firsts, conditions: Conditions) -> np.ndarray:
        """All frames from first ones; the first itself is as given."""
        maps = np.stack([distance_maps(one[None], self.spacing) for one in first])
        scores = (
            maps.reshape(len(first), -1) - self.first_mean
        ) @ self.first_components.T
        told = [scores, self.standard(conditions), np.ones((len(first), 1))]
        found = self._labels(np.concatenate(told, axis=1) @ self.completing)
        found[:, 0] = first
        return found

    def draw(self, conditions: Conditions, rng: np.random.Generator) -> np.ndarray:
        """A heart for each person."""
        told = np.column_stack([self.standard(conditions), np.ones(len(conditions))])
        noise = rng.standard_normal((len(conditions), len(self.spread)))
        return self._labels(told @ self.drawing + noise @ self.spread.T)

    def _labels(
        self, scores: Float[np.ndarray, "n q"]
    ) -> Int32[np.ndarray, "n t d h w"]:
        maps = (scores @ self.components + self.mean).reshape(
            len(scores), self.shape[0], len(LABELS), *self.shape[1:]
        )
        inner = np.argmin(maps, axis=2)
        codes = np.array(list(LABELS.values()), np.int32)
        return np.where(maps.min(axis=2) < 0, codes[inner], 0).astype(np.int32)


def distance_maps(
    labels: Integer[np.ndarray, "t d h w"], spacing: tuple[float, ...]
) -> Float[np.ndarray, "t 3 d h w"]:
    """Signed distances to each structure, mm, negative inside, cut at :data:`REACH`."""
    codes = np.array(list(LABELS.values()))[None, :, None, None, None]
    masks = jnp.asarray(labels[:, None] == codes)
    return np.clip(np.asarray(signed_distance(masks, spacing)), -REACH, REACH)


def _principal(
    data: Float[np.ndarray, "n f"], count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, orthonormal components and scores, by the small matrix of people."""
    mean = data.mean(0)
    centred = data - mean
    values, vectors = np.linalg.eigh(centred @ centred.T)
    chosen = vectors[:, ::-1][:, :count]
    size = np.sqrt(np.maximum(values[::-1][:count], 1e-9))
    components = (chosen / size).T @ centred
    return mean, components, centred @ components.T


def _ridge(
    inputs: Float[np.ndarray, "n i"], outputs: Float[np.ndarray, "n o"], penalty: float
) -> Float[np.ndarray, "_ o"]:
    """Weights of inputs, and of 1, which is not penalised."""
    design = np.column_stack([inputs, np.ones(len(inputs))])
    size = np.full(design.shape[1], penalty * len(inputs))
    size[-1] = 0.0
    return np.linalg.solve(design.T @ design + np.diag(size), design.T @ outputs)


def draw_features(
    train: Conditions,
    features: Float[np.ndarray, "n k"],
    test: Conditions,
    rng: np.random.Generator,
) -> Float[np.ndarray, "m k"]:
    """Features of people by linear regression on conditions, with a normal residual.

    Args:
        train: conditions of the training people.
        features: of the training people.
        test: conditions of others.
        rng: of the residuals.
    """
    standard = Standard.of(train)
    told = np.column_stack([standard(train), np.ones(len(train))])
    fit, *_ = np.linalg.lstsq(told, features, rcond=None)
    left = features - told @ fit
    covariance = left.T @ left / max(len(train) - told.shape[1], 1)
    noise = rng.multivariate_normal(
        np.zeros(features.shape[1]), covariance, len(test), method="eigh"
    )
    return np.column_stack([standard(test), np.ones(len(test))]) @ fit + noise
