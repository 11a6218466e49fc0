"""What kernels for Hopper share: where a tile lies in the registers of a warpgroup."""

from jax import Array
from jax.experimental.pallas import mosaic_gpu as plgpu

from medjax_kernels import compat


def laid_out(array: Array, *reduced: int) -> Array:
    """In registers as an accumulator is, or a sum of one along the reduced axis."""
    if compat.interpreting():
        return array
    layout = plgpu.Layout.WGMMA
    return plgpu.layout_cast(array, layout.reduce(reduced) if reduced else layout)
