"""Grading a stack by what breathing did to it: a network per slice, one grade per case.

Slices go through a residual network one by one, and the mean of what it says of them is
the case's. Two heads:

``softmax``  three logits
``ordinal``  one number and two thresholds in order, ``p(grade > k) = sigmoid(f - t_k)``
             with ``t_1 < t_2``: a slip by two needs more evidence than one by one

Which grade is *said* is another choice: the most probable one, or the one whose
expected distance from the truth is smallest, which is what linear kappa rewards.

Without any training on grades, the uncertainty of a segmenter is a grade as well
(:func:`thresholds_of`): two cuts, put where they agree best with a few graded cases.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from medjax.metrics.kappa import cohen_kappa
from medjax.nn.resnet import RESNETS, ResNet
from medjax.segmentation.cmrxmotion.reader import GRADES
from medjax.train.system import Apply
from medjax.typing import Batch, Key, Metrics, Variables


@dataclasses.dataclass(frozen=True)
class QualityConfig:
    """Network and head."""

    encoder: str = "resnet_tiny"
    """One of `medjax.nn.resnet.RESNETS`."""
    head: Literal["softmax", "ordinal"] = "ordinal"
    """How grades are told apart."""


class Grader(nn.Module):
    """Stacks to probabilities of grades."""

    config: QualityConfig

    @nn.compact
    def __call__(
        self, image: Float[Array, "b d h w"], *, train: bool = False
    ) -> Float[Array, "b 3"]:
        """Logits of ``p(grade > 1)`` and ``p(grade > 2)`` or of the three grades.

        Args:
          image: stacks at any unit; each is standardised.
          train: whether batch norms take the statistics of this batch.

        Returns:
          Probabilities of the grades 1, 2 and 3.
        """
        b, d, h, w = image.shape
        mean = jnp.mean(image, axis=(1, 2, 3), keepdims=True)
        sd = jnp.std(image, axis=(1, 2, 3), keepdims=True)
        slices = ((image - mean) / jnp.maximum(sd, 1e-6)).reshape(b * d, h, w, 1)
        grey = jnp.broadcast_to(slices, (b * d, h, w, 3))
        features = ResNet(RESNETS[self.config.encoder], name="encoder")(
            grey, train=train
        ).pooled
        case = jnp.mean(features.reshape(b, d, -1), axis=1)
        if self.config.head == "softmax":
            return jax.nn.softmax(nn.Dense(len(GRADES), name="head")(case))
        evidence = nn.Dense(1, name="head")(case)
        first = self.param("first", nn.initializers.constant(-0.7), ())
        gap = self.param("gap", nn.initializers.constant(1.0), ())
        # Thresholds in order, whatever the parameters: no probability is negative.
        edges = jnp.stack([first, first + jax.nn.softplus(gap)])
        above = jax.nn.sigmoid(evidence - edges[None])
        return ordinal_probabilities(above)


def ordinal_probabilities(above: Float[Array, "b 2"]) -> Float[Array, "b 3"]:
    """Of the grades, from the probabilities to be above 1 and above 2."""
    one, two = above[:, 0], above[:, 1]
    return jnp.stack([1 - one, one - two, two], axis=1)


@dataclasses.dataclass(frozen=True)
class QualitySystem:
    """A trainable grader; a `medjax.train.system.System`.

    Attributes:
        init: ``(key, batch) -> variables``; a batch has ``image`` [b d h w] and
            ``grade`` [b], 1 to 3.
        loss: ``(variables, batch, key) -> scalar, (metrics, updated collections)``.
        apply: ``grade``: images to probabilities.
        frozen: nothing.
    """

    config: QualityConfig
    frozen: tuple[str, ...] = ()

    def init(self, key: Key, batch: Batch) -> Variables:
        """Parameters and batch statistics."""
        return Grader(self.config).init(key, batch["image"])

    def loss(
        self, variables: Variables, batch: Batch, key: Key
    ) -> tuple[Float[Array, ""], tuple[Metrics, Variables]]:
        """Cross-entropy of the grades; of the ordinal head that of both thresholds."""
        del key
        p, updated = Grader(self.config).apply(
            variables, batch["image"], train=True, mutable=["batch_stats"]
        )
        place = batch["grade"] - 1
        if self.config.head == "softmax":
            value = -jnp.mean(_log(jnp.take_along_axis(p, place[:, None], axis=1)))
        else:
            above = jnp.stack([p[:, 1] + p[:, 2], p[:, 2]], axis=1)
            truth = place[:, None] > jnp.arange(2)[None, :]
            both = jnp.where(truth, _log(above), _log(1 - above))
            value = -jnp.mean(jnp.sum(both, axis=1))
        right = jnp.mean((jnp.argmax(p, axis=1) == place).astype(jnp.float32))
        return value, ({"accuracy": right}, updated)

    @property
    def apply(self) -> Mapping[str, Apply]:
        """What a trained one can do."""
        return {"grade": Grader(self.config).apply}


def least_distance(p: Float[np.ndarray, "b 3"]) -> Int[np.ndarray, " b"]:
    """The grade with the smallest expected distance from the true one.

    Args:
        p: probabilities of the grades.
    """
    place = np.arange(len(GRADES))
    cost = np.abs(place[:, None] - place[None, :])
    return 1 + np.argmin(p @ cost, axis=1)


def thresholds_of(
    scores: Float[np.ndarray, " b"], grades: Int[np.ndarray, " b"]
) -> tuple[float, float]:
    """The two cuts of a score (an uncertainty) that agree best with grades.

    Args:
        scores: higher is worse.
        grades: 1 to 3, of the same cases.

    Returns:
        Where grade 2 and grade 3 begin, by linear kappa.

    Raises:
        ValueError: without cases, or for lengths that differ.
    """
    if scores.shape != grades.shape or not scores.size:
        raise ValueError(
            f"scores {scores.shape} and grades {grades.shape}: expected one length, "
            "not 0"
        )
    values = np.unique(scores)
    middles = (values[1:] + values[:-1]) / 2
    cuts = [-np.inf, *middles.tolist(), np.inf]

    def agreement(pair: tuple[float, float]) -> float:
        said = graded(scores, pair)
        kappa = cohen_kappa(grades, said, classes=GRADES, weights="linear")
        return -np.inf if np.isnan(kappa) else kappa

    return max(itertools.combinations_with_replacement(cuts, 2), key=agreement)


def graded(
    scores: Float[np.ndarray, " b"], thresholds: tuple[float, float]
) -> Int[np.ndarray, " b"]:
    """Grades by two cuts of a score."""
    return 1 + (scores >= thresholds[0]).astype(int) + (scores >= thresholds[1])


def _log(p: Array) -> Array:
    return jnp.log(jnp.maximum(p, 1e-7))
