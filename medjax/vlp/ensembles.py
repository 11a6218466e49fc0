"""Many sentences of a class as one score: what zero-shot tests do differently.

Tests of the field agree in that a class is a few sentences, and in nothing else. They
average embeddings (CLIP), average similarities, or take the sentence that a film is
nearest to (GLoRIA); they contrast what is there with what is not (CheXzero) or say
nothing of absence (GLoRIA); they compare wholes, or words with regions as well; and
GLoRIA's scores are standardised over the very films that are tested, which gives a film
another score in other company. Each of these is a setting here.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

Prompts = Mapping[str, tuple[Sequence[str], Sequence[str]]]
"""Class to the sentences that say it is there, and those that say it is not, which may
be none."""
Combine = Literal["embeddings", "similarities", "max"]
Similarity = Literal["global", "local", "both"]


@dataclasses.dataclass(frozen=True)
class EnsembleConfig:
    """How sentences become the score of a class."""

    combine: Combine = "embeddings"
    """Similarity to the mean embedding of a side's sentences, the mean of their
    similarities, or the largest of them."""
    similarity: Similarity = "global"
    """Cosine of the wholes; what words find in the film (GLoRIA); or the mean of both,
    in which the words count several times as much, as released."""
    transductive: bool = False
    """Standardise each class over the films that are scored together."""

    def __post_init__(self) -> None:
        if self.combine == "embeddings" and self.similarity != "global":
            raise ValueError(
                f"ensemble.combine: there is no mean embedding of words; expected "
                f"similarities or max with similarity {self.similarity!r}"
            )


class Sentences(NamedTuple):
    """The sentences of all classes in a row."""

    texts: list[str]
    owner: list[tuple[int, int]]
    """Class and side, 0: it is there, 1: it is not."""


def sentences(classes: Prompts) -> Sentences:
    """All sentences of all classes.

    Raises:
      ValueError: there is no class, or one has no sentence that says it is there.
    """
    if not classes:
        raise ValueError("classes: expected one at least, got none")
    for name, sides in classes.items():
        lists = len(sides) == 2 and not any(isinstance(side, str) for side in sides)
        if not lists or not sides[0]:
            raise ValueError(
                f"prompts: class {name!r} needs two lists of sentences, one that says "
                "it is there and one that says it is not; the second may be empty"
            )
    rows = [
        (text, (k, side))
        for k, sides in enumerate(classes.values())
        for side in (0, 1)
        for text in sides[side]
    ]
    return Sentences([text for text, _ in rows], [owner for _, owner in rows])


def class_scores(
    similarities: Float[np.ndarray, "n t"],
    asked: Sentences,
    combine: Literal["similarities", "max"],
) -> Float[np.ndarray, "n k"]:
    """Similarity to what says it is there minus that to what says it is not, if any.

    Args:
      similarities: of films to sentences.
      asked: whose the sentences are.
      combine: the mean of a side, or its largest.
    """
    owner = np.asarray(asked.owner)
    reduce = np.mean if combine == "similarities" else np.max
    scores = np.zeros((len(similarities), owner[:, 0].max() + 1), similarities.dtype)
    for k in range(scores.shape[1]):
        for side, sign in ((0, 1), (1, -1)):
            own = (owner == (k, side)).all(1)
            if own.any():
                scores[:, k] += sign * reduce(similarities[:, own], axis=1)
    return scores


def standardised(scores: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Each class with mean 0 and deviation 1 over the films; a single film as it is."""
    if len(scores) < 2:
        return scores
    deviation = scores.std(0)
    return (scores - scores.mean(0)) / np.where(deviation > 0, deviation, 1.0)
