"""How much lesion a case shall have: laws of the load, drawn from on the device.

A law is a quantile function, so that a load is ``quantile(u)`` of a uniform number. The
named ones lie between percentiles of the training cases' loads: ``low`` is uniform from
the 5th to the 35th, ``medium`` to the 65th, ``high`` to the 95th, ``uniform`` from the
5th to the 95th; ``real`` is the training loads themselves, and ``lognormal`` has no
upper end.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from medjax.typing import Key

LoadName = Literal["low", "medium", "high", "uniform", "real", "lognormal"]
PERCENTILES = {
    "low": (5.0, 35.0),
    "medium": (35.0, 65.0),
    "high": (65.0, 95.0),
    "uniform": (5.0, 95.0),
}


@dataclasses.dataclass(frozen=True)
class LoadLaw:
    """A law of loads; hashable, so that it can be static under ``jit``.

    Attributes:
        name: which it is.
        values: the ends of a uniform law, mm^3; all training loads of ``real``; mean
            and standard deviation of the logarithm of ``lognormal``.
    """

    name: LoadName
    values: tuple[float, ...]


def load_law(
    name: LoadName,
    loads: Float[np.ndarray, " n"],
    *,
    log_normal: tuple[float, float] | None = None,
) -> LoadLaw:
    """A law by its name.

    Args:
        name: which.
        loads: of the training cases, mm^3; those without a lesion count.
        log_normal: mean and standard deviation of the logarithm, of ``lognormal``.

    Raises:
        ValueError: for another name, a law that needs loads without any, or
            ``lognormal`` without its numbers.
    """
    if name == "lognormal":
        if log_normal is None or not log_normal[1] > 0:
            raise ValueError(
                f"load 'lognormal': expected mean and positive standard deviation of "
                f"the logarithm, got {log_normal}"
            )
        return LoadLaw(name, log_normal)
    if name not in (*PERCENTILES, "real"):
        raise ValueError(
            f"load={name!r}: expected one of {[*PERCENTILES, 'real', 'lognormal']}"
        )
    if not len(loads):
        raise ValueError(
            f"load {name!r} is a law of training loads, and there are none"
        )
    if name == "real":
        return LoadLaw(name, tuple(np.sort(loads).tolist()))
    low, high = np.percentile(loads, PERCENTILES[name])
    return LoadLaw(name, (float(low), float(high)))


def draw_load(law: LoadLaw, *, key: Key) -> Float[Array, ""]:
    """A load in mm^3."""
    u = jax.random.uniform(key, ())
    values = jnp.asarray(law.values, jnp.float32)
    if law.name == "real":
        n = len(law.values)
        return values[jnp.minimum((u * n).astype(jnp.int32), n - 1)]
    if law.name == "lognormal":
        # Away from 0, where the quantile is infinite.
        return jnp.exp(values[0] + values[1] * ndtri(jnp.maximum(u, 1e-7)))
    return values[0] + u * (values[1] - values[0])
