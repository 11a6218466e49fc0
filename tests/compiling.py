"""How tests compile what they run once or twice."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """Without most optimisations: a few calls are over before they would pay."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
