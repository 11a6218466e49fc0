"""What :mod:`medjax_kernels.aot` compiles of this operation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from medjax_kernels import contrastive
from medjax_kernels.aot import Case
from medjax_kernels.contrastive.shapes import SHAPES

DEFAULT_SHAPE = "clip_32k"
"""What is compiled if no shape is named."""


def cases(shape: str, platform: str) -> list[Case]:
    """Programs on one named shape.

    Args:
        shape: a name of :data:`.shapes.SHAPES`.
        platform: ``"gpu"`` or ``"tpu"``, which has an engine of that name.

    Returns:
        The fused forward pass and step (value and gradient) with the shape's targets,
        of the sigmoid loss and with group targets too, and XLA's step to compare with.
    """
    s = SHAPES[shape]
    features = jax.ShapeDtypeStruct((s.n, s.d), jnp.dtype(s.dtype))
    reports = jax.ShapeDtypeStruct((s.n, s.p), jnp.float32)
    ids = jax.ShapeDtypeStruct((s.n,), jnp.int32)
    scalar = jax.ShapeDtypeStruct((), jnp.float32)

    def target(given: Array | None) -> Any:
        if given is None:
            return contrastive.Identity()
        if given.ndim == 1:
            return contrastive.Groups(given)
        return contrastive.Similarity(given, strength=0.07)

    def softmax(
        x: Array, y: Array, scale: Array, given: Array | None = None, **options: Any
    ) -> Array:
        xy, yx = contrastive.softmax_loss(
            x, y, logit_scale=scale, targets=target(given), **options
        )
        return xy + yx

    def sigmoid(x: Array, y: Array, scale: Array, **options: Any) -> Array:
        return contrastive.sigmoid_loss(
            x, y, logit_scale=scale, logit_bias=-10.0, **options
        )

    def step(loss: Any, **options: Any) -> Any:
        return jax.value_and_grad(functools.partial(loss, **options), (0, 1, 2))

    own = (reports,) if s.p else ()
    fused = {"implementation": platform}
    return [
        Case(
            f"{platform} forward",
            functools.partial(softmax, **fused),
            (features, features, scalar, *own),
        ),
        Case(
            f"{platform} step",
            step(softmax, **fused),
            (features, features, scalar, *own),
        ),
        Case(
            f"{platform} groups step",
            step(softmax, **fused),
            (features, features, scalar, ids),
        ),
        Case(
            f"{platform} sigmoid step",
            step(sigmoid, **fused),
            (features, features, scalar),
        ),
        Case(
            "xla_chunked step",
            step(softmax, implementation="xla_chunked"),
            (features, features, scalar, *own),
        ),
    ]
