"""Lesion phantoms as a data set: what trains where no data are named."""

import dataclasses

import jax
import numpy as np

from medjax.data.nifti import Volume
from medjax.segmentation.datasets.case import Case, DataSet
from medjax.segmentation.labels import classes
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
