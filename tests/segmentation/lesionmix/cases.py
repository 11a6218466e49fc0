"""Phantom cases that the tests of LesionMix share: one compilation for all."""

import functools

import jax
import numpy as np

from medjax.segmentation.lesionmix.bank import Case, LesionBank, make_bank
from medjax.segmentation.lesionmix.host import Host, batch_of, host_of
from medjax.segmentation.phantoms.lesions import (
    LesionConfig,
    LesionPhantom,
    lesion_phantom,
)

SPACING = (1.0, 1.0)
CONFIG = LesionConfig(
    shape=(48, 48), window=20, lesions=(7.0, 9.0), slots=20, largest=60
)
SOLID = LesionConfig(
    shape=(20, 24, 22), window=16, lesions=(8.0, 8.0), slots=8, largest=60
)
MOST = 20


@functools.cache
def drawn(count: int = 128) -> LesionPhantom:
    """Very many phantoms."""
    keys = jax.random.split(jax.random.key(0), count)
    many = jax.jit(jax.vmap(lambda key: lesion_phantom(CONFIG, key=key)))(keys)
    return jax.tree.map(np.asarray, many)


@functools.cache
def phantoms() -> tuple[Case, ...]:
    """Eight cases with about eight lesions each."""
    many = drawn()
    return tuple(
        Case(
            f"case{i}",
            many.image[i],
            many.components[i] > 0,
            many.organ[i],
            SPACING,
        )
        for i in range(8)
    )


@functools.cache
def bank() -> LesionBank:
    """Of four of them, in one box size."""
    return make_bank(phantoms()[:4], boxes=(24,))


@functools.cache
def hosts() -> Host:
    """All eight as a batch."""
    return batch_of([host_of(case, most=MOST) for case in phantoms()])
