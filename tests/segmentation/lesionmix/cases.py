"""Phantom cases that the tests of LesionMix share."""

import functools

import jax
import numpy as np

from medjax.segmentation.lesionmix.bank import Case, LesionBank, make_bank
from medjax.segmentation.lesionmix.host import Host, batch_of, host_of
from medjax.segmentation.phantoms.lesions import LesionConfig, lesion_phantom

SPACING = (1.0, 1.0)
CONFIG = LesionConfig(
    shape=(48, 48), window=20, lesions=(8.0, 8.0), slots=16, largest=80
)
MOST = 16


@functools.cache
def phantoms(count: int = 8) -> tuple[Case, ...]:
    """Cases with about eight lesions each."""
    keys = jax.random.split(jax.random.key(0), count)
    drawn = jax.jit(jax.vmap(lambda key: lesion_phantom(CONFIG, key=key)))(keys)
    image, numbers, organ = (
        np.asarray(x) for x in (drawn.image, drawn.components, drawn.organ)
    )
    return tuple(
        Case(f"case{i}", image[i], numbers[i] > 0, organ[i], SPACING)
        for i in range(count)
    )


@functools.cache
def bank() -> LesionBank:
    """Of four of them, in one box size."""
    return make_bank(phantoms()[:4], boxes=(24,))


@functools.cache
def hosts() -> Host:
    """All eight as a batch."""
    return batch_of([host_of(case, most=MOST) for case in phantoms()])
