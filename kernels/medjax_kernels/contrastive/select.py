"""Which engine runs: the named one or none; without a name, the best that is known."""

from types import ModuleType

from medjax_kernels.contrastive import tpu, xla
from medjax_kernels.contrastive.targets import Rule
from medjax_kernels.contrastive.tile import Block
from medjax_kernels.contrastive.xla import Engine

IMPLEMENTATIONS = ("xla", "xla_chunked", "tpu", "gpu")
LOGITS_BYTES = 256 * 2**20
"""Above this many bytes of fp32 logits, recomputing them beats keeping them."""


def gpu_module() -> ModuleType:
    """The GPU module, imported late: Mosaic GPU needs packages that CPUs may lack."""
    from medjax_kernels.contrastive import gpu

    return gpu


def select(
    implementation: str | None, chunk: int | None, block: Block, rule: Rule | None
) -> tuple[Engine, int | None]:
    """The engine and its chunk for blocks of this kind.

    Without a name it is one of XLA's two: the fused kernels have not been timed on a
    chip, so they run where they are named.

    Args:
      implementation: a name, or None to choose.
      chunk: rows per tile, or None.
      block: the largest block that a device will see; only its shapes are looked at.
      rule: the targets.

    Returns:
      The engine, and the chunk to hand to it.

    Raises:
      ValueError: for an unknown name, a chunk below one, or a chunk for an engine that
        has none.
      NotImplementedError: if the named engine cannot run this; the message says why.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}, expected a positive number of rows")
    if implementation is None:
        fits = 4 * block.x.shape[0] * block.y.shape[0] <= LOGITS_BYTES
        implementation = "xla" if chunk is None and fits else "xla_chunked"
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation is {implementation!r}, expected None or one of "
            f"{IMPLEMENTATIONS}"
        )
    if chunk is not None and implementation in ("xla", "tpu"):
        held = "the whole matrix" if implementation == "xla" else "no rows at all"
        raise ValueError(
            f"implementation={implementation!r} keeps {held}, got chunk={chunk}; use "
            "'xla_chunked' or chunk=None"
        )
    if implementation == "xla":
        return xla.whole, None
    if implementation == "xla_chunked":
        return xla.chunked, chunk
    module = tpu if implementation == "tpu" else gpu_module()
    if (reason := module.unsupported(block, rule)) is not None:
        raise NotImplementedError(f"implementation={implementation!r}: {reason}")
    return Engine(module.forward, module.backward), chunk
