"""Which engine runs: the named one or none; without a name, the best that is known."""

from types import ModuleType

from medjax_kernels.word_region import tpu, xla
from medjax_kernels.word_region.tile import Operands, Options
from medjax_kernels.word_region.xla import Engine, Tile

IMPLEMENTATIONS = ("xla", "xla_chunked", "tpu", "gpu")
ATTENTION_BYTES = 16 * 2**20
"""Up to so many bytes an fp32 attention tensor is kept; beyond, recomputed."""


def gpu_module() -> ModuleType:
    """The GPU module, imported late: Mosaic GPU needs packages that CPUs may lack."""
    from medjax_kernels.word_region import gpu

    return gpu


def select(
    implementation: str | None, tile: Tile | None, operands: Operands, options: Options
) -> Engine:
    """The engine for operands of these shapes.

    Without a name it is one of XLA's two: the fused kernels have not been timed on a
    chip, so they run where they are named.

    Raises:
      ValueError: for an unknown name, or a tile for an engine that takes none.
      NotImplementedError: if the named engine cannot run this; the message says why.
    """
    if tile is not None and (len(tile) != 2 or min(tile) < 1):
        raise ValueError(f"tile is {tile}, expected (images, reports), both positive")
    if implementation is None:
        (m, r, _), (n, t, _) = operands.regions.shape, operands.words.shape
        small = 4 * m * n * r * t <= ATTENTION_BYTES
        implementation = "xla" if small and tile is None else "xla_chunked"
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation is {implementation!r}, expected None or one of "
            f"{IMPLEMENTATIONS}"
        )
    if tile is not None and implementation in ("xla", "tpu"):
        raise ValueError(
            f"implementation={implementation!r} takes no tile, got {tile}; use "
            "'xla_chunked' or tile=None"
        )
    if implementation == "xla":
        return xla.whole
    if implementation == "xla_chunked":
        return xla.chunked
    module = tpu if implementation == "tpu" else gpu_module()
    if (reason := module.unsupported(operands, options)) is not None:
        raise NotImplementedError(f"implementation={implementation!r}: {reason}")
    return Engine(module.forward, module.backward)
