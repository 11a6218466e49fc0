"""What a task that finds places on films is to the rest of the house."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from jaxtyping import Array

from medjax.train.state import Init
from medjax.train.step import Loss
from medjax.train.system import Apply
from medjax.typing import Variables
from medjax.vlp.augment import AugmentConfig

Kind = Literal["mask", "boxes"]
"""What is found: the pixels of lesions, or boxes round them."""


@dataclasses.dataclass(frozen=True)
class PlaceSystem:
    """A segmenter or detector as pure functions of its variables.

    Attributes:
      init: key and batch to variables.
      loss: variables, batch and key to the loss and (metrics, updated non-parameters).
      find: uint8 films to what was found: probabilities [b, size, size], or boxes with
        their score, the surest first [b, n, 5].
      frozen: regular expressions of parameters that are not trained.
    """

    init: Init
    loss: Loss
    find: Callable[[Variables, Array], Array]
    frozen: tuple[str, ...]

    @property
    def apply(self) -> dict[str, Apply]:
        """What a trained one can do, by name."""
        return {"find": self.find}


def recipe(
    known: AugmentConfig, *, moves: bool, mirrors: bool = False
) -> AugmentConfig:
    """The whole film, of the size and normalisation that a tower was trained with.

    Args:
      known: of the tower's own training.
      moves: films may be shifted, scaled and turned a little, half of MGCA's recipe for
        segmentation (scale 0.1, 10 degrees); False: they stay, as boxes need it.
      mirrors: half of the films are mirrored, which is all of BenchX's recipe.
    """
    still = AugmentConfig(
        size=known.size,
        normalise=known.normalise,
        flip_horizontal=0.5 if mirrors else 0.0,
    )
    if not moves:
        return still
    return dataclasses.replace(
        still, rotation=(-10.0, 10.0), zoom=(0.9, 1.1), translation=0.06
    )
