"""From a data set's cases to its preparation, its patch and its network.

Every training case is read once: voxel size, extent after cropping to what is not zero,
and, of CT, intensities of the foreground. From those the rules of :mod:`.plans` follow.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger
from medjax.data.volumes import (
    bounding_box,
    crop,
    grid_of,
    to_canonical,
    with_geometry_of,
)
from medjax.nn.nnunet import Axes, NNUNetConfig
from medjax.segmentation.datasets.case import DataSet
from medjax.segmentation.plans import BUDGETS, NetworkPlan, plan_network, target_spacing
from medjax.segmentation.preparation import Channel, Preparation, Scheme, together

SAMPLE = 10_000
"""Foreground voxels of a case whose intensities are looked at."""


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """What is left to choose; None follows from the data."""

    rank: Literal[2, 3] = 3
    """A network of slices, or of volumes."""
    budget: Literal["plain", "residual_m", "residual_l"] = "plain"
    """What feature maps may cost, and whether the encoder is residual."""
    patch: Axes | None = None
    """Voxels, raised to a multiple of the network's strides."""
    batch_size: int | None = None
    """Patches."""
    spacing: tuple[float, ...] | None = None
    """Voxel size to the right, front and top, mm."""
    widths: tuple[int, ...] | None = None
    """Channels of each level; as many levels, at most."""


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What the training cases are like.

    Attributes:
        spacings: Of every case, to the right, front and top, mm.
        shapes: Of every case after cropping, voxels.
        kept: Median share of the voxels that cropping keeps.
        foreground: Intensities by channel, of CT alone.
    """

    spacings: tuple[tuple[float, ...], ...]
    shapes: tuple[tuple[int, ...], ...]
    kept: float
    foreground: Mapping[int, np.ndarray]


def fingerprint(data: DataSet, ledger: Ledger) -> Fingerprint:
    """Reads every training case once.

    Args:
        data: Of any kind.
        ledger: Takes cases that cannot be read.

    Raises:
        DataError: If none can be.
    """
    spacings, shapes, kept = [], [], []
    seen: dict[int, list[np.ndarray]] = {
        i: [] for i, name in enumerate(data.channels) if scheme_of(name) == "ct"
    }
    for case in data.cases:
        if case.split != "train":
            continue
        try:
            images, label = data.read(case)
            if len(images) != len(data.channels):
                raise DataError(
                    f"{case.id}: {len(images)} images, expected {list(data.channels)}"
                )
            turned, there = together(images, id=case.id)
            if label is not None and seen:
                label = to_canonical(with_geometry_of(images[0], label))
        except (DataError, FileNotFoundError) as error:
            ledger.fault(case.id, str(error))
            continue
        start, shape = bounding_box(there)
        spacings.append(grid_of(turned[0]).spacing)
        shapes.append(tuple(int(n) for n in shape))
        kept.append(np.prod(shape) / there.size)
        if label is None or not seen:
            continue
        inside = crop(label, start, shape).data > 0
        for channel, values in seen.items():
            found = crop(turned[channel], start, shape).data[inside]
            step = max(len(found) // SAMPLE, 1)
            values.append(found[::step][:SAMPLE])
    if not spacings:
        raise DataError(f"{data.name}: no training case could be read")
    foreground = {i: np.concatenate(v) for i, v in seen.items() if sum(map(len, v))}
    return Fingerprint(
        tuple(spacings), tuple(shapes), float(np.median(kept)), foreground
    )


def scheme_of(channel: str) -> Scheme:
    """How a channel is normalised, by its name, as nnU-Net decides it."""
    lowered = channel.casefold()
    if lowered == "ct":
        return "ct"
    return "none" if lowered in ("nonorm", "nonormalization", "none") else "zscore"


def plan(
    found: Fingerprint, channels: Sequence[str], *, classes: int, config: PlanConfig
) -> tuple[Preparation, NetworkPlan]:
    """Preparation, patch, batch size and network.

    Args:
        found: What the cases are like.
        channels: Names of the image's.
        classes: Output channels.
        config: What is chosen otherwise.

    Raises:
        DataError: For two-dimensional data and a network of volumes.
    """
    target = np.asarray(config.spacing or target_spacing(found.spacings, found.shapes))
    spacings = np.asarray(found.spacings)
    sizes = np.asarray(found.shapes) * spacings / target
    typical = np.median(np.maximum(np.rint(sizes), 1), axis=0)
    worst = int(np.argmax(np.where(typical == 1, np.inf, target)))
    order = (worst, *(i for i in range(3) if i != worst))
    if config.rank == 3 and typical[worst] == 1:
        raise DataError("plan.rank: the cases have one slice, expected a rank of 2")
    axes = order[3 - config.rank :]
    typical_axes = typical[list(axes)]
    network = plan_network(
        target[list(axes)].tolist(),
        typical_axes.tolist(),
        classes=classes,
        voxels=float(np.prod(typical)) * len(found.shapes),
        budget=BUDGETS[config.budget],
    )
    network = chosen(network, config)
    # A network of slices leaves their distance as it is.
    spacing = [
        None if config.rank == 2 and i == worst else float(s)
        for i, s in enumerate(target)
    ]
    described = tuple(_channel(i, name, found) for i, name in enumerate(channels))
    masked = found.kept < 0.75
    return Preparation(described, tuple(spacing), order, masked), network


def chosen(planned: NetworkPlan, config: PlanConfig) -> NetworkPlan:
    """A plan with what is chosen of patch, batch and widths.

    Raises:
        ValueError: For another number of axes than the plan's.
    """
    if config.rank != planned.network.rank:
        raise ValueError(
            f"plan.rank: {config.rank}, but the set is planned for "
            f"{planned.network.rank} axes"
        )
    network, patch = planned.network, config.patch or planned.patch
    if len(patch) != network.rank:
        raise ValueError(f"plan.patch: {patch}, expected {network.rank} numbers")
    if config.widths is not None:
        levels = min(len(config.widths), len(network.widths))
        network = dataclasses.replace(
            network,
            widths=config.widths[:levels],
            kernels=network.kernels[:levels],
            strides=network.strides[:levels],
            blocks=network.blocks[:levels],
            decoder_blocks=network.decoder_blocks[: levels - 1],
        )
    patch = tuple(-(-n // d) * d for n, d in zip(patch, network.divisor, strict=True))
    return NetworkPlan(patch, config.batch_size or planned.batch_size, network)


def _channel(number: int, name: str, found: Fingerprint) -> Channel:
    scheme = scheme_of(name)
    values = found.foreground.get(number)
    if scheme != "ct" or values is None:
        return Channel(name, "zscore" if scheme == "ct" else scheme)
    low, high = np.percentile(values, [0.5, 99.5])
    return Channel(
        name,
        "ct",
        mean=float(values.mean()),
        deviation=max(float(values.std()), 1e-8),
        low=float(low),
        high=float(high),
    )


def shape_of(network: NNUNetConfig) -> str:
    """A network in a few words, for titles."""
    kind = "residual " if network.residual else ""
    return f"{network.rank}-D {kind}U-Net, widths {'-'.join(map(str, network.widths))}"
