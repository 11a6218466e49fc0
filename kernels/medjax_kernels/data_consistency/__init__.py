"""Cartesian data consistency: the SENSE operator and everything built on it."""

from medjax_kernels.data_consistency.api import normal_operator, proximal_solve
from medjax_kernels.data_consistency.updates import (
    blend,
    blend_image,
    gradient_step,
    varnet_update,
)

__all__ = [
    "blend",
    "blend_image",
    "gradient_step",
    "normal_operator",
    "proximal_solve",
    "varnet_update",
]
