"""Which engine runs: the named one or none; without a name, the best that is known."""

from types import ModuleType

from medjax_kernels.contrastive import tpu, xla
from medjax_kernels.contrastive.targets import Rule
from medjax_kernels.contrastive.tile import Block
from medjax_kernels.contrastive.xla import Engine

IMPLEMENTATIONS = ("xla", "xla_chunked", "tpu", "gpu")
LOGITS_BYTES = 256 * 2**20
"""Above this many bytes of fp32 logits, recomputing them beats keeping them."""

LEAST_ROWS = 64
"""Of a chunk that is chosen here: fewer leave a device idle."""


def gpu_module() -> ModuleType:
    """The GPU module, imported late: Mosaic GPU needs packages that CPUs may lack."""
    from medjax_kernels.contrastive import gpu

    return gpu


def select(
    implementation: str | None,
    chunk: int | None,
    block: Block,
    rule: Rule | None,
    *,
    visits: bool = False,
) -> tuple[Engine, int | None]:
    """The engine and its chunk for blocks of this kind.

    Without a name it is one of XLA's two: the fused kernels have not been timed on a
    chip, so they run where they are named.

    Args:
      implementation: a name, or None to choose.
      chunk: rows per tile, or None.
      block: the largest block that a device will see; only its shapes are looked at.
      rule: the targets.
      visits: whether blocks come one after another, around a ring. What an engine keeps
        of each adds up to this device's rows of the whole matrix, which a ring is there
        to avoid: without a name, logits are then recomputed, few rows at a time.

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
        keeps = chunk is None and fits and not visits
        implementation = "xla" if keeps else "xla_chunked"
        if visits and chunk is None:
            # A chunk's logits are then a quarter of a block of fp32 features.
            rows, width = block.x.shape
            chunk = min(rows, max(LEAST_ROWS, width // 4))
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
