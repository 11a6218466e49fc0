"""Whole volumes by tiles: a network of one patch says something of every voxel.

Tiles overlap by half and count most in their middle (a Gaussian of an eighth of the
patch). What is blended is whatever the *tile function* gives by name, probabilities or
logits, entropies, second moments: all are averaged with the same weights, so only what
may be averaged belongs there, and what follows from it (an entropy of the mean) is
taken afterwards.

Shapes are static. A row of tiles along the first axis is one program, compiled for a
patch and the extent of the other two axes, raised to a multiple of 32; the number of
tiles is traced. Planes that no further row reaches leave the device at once, so memory
goes with the patch's thickness, not with the volume's, and a whole-body scan is
computed as a small one is. A network of two axes takes several slices at a time.

On a mesh every device runs the network on tiles (or slices) of its own; what it says is
gathered and added up in the order in which one device would have added it, so that the
number of devices changes nothing.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from medjax.nn.nnunet import Axes
from medjax.train.mesh import BATCH_AXES, make_mesh
from medjax.train.sharding import replicated
from medjax.typing import Key, Variables

Tile = Callable[[Variables, Array, Key], Mapping[str, Array]]
"""``tile(variables, patches b *s c, key) -> name to b *s q``, all float32."""

BUCKET = 32
"""Extents in the plane are raised to a multiple of this, so that few are compiled."""


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """How tiles are laid and weighed."""

    step: float = 0.5
    """Between tiles, of the patch."""
    placement: Literal["even", "clamped"] = "even"
    """Tiles at equal distances of the step at most (nnU-Net), or at the step with the
    last one moved back inside (MONAI)."""
    gaussian: bool = True
    """Weigh the middle of a tile more; else all of it alike."""
    mirror: bool = False
    """Average over all mirror images of each tile."""
    batch: int = 2
    """Tiles at a time, or slices of a network of two axes."""
    shared_key: bool = False
    """One key for all tiles, for systems whose sample is one of the whole volume: else
    they disagree at the seams."""

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1 or self.batch < 1:
            raise ValueError(
                f"window: step {self.step} and batch {self.batch}: expected a step in "
                "(0, 1] and 1 at least"
            )


def tile_mesh(devices: int | None = None) -> Mesh | None:
    """Devices of this process that tiles are split over; None for a single one.

    Args:
        devices: How many; None: all accelerators, or one CPU.

    Raises:
        ValueError: For more than there are, or none.
    """
    here = jax.local_devices()
    if devices is None:
        devices = 1 if here[0].platform == "cpu" else len(here)
    if not 1 <= devices <= len(here):
        raise ValueError(
            f"devices: {devices}, expected 1 to the {len(here)} of this process"
        )
    return make_mesh(devices=here[:devices]) if devices > 1 else None


def starts(
    extent: int, patch: int, *, step: float, placement: Literal["even", "clamped"]
) -> list[int]:
    """First voxels of the tiles along one axis.

    Args:
        extent: Of the volume, not less than the patch.
        patch: Of a tile.
        step: Of the patch.
        placement: See :class:`WindowConfig`.
    """
    over = extent - patch
    if placement == "even":
        count = math.ceil(over / (patch * step)) + 1
        return [round(i * over / max(count - 1, 1)) for i in range(count)]
    stride = max(int(patch * step), 1)
    return [min(i * stride, over) for i in range(math.ceil(over / stride) + 1)]


def importance(patch: Axes, *, gaussian: bool) -> Float[np.ndarray, "*s"]:
    """What each voxel of a tile weighs, at least a thousandth of the middle."""
    weight = np.ones(patch)
    for axis, n in enumerate(patch):
        at = np.arange(n) - (n - 1) / 2
        line = np.exp(-(at**2) / (2 * (n / 8) ** 2)) if gaussian else np.ones(n)
        weight = weight * line.reshape(-1, *(1,) * (len(patch) - axis - 1))
    return np.maximum(weight, 1e-3).astype(np.float32)


def sliding_window(
    tile: Tile,
    variables: Variables,
    volume: Float[np.ndarray, "z y x c"],
    *,
    patch: Axes,
    config: WindowConfig,
    key: Key | None = None,
    mesh: Mesh | None = None,
) -> dict[str, Float[np.ndarray, "z y x _q"]]:
    """Everything that the tile function says, of every voxel.

    Args:
        tile: Pure; the same object again costs no compilation.
        variables: Of the network.
        volume: Normalised, the network's axes.
        patch: Of the network: two or three axes, the last ones of the volume.
        config: Tiles.
        key: For tile functions that draw; tiles and rows of them get parts of it.
        mesh: Devices that tiles are split over, along the axes of a batch; None: one.
    """
    options: dict[str, Any] = {"patch": patch, "config": config, "key": key}
    slabs = list(planes(tile, variables, volume, mesh=mesh, **options))
    return {name: np.concatenate([slab[name] for slab in slabs]) for name in slabs[0]}


def planes(
    tile: Tile,
    variables: Variables,
    volume: Float[np.ndarray, "z y x c"],
    *,
    patch: Axes,
    config: WindowConfig,
    key: Key | None = None,
    mesh: Mesh | None = None,
) -> Iterator[dict[str, Float[np.ndarray, "z y x _q"]]]:
    """:func:`sliding_window` piece by piece along the first axis, as it gets finished.

    The pieces put together are the volume. Arguments are those of the whole.
    """
    key = jax.random.key(0) if key is None else key
    depth, *plane = volume.shape[:3]
    # A volume smaller than the patch lies in its middle.
    full = (1,) * (3 - len(patch)) + tuple(patch)
    before = [max(k - n, 0) // 2 for n, k in zip(volume.shape, full, strict=False)]
    extent = [max(n, k) for n, k in zip(volume.shape, full, strict=False)]
    bucket = [-(-n // BUCKET) * BUCKET for n in extent[1:]]
    laid = [
        starts(n, k, step=config.step, placement=config.placement)
        for n, k in zip(extent, full, strict=True)
    ]
    corners = np.array(list(itertools.product(*laid[1:])), np.int32)
    # As many as the bucket could need, so that the program depends on it alone.
    room = [
        len(starts(n, k, step=config.step, placement=config.placement))
        for n, k in zip(bucket, full[1:], strict=True)
    ]
    devices = 1
    if mesh is not None:
        devices = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    held = np.zeros((math.prod(room) + config.batch * devices, 2), np.int32)
    held[: len(corners)] = corners
    mesh = mesh if devices > 1 else None
    if mesh is not None:  # no copy where they are there already
        variables = jax.device_put(variables, replicated(mesh))
    run = functools.partial(_row, tile, patch=tuple(patch), config=config, mesh=mesh)
    inside = tuple(slice(b, b + n) for b, n in zip(before[1:], plane, strict=True))

    def block(first: int, thick: int) -> np.ndarray:
        """Slices from ``first``, in the middle of zeros."""
        out = np.zeros((thick, *bucket, volume.shape[3]), np.float32)
        low, high = max(first, 0), min(first + thick, depth)
        out[(slice(low - first, high - first), *inside)] = volume[low:high]
        return out

    if len(patch) == 2:
        thick = config.batch * devices
        for number, first in enumerate(range(0, depth, thick)):
            # One key for as many slices as a device takes.
            parts = [
                0 if config.shared_key else number * devices + i for i in range(devices)
            ]
            keys = jnp.stack([jax.random.fold_in(key, part) for part in parts])
            sums, weight = run(variables, block(first, thick), held, len(corners), keys)
            here = slice(0, min(thick, depth - first))
            yield _divided(sums, weight, here, inside)
        return

    thick, rows = patch[0], laid[0]
    sums, weights = {}, np.zeros(0)
    for number, first in enumerate(rows):
        row = jax.random.fold_in(key, 0 if config.shared_key else number)
        keys = jnp.stack([row] * devices)
        new, weight = run(
            variables, block(first - before[0], thick), held, len(corners), keys
        )
        new = {name: np.array(value) for name, value in new.items()}
        weight = np.array(weight)
        if number:
            overlap = thick - (first - rows[number - 1])
            for name, value in new.items():
                value[:overlap] += sums[name][-overlap:] if overlap else 0
            weight[:overlap] += weights[-overlap:] if overlap else 0
        sums, weights = new, weight
        last = number + 1 == len(rows)
        done = thick if last else rows[number + 1] - first
        # Planes of the padding are no part of the volume.
        low = max(before[0] - first, 0)
        high = min(done, depth + before[0] - first)
        if high > low:
            yield _divided(sums, weights, slice(low, high), inside)


def _divided(
    sums: Mapping[str, Any], weight: Any, here: slice, inside: tuple[slice, ...]
) -> dict[str, np.ndarray]:
    """Weighted means, of the planes and the part of them that are the volume's."""
    at = (here, *inside)
    total = np.asarray(weight)[at]
    return {name: np.asarray(value)[at] / total for name, value in sums.items()}


@functools.partial(jax.jit, static_argnames=("tile", "patch", "config", "mesh"))
def _row(
    tile: Tile,
    variables: Variables,
    block: Float[Array, "z y x c"],
    corners: Array,
    count: Any,
    keys: Key,
    *,
    patch: Axes,
    config: WindowConfig,
    mesh: Mesh | None,
) -> tuple[dict[str, Array], Array]:
    """Weighted sums over the tiles of one row, and the sum of weights."""
    flat = len(patch) == 2
    size, channels = patch[-2:], block.shape[-1]
    thick, devices = block.shape[0], len(keys)
    # Slices are a batch to a network of two axes; one corner is one call.
    at_once = 1 if flat else config.batch * devices
    weight = jnp.asarray(importance(patch, gaussian=config.gaussian))
    weight = jnp.broadcast_to(weight, (thick, *size))[..., None]
    whole = functools.partial(_mirrored, tile) if config.mirror else tile

    def cut(corner: Array) -> Array:
        start = (0, corner[0], corner[1], 0)
        return jax.lax.dynamic_slice(block, start, (thick, *size, channels))

    def on_device(
        variables: Variables, tiles: Array, keys: Key, parts: Array
    ) -> dict[str, Array]:
        """Of the tiles, or slices, that one device has."""
        found = whole(variables, tiles, jax.random.fold_in(keys[0], parts[0]))
        if mesh is None:
            return dict(found)
        gather = functools.partial(jax.lax.all_gather, axis_name=BATCH_AXES, tiled=True)
        return jax.tree.map(gather, dict(found))

    network = on_device
    if mesh is not None:
        whole_, split = PartitionSpec(), PartitionSpec(BATCH_AXES)
        network = jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=(whole_, split, split, split),
            out_specs=whole_,
            check_vma=False,
        )

    def said(number: Any) -> tuple[Array, dict[str, Array]]:
        first = number * at_once
        here = jax.lax.dynamic_slice(corners, (first, 0), (at_once, 2))
        tiles = jax.vmap(cut)(here)
        tiles = tiles[0] if flat else tiles
        # Numbered as on one device: corners of slices, or groups of tiles.
        parts = jnp.arange(devices, dtype=jnp.int32) * (0 if flat else 1)
        parts = parts + number * (1 if flat else devices)
        parts = parts * (0 if config.shared_key else 1)
        found = network(variables, tiles, keys, parts)
        return here, {k: v[None] if flat else v for k, v in found.items()}

    shapes = jax.eval_shape(said, jnp.int32(0))[1]
    sums = {
        name: jnp.zeros((*block.shape[:3], value.shape[-1]))
        for name, value in shapes.items()
    }

    def add(into: Array, values: Array, corner: Array) -> Array:
        start = (0, corner[0], corner[1], 0)
        old = jax.lax.dynamic_slice(into, start, (thick, *size, into.shape[-1]))
        return jax.lax.dynamic_update_slice(into, old + values, start)

    def body(number: Any, state: Any) -> Any:
        here, found = said(number)

        def one(i: Any, state: Any) -> Any:
            # A loop of its own: it rounds alike however many tiles come at once.
            sums, total = state
            counts = jnp.where(number * at_once + i < count, weight, 0.0)
            sums = {
                name: add(into, counts * found[name][i], here[i])
                for name, into in sums.items()
            }
            return sums, add(total, counts, here[i])

        return jax.lax.fori_loop(0, at_once, one, state)

    total = jnp.zeros((*block.shape[:3], 1))
    rounds = (count + at_once - 1) // at_once
    return jax.lax.fori_loop(0, rounds, body, (sums, total))


def _mirrored(
    tile: Tile, variables: Variables, patches: Array, key: Key
) -> dict[str, Array]:
    """The mean over all mirror images, each turned back; one network in the program."""
    axes = range(1, patches.ndim - 1)
    flips = np.array(list(itertools.product((False, True), repeat=len(axes))))

    def flipped(x: Array, which: Array) -> Array:
        for i, axis in enumerate(axes):
            x = jnp.where(which[i], jnp.flip(x, axis), x)
        return x

    def one(which: Array) -> dict[str, Array]:
        found = tile(variables, flipped(patches, which), key)
        return {name: flipped(value, which) for name, value in found.items()}

    shapes = jax.eval_shape(one, jnp.asarray(flips[0]))
    empty = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def step(total: Any, which: Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, one(which)), None

    total, _ = jax.lax.scan(step, empty, jnp.asarray(flips))
    return jax.tree.map(lambda x: x / len(flips), total)
