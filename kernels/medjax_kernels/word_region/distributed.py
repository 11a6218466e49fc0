"""Owned images against the reports of the whole batch, inside ``jax.shard_map``.

Reports are small (a word is as wide as a region, and there are fewer), so they are what
travels. The gradient of gathering is scattering with a sum: what every device found out
about a report's words comes back to its owner.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medjax_kernels.word_region.api import as_mask, word_region_similarity

Axes = str | Sequence[str]


def global_similarity(
    words: Float[Array, "n t d"],
    regions: Float[Array, "m r _d"],
    *,
    axis_name: Axes,
    mask: Bool[Array, "_n _t"] | None = None,
    lengths: Int[Array, " _n"] | None = None,
    **options: Any,
) -> Float[Array, "m all_n"]:
    """This device's rows of the similarity of all images and all reports.

    Args:
      words: word features of this device's reports.
      regions: region features of this device's images.
      axis_name: mesh axes over which the batch is split.
      mask: as for :func:`.api.word_region_similarity`, of this device's reports.
      lengths: the same.
      **options: the other options of :func:`.api.word_region_similarity`.

    Returns:
      Owned images by global reports, the reports in the order of the devices.

    Raises:
      ValueError: for shapes, dtypes or options that do not fit.
      NotImplementedError: if the named implementation cannot run this, and why.
    """
    valid = as_mask(words, mask, lengths)
    axes = axis_name if isinstance(axis_name, str) else tuple(axis_name)
    words, valid = (
        jax.lax.all_gather(a, axes, axis=0, tiled=True) for a in (words, valid)
    )
    return word_region_similarity(words, regions, mask=valid, **options)


def global_cross_entropy(
    similarity: Float[Array, "m all_n"], *, axis_name: Axes
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Symmetric cross-entropy of matching pairs over the whole batch.

    Image i belongs to report i. No device holds more than its own rows.

    Args:
      similarity: from :func:`global_similarity`, times a temperature (GLoRIA: 10).
      axis_name: mesh axes over which the batch is split.

    Returns:
      (image to report, report to image), each the mean over the whole batch, the same
      on every device.

    Raises:
      ValueError: unless there are as many images as reports.
    """
    axes = axis_name if isinstance(axis_name, str) else tuple(axis_name)
    m, n = similarity.shape
    if m * jax.lax.axis_size(axes) != n:
        raise ValueError(
            f"similarity has shape {similarity.shape} on each of "
            f"{jax.lax.axis_size(axes)} devices, expected as many images as reports"
        )
    own = jax.lax.axis_index(axes) * m + jnp.arange(m, dtype=jnp.int32)
    matching = jnp.sum(jnp.take_along_axis(similarity, own[:, None], axis=1))
    rows = jnp.sum(jax.nn.logsumexp(similarity, axis=1))
    # Any common shift will do; what it is must not be differentiated.
    peak = jnp.max(jax.lax.stop_gradient(similarity), axis=0)
    peak = jax.lax.pmax(peak, axes)
    total = jax.lax.psum(jnp.sum(jnp.exp(similarity - peak[None]), axis=0), axes)
    columns = jnp.sum(peak + jnp.log(total))
    rows, matching = (jax.lax.psum(a, axes) for a in (rows, matching))
    return (rows - matching) / n, (columns - matching) / n
