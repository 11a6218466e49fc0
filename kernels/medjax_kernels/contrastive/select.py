"""Which engine runs: the named one or none; without a name, the best that is known."""

from medjax_kernels.contrastive import xla
from medjax_kernels.contrastive.xla import Engine

IMPLEMENTATIONS = ("xla", "xla_chunked")
LOGITS_BYTES = 256 * 2**20
"""Above this many bytes of fp32 logits, recomputing them beats keeping them."""


def select(
    implementation: str | None, chunk: int | None, rows: int, columns: int
) -> tuple[Engine, int | None]:
    """The engine and its chunk for blocks of rows x columns.

    Args:
      implementation: a name, or None to choose.
      chunk: rows per tile, or None.
      rows: rows that a device owns.
      columns: columns that it sees at a time.

    Returns:
      The engine, and the chunk to hand to it.

    Raises:
      ValueError: for an unknown name, a chunk below one, or a chunk for "xla".
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}, expected a positive number of rows")
    if implementation is None:
        fits = 4 * rows * columns <= LOGITS_BYTES
        implementation = "xla" if chunk is None and fits else "xla_chunked"
    if implementation == "xla":
        if chunk is not None:
            raise ValueError(
                "implementation='xla' keeps the whole matrix, got chunk="
                f"{chunk}; use 'xla_chunked' or chunk=None"
            )
        return xla.whole, None
    if implementation == "xla_chunked":
        return xla.chunked, chunk
    raise ValueError(
        f"implementation is {implementation!r}, expected None or one of "
        f"{IMPLEMENTATIONS}"
    )
