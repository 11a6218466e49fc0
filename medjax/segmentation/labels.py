"""Labels between files, networks and metrics: classes, regions, and what is ignored.

A file's values are whatever its maker chose (0, 1, 2, 4). Inside, a label is its place
among them, 0 being the background, and the place after the last is "ignored": voxels
that nobody annotated, which no loss and no metric sees. A network says either which
*class* a voxel has, exclusively, or of each *region* (a set of labels that may share
some with others: BraTS' whole tumour, core and enhancing part) whether it is inside.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from medjax.data.boundary import DataError
from medjax.metrics.overlap import Structure


@dataclasses.dataclass(frozen=True)
class Labels:
    """What the labels of a data set are."""

    values: tuple[int, ...]
    """In files, the background's first, rising."""
    names: tuple[str, ...]
    """Of the output's channels: of the values, or of the regions."""
    regions: tuple[tuple[int, ...], ...] = ()
    """Values that each region unites; none: classes are exclusive."""
    painted: tuple[int, ...] = ()
    """The value that each region is written as; later ones cover earlier ones."""
    ignore: int | None = None
    """The value in files of voxels that nobody annotated."""

    def __post_init__(self) -> None:
        channels = len(self.regions) or len(self.values)
        rising = tuple(sorted(set(self.values))) == self.values
        unknown = {v for region in self.regions for v in region} - set(self.values)
        if not rising or self.values[:1] != (0,) or len(self.values) < 2:
            raise ValueError(f"labels {self.values}: expected 0 and others, rising")
        if len(self.names) != channels or len(self.painted) != len(self.regions):
            raise ValueError(
                f"labels: {len(self.names)} names and {len(self.painted)} painted "
                f"values for {channels} channels"
            )
        if unknown or self.ignore in self.values:
            raise ValueError(
                f"labels {self.values}: regions name {sorted(unknown)} beside them, "
                f"and {self.ignore} is ignored"
            )

    @property
    def channels(self) -> int:
        """Of the network's output."""
        return len(self.names)

    @property
    def count(self) -> int:
        """Labels inside, and one more that is ignored."""
        return len(self.values) + 1

    @property
    def structures(self) -> Mapping[str, Structure]:
        """What is scored, in values of files: regions, or all but the background."""
        found = self.regions or self.values[1:]
        names = self.names if self.regions else self.names[1:]
        return dict(zip(names, found, strict=True))

    def read(
        self, stored: Integer[np.ndarray, "*s"], what: str
    ) -> Int[np.ndarray, "*s"]:
        """Labels inside from those of a file.

        Args:
            stored: Of a file.
            what: Of which, for messages.

        Raises:
            DataError: For a value that the data set does not have.
        """
        known = (*self.values, *(() if self.ignore is None else (self.ignore,)))
        found, place = np.unique(stored, return_inverse=True)
        strange = [int(v) for v in found if v not in known]
        if strange:
            where = np.argwhere(stored == strange[0])
            first = tuple(int(i) for i in where[0])
            raise DataError(
                f"{what}: label {strange[0]} in {len(where)} voxels, the first at "
                f"{first}; expected {list(known)}"
            )
        inside = [known.index(int(v)) for v in found]
        return np.asarray(inside, np.int16)[place].reshape(stored.shape)

    def write(self, probabilities: Float[np.ndarray, "*s k"]) -> np.ndarray:
        """Labels of a file from the network's probabilities (or logits, of classes).

        Regions are painted where they are more likely than not.
        """
        if not self.regions:
            return self.written[np.argmax(probabilities, axis=-1)]
        out = np.zeros(probabilities.shape[:-1], self.written.dtype)
        for channel, value in enumerate(self.painted):
            out[probabilities[..., channel] > 0.5] = value
        return out

    @property
    def written(self) -> Integer[np.ndarray, " k"]:
        """What each channel is in files, in the smallest type that holds them all."""
        values = np.asarray(self.painted or self.values)
        kind = np.uint8 if max(values) < 256 else np.uint16
        return values.astype(kind)

    @property
    def nothing(self) -> tuple[float, ...]:
        """Probability of every channel where nothing is: of the background, or none."""
        return (0.0 if self.regions else 1.0, *(0.0,) * (self.channels - 1))

    def truth(self, labels: Int[Array, "*s"]) -> Float[Array, "*s k"]:
        """What the output should be: 1 in every channel that a voxel belongs to."""
        classes = jax.nn.one_hot(labels, len(self.values))
        if not self.regions:
            return classes
        member = [[float(v in region) for region in self.regions] for v in self.values]
        return classes @ jnp.asarray(member)

    def valid(self, labels: Int[Array, "*s"]) -> Float[Array, "*s"]:
        """1 where a voxel was annotated."""
        return (labels < len(self.values)).astype(jnp.float32)


def classes(names: Mapping[str, int], *, ignore: int | None = None) -> Labels:
    """Exclusive classes from names and values; 0 is the background.

    Raises:
        ValueError: Where they are no labels (:class:`Labels`).
    """
    if len(set(names.values())) != len(names):
        raise ValueError(f"labels {dict(names)}: two names for one value")
    ordered = sorted(
        ({"background": 0} | dict(names)).items(), key=lambda item: item[1]
    )
    if sum(value == 0 for _, value in ordered) > 1:
        ordered = [item for item in ordered if item != ("background", 0)]
    return Labels(
        tuple(value for _, value in ordered),
        tuple(name for name, _ in ordered),
        ignore=ignore,
    )
