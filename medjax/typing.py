"""The axis legend of the whole library, and the array aliases signatures use.

One letter means one thing everywhere:

====== ======================================================================
axis   meaning
====== ======================================================================
``b``  examples of a batch (under a sharded batch: the global batch)
``v``  augmented views of one example
``t``  frames of a series (time, inversion times, echo times)
``c``  receiver coils; in a network's feature map, channels
``h``  image rows (for k-space: phase-encode lines, ky)
``w``  image columns (for k-space: the readout, kx)
``d``  depth (slices); as the last axis of features, the embedding width
``n``  tokens of a sequence, or nodes of a graph
``e``  edges of a graph
``k``  classes or findings
====== ======================================================================

Images are channels-last. Complex data are ``complex64`` in every public signature.
"""

from collections.abc import Mapping
from typing import Any

import jax

Key = jax.Array
"""A typed PRNG key, ``jax.random.key(seed)``."""

Variables = Mapping[str, Any]
"""Flax variable collections: ``{"params": ..., "batch_stats": ...}``."""

Batch = Mapping[str, Any]
"""One batch: names to arrays whose leading axis is ``b``."""

Metrics = Mapping[str, jax.Array]
"""Names to scalars, averaged over the global batch."""
