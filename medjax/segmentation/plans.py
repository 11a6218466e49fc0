"""A network and a patch for given voxels: nnU-Net's rules, restated.

The patch starts in the shape of the typical case, and is cut along the axis where it
covers most of it until the feature maps fit a budget; what is left of the budget
becomes batch size (Isensee et al. 2021, supplement 6.2; budgets, blocks and the order
of steps as in version 2 of the software).

An axis is pooled while 2 x 4 voxels are left and its voxels are less than twice as long
as the shortest that can still be pooled. Its kernel is 1 until its voxels are less than
twice as long as the shortest of all, then 3 for good.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medjax.nn.nnunet import Axes, NNUNetConfig

LEAST = 4
"""Voxels of the lowest level, at least."""
BASE_WIDTH = 32
MAX_WIDTH = {2: 512, 3: 320}
FIRST_PATCH = {2: 2048**2, 3: 256**3}
"""Pixels or voxels that the search starts with."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """What feature maps may cost, and what the network is built of."""

    features: Mapping[int, float]
    """Numbers in all feature maps of one batch, by rank."""
    batch: Mapping[int, int]
    """The batch size that the number was taken with."""
    fits: Mapping[int, int]
    """Patches that have to fit. nnU-Net's plain planner asked for as many as above
    in its first releases, and its residual planners still do."""
    share: float
    """Of the training voxels, that one batch may hold at most."""
    blocks: tuple[int, ...] = (2,) * 12
    """Convolutions, or residual blocks, of the encoder's levels."""
    decoder_block: int = 2
    """Convolutions of every level of the decoder."""
    residual: bool = False
    """A residual encoder."""


_BATCH = {2: 12, 3: 2}
_RESIDUAL: Mapping[str, Any] = {
    "batch": _BATCH,
    "fits": _BATCH,
    "share": 1.0,
    "blocks": (1, 3, 4, *(6,) * 9),
    "decoder_block": 1,
    "residual": True,
}
BUDGETS: Mapping[str, Budget] = {
    "plain": Budget({2: 85e6, 3: 560e6}, _BATCH, {2: 2, 3: 2}, 0.05),
    "residual_m": Budget({2: 135e6, 3: 680e6}, **_RESIDUAL),
    "residual_l": Budget({2: 380e6, 3: 2100e6}, **_RESIDUAL),
}
"""For about 8, 8 and 24 GB: nnU-Net's default, and its residual encoders M and L."""


@dataclasses.dataclass(frozen=True)
class NetworkPlan:
    """What is trained on what."""

    patch: Axes
    """Voxels, a multiple of the network's strides."""
    batch_size: int
    """Patches."""
    network: NNUNetConfig
    """The network."""


def plan_network(
    spacing: Sequence[float],
    shape: Sequence[float],
    *,
    classes: int,
    voxels: float = math.inf,
    budget: Budget = BUDGETS["plain"],
) -> NetworkPlan:
    """Patch, batch size and network for typical cases.

    Args:
        spacing: Voxel size along each of two or three axes, mm.
        shape: Voxels of the typical (median) case along the same axes.
        classes: Of the output, background and ignored ones included.
        voxels: Of all training cases together.
        budget: What may be spent.

    Raises:
        ValueError: For sizes that are not positive, or too few voxels for two levels.
    """
    rank = len(spacing)
    if rank not in MAX_WIDTH or len(shape) != rank or not min(*spacing, *shape) > 0:
        raise ValueError(
            f"spacing {tuple(spacing)} and shape {tuple(shape)}: expected two or three "
            "positive numbers each"
        )
    ratio = 1 / np.asarray(spacing, float)
    full = ratio * (FIRST_PATCH[rank] / np.prod(ratio)) ** (1 / rank)
    patch = [min(round(a), math.ceil(b)) for a, b in zip(full, shape, strict=True)]
    network, patch = _network(spacing, patch, classes, budget)
    allowed = budget.features[rank]
    smallest = budget.fits[rank] / budget.batch[rank]
    while feature_maps(network, patch) * smallest > allowed:
        longest = max(range(rank), key=lambda i: patch[i] / shape[i])
        shorter = list(patch)
        shorter[longest] -= network.divisor[longest]
        # The step of the shortened patch: 256 pools once more than 224, which is valid.
        step = _network(spacing, shorter, classes, budget)[0].divisor[longest]
        patch[longest] -= step
        network, patch = _network(spacing, patch, classes, budget)
    size = round(allowed / feature_maps(network, patch) * budget.batch[rank])
    if math.isfinite(voxels):
        size = min(size, round(voxels * budget.share / math.prod(patch)))
    return NetworkPlan(tuple(patch), max(size, 2), network)


def topology(
    spacing: Sequence[float], patch: Sequence[int]
) -> tuple[tuple[Axes, ...], tuple[Axes, ...]]:
    """Kernels and strides of every level, finest first.

    Args:
        spacing: Voxel size along each axis, mm.
        patch: Voxels along each axis.
    """
    rank = len(patch)
    lengths, sizes = list(map(float, spacing)), list(patch)
    kernel, kernels, strides = [1] * rank, [], [(1,) * rank]
    while True:
        pooled = [i for i in range(rank) if sizes[i] >= 2 * LEAST]
        shortest = min((lengths[i] for i in pooled), default=0.0)
        pooled = [i for i in pooled if lengths[i] < 2 * shortest]
        if not pooled or (len(pooled) == 1 and sizes[pooled[0]] < 3 * LEAST):
            break
        near = [length < 2 * min(lengths) for length in lengths]
        kernel = [3 if n else k for k, n in zip(kernel, near, strict=True)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if i in pooled else 1 for i in range(rank)))
        for i in pooled:
            lengths[i] *= 2
            sizes[i] = -(-sizes[i] // 2)
    return (*kernels, (3,) * rank), tuple(strides)


def feature_maps(network: NNUNetConfig, patch: Sequence[int]) -> int:
    """Numbers in all feature maps that convolutions of one patch give."""
    sizes, extent = [], np.asarray(patch)
    for stride in network.strides:
        extent = extent // stride
        sizes.append(int(np.prod(extent)))
    total = network.widths[0] * sizes[0] if network.residual else 0
    for i, (size, width) in enumerate(zip(sizes, network.widths, strict=True)):
        per_block = 2 if network.residual else 1
        total += size * width * per_block * network.blocks[i]
        if network.residual and i:  # the short cut into the level
            total += size * width
    for size, width, blocks in zip(
        sizes, network.widths, network.decoder_blocks, strict=False
    ):
        total += size * width * (blocks + 1)
    return total + sizes[0] * network.out_channels


def target_spacing(
    spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]]
) -> tuple[float, ...]:
    """The voxel size that all cases are brought to, in mm.

    The median along each axis; but where voxels are more than three times as long along
    one axis, and there are less than a third as many, the tenth percentile of that
    axis, so that the thinner slices are not thrown away.

    Args:
        spacings: Of every case, mm.
        shapes: Of every case, voxels.
    """
    found = np.asarray(spacings, float)
    target = np.median(found, axis=0)
    size = np.median(np.asarray(shapes, float), axis=0)
    worst = int(np.argmax(target))
    others = [i for i in range(len(target)) if i != worst]
    longest = target[others].max()
    if target[worst] > 3 * longest and 3 * size[worst] < size[others].min():
        target[worst] = max(np.percentile(found[:, worst], 10), longest)
    return tuple(target.tolist())


def _network(
    spacing: Sequence[float], patch: Sequence[int], classes: int, budget: Budget
) -> tuple[NNUNetConfig, list[int]]:
    """The network for a patch, and the patch raised to a multiple of its strides."""
    rank, (kernels, strides) = len(patch), topology(spacing, patch)
    levels = len(strides)
    if levels < 2:
        raise ValueError(
            f"patch of {tuple(patch)} voxels of {tuple(spacing)} mm: expected "
            f"{2 * LEAST} along two axes at least, or {3 * LEAST} along one, to pool"
        )
    network = NNUNetConfig(
        out_channels=classes,
        widths=tuple(min(BASE_WIDTH * 2**i, MAX_WIDTH[rank]) for i in range(levels)),
        kernels=kernels,
        strides=strides,
        blocks=budget.blocks[:levels],
        decoder_blocks=(budget.decoder_block,) * (levels - 1),
        residual=budget.residual,
    )
    ends = zip(patch, network.divisor, strict=True)
    return network, [-(-n // d) * d for n, d in ends]
