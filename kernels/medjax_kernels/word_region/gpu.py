"""The engine of a Hopper GPU: fused forward, backward by XLA in tiles.

Forward, one kernel (:mod:`.gpu_kernel`): the attention of a pair lives on the chip, in
registers and, rounded to the dtype of the features, in shared memory. It leaves sums
over regions, of which XLA makes cosines and their log-sum-exp:
with ``a`` attention before it is divided by its sum ``Z``, less a constant,

    c_i = m + sum_r a_ir u_r / Z,    |c|^2 = |m|^2 + 2 (a . h) / Z + a G a^T / Z^2

(centred regions sum to zero, so a constant changes nothing; it leaves to the rounding
only what attention differs by).

Backward: exactly the tiles of ``"xla_chunked"``, which recompute attention in fp32 from
the same features. There is no fused backward pass yet.

Features are bf16 or fp16, whose products the tensor cores take exactly. G is rounded to
their dtype too, scaled by a power of two per image so that fp16 holds it.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax_kernels import compat
from medjax_kernels.word_region import gpu_kernel, tile, xla
from medjax_kernels.word_region.gpu_kernel import CHUNK, ROUND, Config, Inputs
from medjax_kernels.word_region.tile import Operands, Options
from medjax_kernels.word_region.xla import Tile

EXTRA = 3
"""Rows of G beyond its regions: ones, and two terms of the products with the mean."""

LARGEST_TEMP1 = 40.0
"""Attention before its division may be as small as exp(-temp1): fp32's sums hold it."""

backward = xla.chunked_backward


def _up(n: int, step: int) -> int:
    return -(-n // step) * step


def configure(o: Operands, options: Options) -> Config | None:
    """The launch, with as many slots as fit; None if not even two do."""
    (m, r, d), (n, t, _) = o.regions.shape, o.words.shape
    for stages in (4, 3, 2):
        config = Config(
            images=m,
            reports=n,
            words=_up(t, CHUNK),
            regions=_up(r + EXTRA, ROUND),
            width=_up(d, CHUNK),
            temp1=options.temp1,
            stages=stages,
        )
        if gpu_kernel.shared_bytes(config) <= compat.H200_SHARED_MEMORY:
            return config
    return None


def unsupported(o: Operands, options: Options) -> str | None:
    """Why this engine cannot run the problem, or None if it can."""
    if compat.platform() != "gpu":
        return f"it runs on Hopper GPUs, not on {compat.platform()!r}"
    if o.words.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it takes bfloat16 or float16 features, not {o.words.dtype}"
    if options.temp1 > LARGEST_TEMP1:
        return f"it takes temp1 up to {LARGEST_TEMP1}, not {options.temp1}"
    (_, t, _), r = o.words.shape, o.regions.shape[1]
    if t > 2 * CHUNK:
        return f"it takes up to {2 * CHUNK} words, not {t}"
    if configure(o, options) is None:
        return f"{t} words and {r} regions do not fit into shared memory"
    return None


def _pad(a: Array, *sizes: int) -> Array:
    """Zeros behind the last axes, up to these sizes."""
    widths = [(0, 0)] * (a.ndim - len(sizes))
    widths += [(0, s - n) for s, n in zip(sizes, a.shape[-len(sizes) :], strict=True)]
    return jnp.pad(a, widths)


def _gram(
    o: Operands, config: Config
) -> tuple[Float[Array, "m r r"], Float[Array, " m"]]:
    """G with its extra rows at the end, and the factors that it was scaled by."""
    dtype = o.regions.dtype
    largest = jnp.maximum(jnp.max(jnp.abs(o.gram), (1, 2)), jnp.max(jnp.abs(o.tilt), 1))
    there = (largest > 0) & jnp.isfinite(largest)
    scale = jnp.exp2(-jnp.ceil(jnp.log2(jnp.where(there, largest, 1))))
    tilt = o.tilt * scale[:, None]
    high = tilt.astype(dtype)
    low = (tilt - high.astype(jnp.float32)).astype(dtype)
    all_rows = config.regions
    ones = jnp.ones_like(high)
    extra = _pad(jnp.stack([ones, high, low], 1), all_rows)
    gram = _pad(o.gram * scale[:, None, None], all_rows - EXTRA, all_rows)
    return jnp.concatenate([gram.astype(dtype), extra], axis=1), scale


def forward(
    o: Operands, options: Options, tiles: Tile | None
) -> tuple[Float[Array, "m n"], None]:
    """All similarities; nothing is kept."""
    config = configure(o, options)
    assert config is not None
    (m, r, _), (n, t, _) = o.regions.shape, o.words.shape
    gram, scale = _gram(o, config)
    lengths = jnp.sum(o.valid, axis=1, dtype=jnp.float32)
    typical = jnp.exp(options.temp1 * (1 / jnp.maximum(lengths, 1) - 1))
    addend = jnp.where(_pad(o.valid, config.words), 0.0, tile.EMPTY)
    row = jnp.arange(config.regions)
    rows = (row < r, row == config.regions - 3, row >= config.regions - 2)
    inputs = Inputs(
        regions=_pad(o.regions, config.regions, config.width),
        words=_pad(o.words, config.words, config.width).swapaxes(1, 2),
        gram=gram,
        columns=addend.astype(jnp.float32),
        typical=typical,
        rows=jnp.stack(rows).astype(jnp.float32).reshape(3, -1, ROUND).swapaxes(0, 1),
    )
    sums = gpu_kernel.launch(inputs, config).reshape(m, n, config.sums, -1)
    sums, chunks = sums[..., :t], config.chunks
    dots, squares = (
        jnp.sum(sums[:, :, i * chunks : (i + 1) * chunks], axis=2) for i in range(2)
    )
    undo = (1 / scale)[:, None, None]
    total = sums[:, :, -2] + r * typical[None, :, None]
    first, second = sums[:, :, -1] * undo / total, squares * undo
    square = o.level[:, None, None] + 2 * first + second / jnp.square(total)
    norms = o.norms[None] * jnp.sqrt(jnp.maximum(square, 0))
    cosine = dots / total / jnp.maximum(norms, options.eps)
    valid = o.valid[None, :, :, None]
    return tile.aggregate(cosine[..., None], valid, options)[..., 0, 0], None
