"""Phantoms as data sets: what trains where no data are named."""

import dataclasses
import functools

import jax
import numpy as np
from jaxtyping import Bool, Float

from medjax.data.nifti import Volume
from medjax.segmentation.datasets.case import Case, DataSet
from medjax.segmentation.labels import classes
from medjax.segmentation.phantoms.ambiguous import (
    Ambiguous,
    AmbiguousConfig,
    ambiguous_case,
)
from medjax.segmentation.phantoms.lesions import LesionConfig, lesion_phantom


@dataclasses.dataclass(frozen=True)
class LesionPhantoms(DataSet):
    """Brains with lesions, drawn when they are asked for."""

    config: LesionConfig = LesionConfig()
    """Of every case."""

    def read(self, case: Case) -> tuple[list[Volume], Volume | None]:
        """The phantom of the case's number; two axes become one slice."""
        # The number alone decides, so a case is the same in every set that has it.
        key = jax.random.fold_in(jax.random.key(0), int(case.id))
        found = lesion_phantom(self.config, key=key)
        image, label = np.asarray(found.image), np.asarray(found.components > 0)
        shape = image.shape if image.ndim == 3 else (*image.shape, 1)
        size = self.config.spacing
        affine, spacing = np.diag([size, size, size, 1.0]), (size,) * 3
        return (
            [Volume(image.reshape(shape), affine, spacing)],
            Volume(label.astype(np.int32).reshape(shape), affine, spacing),
        )


def lesion_phantoms(
    config: LesionConfig, *, seed: int, train: int, validation: int, test: int
) -> LesionPhantoms:
    """A set of phantoms; those held out are the same whatever the seed.

    Args:
        config: Of every case.
        seed: Of the training cases.
        train: How many.
        validation: How many.
        test: How many.
    """
    counts = {"test": test, "validation": validation, "train": train}
    split = [name for name, count in counts.items() for _ in range(count)]
    held_out = test + validation
    cases = tuple(
        Case(str(i if i < held_out else (seed + 1) * 100_003 + i), (), split=s)
        for i, s in enumerate(split)
    )
    kind = "x".join(map(str, config.shape))
    return LesionPhantoms(
        name=f"{kind} lesion phantoms",
        channels=("FLAIR",),
        labels=classes({"lesion": 1}),
        cases=cases,
        config=config,
    )


@dataclasses.dataclass(frozen=True)
class AmbiguousPhantoms(DataSet):
    """Objects that annotators draw differently; a case is what one of them drew.

    A case's patient is the number of its image, which all its annotators share.
    """

    config: AmbiguousConfig = AmbiguousConfig()
    """Of every image."""
    annotators: tuple[tuple[str, int], ...] = ()
    """How many each split's images have."""

    def read(self, case: Case) -> tuple[list[Volume], Volume | None]:
        """The image of the case's number, and what the annotator drew."""
        found, annotator = self._of(case), case.id.partition("-")[2]
        label = np.asarray(found.annotations[int(annotator)])
        return [flat(np.asarray(found.image))], flat(label.astype(np.int32))

    def probability(self, case: Case) -> Float[np.ndarray, "i j k c"]:
        """Of background and object, over all annotators that there could be."""
        p = np.asarray(self._of(case).probability)[..., None]
        return np.stack([1 - p, p], axis=-1)

    def fresh(self, case: Case, annotators: int) -> Bool[np.ndarray, "m i j k"]:
        """What others drew of the same image: the best that samples can be."""
        found = self.drawn(int(case.patient), annotators, 1)
        return np.asarray(found.annotations)[..., None]

    def _of(self, case: Case) -> Ambiguous:
        return self.drawn(int(case.patient), dict(self.annotators)[case.split])

    def drawn(self, number: int, annotators: int, panel: int = 0) -> Ambiguous:
        """An image with its annotators.

        Args:
            number: Of the image.
            annotators: How many look at it.
            panel: Which annotators; those of 0 are the set's.
        """
        return _drawn(self.config, number, annotators, panel)


@functools.lru_cache(maxsize=8)
def _drawn(
    config: AmbiguousConfig, number: int, annotators: int, panel: int
) -> Ambiguous:
    # The annotators of one image are read one after the other.
    key = jax.random.fold_in(jax.random.key(0), number)
    return ambiguous_case(config, annotators=annotators, key=key, panel=panel)


def flat(plane: np.ndarray) -> Volume:
    """A plane as a volume of one slice, voxels of 1 mm."""
    return Volume(plane[..., None], np.eye(4), (1.0, 1.0, 1.0))


def ambiguous_phantoms(
    config: AmbiguousConfig,
    *,
    seed: int,
    train: int,
    test: int,
    annotators: tuple[int, int] = (4, 16),
) -> AmbiguousPhantoms:
    """A set of images with annotators; those held out are the same whatever the seed.

    Args:
        config: Of every image.
        seed: Of the training images.
        train: How many images.
        test: How many images.
        annotators: Of every training and every test image.
    """
    numbers = {"test": range(test)}
    first = (seed + 1) * 100_003 + test
    numbers["train"] = range(first, first + train)
    counts: dict[str, int] = {"train": annotators[0], "test": annotators[1]}
    cases = tuple(
        Case(f"{number}-{annotator}", (), patient=str(number), split=split)
        for split, every in numbers.items()
        for number in every
        for annotator in range(counts[split])
    )
    return AmbiguousPhantoms(
        name=f"{config.size}x{config.size} ambiguous phantoms",
        channels=("image",),
        labels=classes({"object": 1}),
        cases=cases,
        config=config,
        annotators=tuple(counts.items()),
    )
