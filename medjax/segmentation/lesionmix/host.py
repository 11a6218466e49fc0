"""A case that lesions are put into or taken from, as the device holds it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from medjax.data.boundary import DataError
from medjax.metrics.lesionwise import components
from medjax.segmentation.lesionmix.bank import Case, brain_of


class Host(NamedTuple):
    """One case; a batch of them has a leading axis on every array.

    Attributes:
        image: any unit.
        components: 1, 2, ... of the lesions, 0 elsewhere.
        volumes: of each lesion, mm^3; 0 behind the last.
        organ: where lesions can be.
    """

    image: Float[Array, "*b_space"]
    components: Int[Array, "*b_space"]
    volumes: Float[Array, "*n"]
    organ: Bool[Array, "*b_space"]

    @property
    def load(self) -> Float[Array, "*b"]:
        """mm^3 of all lesions."""
        return jnp.sum(self.volumes, axis=-1)


def host_of(case: Case, *, most: int) -> Host:
    """A case for the device: components are found here, on the CPU, once.

    Args:
        case: with an image.
        most: room for so many lesions; the same for all cases of a batch.

    Raises:
        DataError: for a case without image or brain, values that are not finite, or
            more lesions than room.
    """
    if case.image is None:
        raise DataError(f"{case.name}: has no image to put lesions into")
    if not np.isfinite(case.image).all():
        raise DataError(f"{case.name}: the image holds values that are not finite")
    organ = brain_of(case.image) if case.organ is None else case.organ
    numbers, count = components(case.lesion)
    if count > most:
        raise DataError(f"{case.name}: {count} lesions, there is room for {most}")
    voxels = np.bincount(numbers.ravel(), minlength=most + 1)[1:]
    return Host(
        jnp.asarray(case.image, jnp.float32),
        jnp.asarray(numbers),
        jnp.asarray(voxels * float(np.prod(case.spacing)), jnp.float32),
        jnp.asarray(organ),
    )


def batch_of(hosts: list[Host]) -> Host:
    """Cases of one shape as a batch."""
    return jax.tree.map(lambda *x: jnp.stack(x), *hosts)
