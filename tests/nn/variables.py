"""Variables for tests of networks, whatever they are compared with."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def random_variables(net: nn.Module, *inputs: jax.Array) -> dict[str, Any]:
    """Variables of ours, of plausible size, without compiling an initialisation."""
    rng = np.random.default_rng(0)

    def fill(path: tuple[Any, ...], like: jax.ShapeDtypeStruct) -> jax.Array:
        values = rng.normal(size=like.shape)
        if path[-1].key in ("scale", "var"):
            values = np.exp(0.2 * values)
        elif path[-1].key == "kernel":
            values = values / np.sqrt(np.prod(like.shape[:-1]))
        return jnp.asarray(values, like.dtype)

    template = jax.eval_shape(net.init, jax.random.key(0), *inputs)
    return jax.tree_util.tree_map_with_path(fill, template)
