"""Residual networks that are small, for tests of whatever they are compared with."""

from typing import Any

import jax

from medjax.nn.resnet import ResNet, ResNetConfig
from medjax.typing import Variables

SMALL = {
    "basic": ResNetConfig(blocks=(1, 2, 1, 1), bottleneck=False, width=4),
    "bottleneck": ResNetConfig(blocks=(1, 1, 1, 1), width=4),
    "small stem": ResNetConfig((1, 1, 1, 1), bottleneck=False, width=4, stem="small"),
}


def images(size: tuple[int, int], batch: int = 3) -> jax.Array:
    """Noise in three channels."""
    return jax.random.normal(jax.random.key(0), (batch, *size, 3))


def trained(net: ResNet, variables: Variables, x: jax.Array) -> tuple[Any, Any]:
    """Output and new statistics of a pass in training."""
    return net.apply(variables, x, train=True, mutable=["batch_stats"])


def evaluated(config: ResNetConfig, variables: Variables, x: jax.Array) -> Any:
    """Output of a pass outside training."""
    return jax.jit(ResNet(config).apply)(variables, x)
