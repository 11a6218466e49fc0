"""What this chip can do at best, measured beside the contestants.

A copy (each number read and written once) and a square product of random matrices: on
zeros a chip draws less power and clocks higher. A third run does nothing: what a call
costs the host, below which no queued call can be timed.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from medjax_kernels.bench.contest import JaxRun, Timing

COPY_BYTES = {"cpu": 64 << 20, "gpu": 1 << 30, "tpu": 256 << 20}
SIZE = {"cpu": 1024, "gpu": 8192, "tpu": 8192}
COPY, NOTHING = "copy", "an empty call"


def product_name(unit: str) -> str:
    """What the product of matrices of this dtype is called."""
    return f"product {unit}"


def _negate(x: Array) -> dict[str, Array]:
    return {"x": -x}


def _product(a: Array, b: Array) -> dict[str, Array]:
    # float32 is taken at its word; narrower types run at the matrix unit's rate.
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    out = jnp.matmul(a, b, precision=precision, preferred_element_type=jnp.float32)
    return {"x": out.astype(a.dtype)}


def ceiling_runs(platform: str, units: Iterable[str]) -> dict[str, JaxRun]:
    """The runs to take turns with.

    Args:
        platform: sizes are its.
        units: dtypes whose products are measured.
    """
    rng = np.random.default_rng(0)
    size = SIZE[platform]
    long = rng.standard_normal(COPY_BYTES[platform] // 4, np.float32)
    runs = {COPY: JaxRun(_negate, [(long,), (long,)])}
    square = rng.standard_normal((2, size, size), np.float32)
    for unit in sorted(set(units)):
        a, b = square.astype(jnp.dtype(unit))
        runs[product_name(unit)] = JaxRun(_product, [(a, b), (b, a)])
    small = np.ones(1, np.float32)
    runs[NOTHING] = JaxRun(_negate, [(small,), (small,)])
    return runs


def read_ceilings(timings: dict[str, Timing], platform: str) -> dict[str, float]:
    """Bandwidth in bytes/s under ``copy``, rates in FLOP/s, and seconds of a call."""
    found = {
        COPY: 2 * COPY_BYTES[platform] / timings[COPY].median,
        NOTHING: timings[NOTHING].median,
    }
    for name, timing in timings.items():
        if name.startswith("product"):
            found[name] = 2 * SIZE[platform] ** 3 / timing.median
    return found
