"""What `heart` measures: every part with its contestants, ours first."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import heart_steps, measure
from medjax.heart import slicing
from medjax.heart.deepmesh import CONFIGS
from medjax.heart.motion_data import mesh_of
from medjax.nn.graph import MessageStep
from medjax.nn.nearest import nearest
from medjax.nn.tables import edges_of
from medjax.nn.warp import warp

FIELD = 128.0
"""Of images, mm."""
EDGE_FEATURES = 7
Part = Literal["coverage", "nearest", "sampling", "message", "deepmesh", "cheart"]


@dataclasses.dataclass(frozen=True)
class HeartConfig:
    """What is measured, and sizes."""

    parts: tuple[Part, ...] = (
        "coverage",
        "nearest",
        "sampling",
        "message",
        "deepmesh",
        "cheart",
    )
    """Parts of steps, and the whole steps of two systems."""
    size: tuple[int, int] = (96, 52)
    """Vertices around and rings along each of two walls: about 10,000 vertices."""
    planes: int = 11
    """Short-axis slices."""
    side: int = 128
    """Of an image, pixels."""
    segments: int = 1024
    """Room for those of a plane."""
    points: tuple[int, int] = (4096, 4096)
    """Of the nearest neighbours."""
    contour: tuple[int, int] = (22_043, 400)
    """Vertices and contour points, likewise."""
    width: int = 128
    """Channels of messages."""
    channels: int = 48
    """Of the volume that is sampled."""
    pixels: int = 256
    """Of each plane, that the winding number is computed at."""
    hearts: int = 8
    """Of a step of DeepMesh."""
    slices: int = 8
    """Of each of them."""
    people: int = 4
    """Of a step of CHeart."""
    shape: tuple[int, int, int] = (64, 128, 128)
    """Of their label maps."""
    frames: int = 20
    """Of their cycles."""
    torch: bool = True
    """Measure PyTorch beside."""
    turns: int = 5
    """Timed calls of each."""
    out: Path = Path("runs/bench")
    """Folder of the JSON file."""


class Contestant(NamedTuple):
    """One way to compute something.

    Attributes:
      work: Does it once and waits for its end.
      values: The value, and its gradient by the last argument, to be compared.
      temporary: Bytes.
      scatters: In the compiled program; None where that is not told.
      share: Of the work, that ``work`` does.
    """

    work: Callable[[], Any]
    values: tuple[np.ndarray, ...]
    temporary: int | None
    scatters: int | None = None
    share: float = 1.0


def compiled(f: Callable[..., Any], *arguments: Any) -> Contestant:
    """Value and gradients of a scalar function, compiled."""
    which = tuple(range(len(arguments)))
    program = jax.jit(jax.value_and_grad(f, argnums=which)).lower(*arguments).compile()
    need = program.memory_analysis()
    value, gradients = program(*arguments)
    # The CPU compiler writes scatters as loops; names of operations remain.
    names = re.findall(r'op_name="([^"]*/scatter[^"]*)"', program.as_text() or "")
    return Contestant(
        lambda: jax.block_until_ready(program(*arguments)),
        (np.asarray(value), np.asarray(gradients[-1])),
        None if need is None else int(need.temp_size_in_bytes),
        len(set(names)),
    )


def dense_cover(segments: slicing.Segments, shape: tuple[int, int]) -> jax.Array:
    """The sum that `slicing.cover` localises: every segment in every pixel.

    Args:
      segments: Of one surface.
      shape: Rows and columns.
    """
    a, b = segments.start + 0.5, segments.end + 0.5
    rise = (b - a)[:, :1]
    level = jnp.abs(rise) < 1e-12
    rows = jnp.arange(shape[0], dtype=a.dtype)[None]
    columns = jnp.arange(1, shape[1] + 1, dtype=a.dtype)[None, None]

    def within(y: jax.Array, otherwise: float) -> tuple[jax.Array, jax.Array]:
        clipped = jnp.clip(y[:, None], rows, rows + 1.0)
        share = (clipped - a[:, :1]) / jnp.where(level, 1.0, rise)
        share = jnp.where(level, otherwise, share)
        return clipped, a[:, 1:] + share * (b - a)[:, 1:]

    (low, left), (high, right) = within(a[:, 0], 0.0), within(b[:, 0], 1.0)
    height = jnp.where(segments.present[:, None], high - low, 0.0)
    t, s = columns - left[..., None], columns - right[..., None]

    def integral(x: jax.Array) -> jax.Array:
        inside = jnp.clip(x, 0.0, 1.0)
        return 0.5 * inside * inside + jnp.maximum(x - 1.0, 0.0)

    near = jnp.abs(t - s) < 1e-4
    mean = (integral(t) - integral(s)) / jnp.where(near, 1.0, t - s)
    mean = jnp.where(near, jnp.clip(0.5 * (t + s), 0.0, 1.0), mean)
    return jnp.sum(height[..., None] * mean, axis=0)


def _planes(config: HeartConfig) -> jax.Array:
    """Across the long axis."""
    heights = np.linspace(12.0, 82.0, config.planes) + 0.37
    pixel, corner = FIELD / config.side, -0.5 * FIELD
    steps = [[0.0, pixel, 0.0], [pixel, 0.0, 0.0]]
    planes = [[[corner, corner, z], *steps] for z in heights]
    return jnp.asarray(planes, jnp.float32)


def _coverage(config: HeartConfig) -> dict[str, dict[str, Contestant]]:
    topology, mean = mesh_of(config.size, right=False)
    vertices = jnp.asarray(mean)
    side, size = config.side, config.segments
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.random((config.planes, side, side)), jnp.float32)
    planes, codes = _planes(config), jnp.asarray(topology.face_surface)
    middle = config.planes // 2

    def local(v: jax.Array, which: jax.Array, weight: jax.Array) -> jax.Array:
        found, limits = slicing.coverage(v, topology, which, (side, side), size=size)
        # Not a number where something was cut short.
        whole = jnp.all(limits.segments <= size)
        muscle = found[:, 1] - found[:, 0]
        return jnp.where(whole, jnp.sum(weight * muscle), jnp.nan)

    def dense(v: jax.Array) -> jax.Array:
        segments = slicing.cut(v, topology, planes[middle], size=size)
        inner = jnp.take(codes, segments.face, mode="clip") == 0
        parts = [
            dense_cover(
                segments._replace(present=segments.present & mine), (side, side)
            )
            for mine in (inner, ~inner)
        ]
        return jnp.sum(weights[middle] * (parts[1] - parts[0]))

    alone = slice(middle, middle + 1)
    one = {
        "ours": compiled(lambda v: local(v, planes[alone], weights[alone]), vertices),
        "every segment in every pixel": compiled(dense, vertices),
    }
    several = {"ours": compiled(lambda v: local(v, planes, jnp.ones(())), vertices)}
    if config.torch:
        theirs = measure.need_torch("torch_heart")
        found = theirs.winding(
            np.asarray(vertices),
            topology.faces,
            topology.surface,
            np.asarray(planes),
            side=side,
            pixels=config.pixels,
        )
        several["torch"] = Contestant(**found)
    return {"one plane": one, "planes": several}


def _nearest(config: HeartConfig, sizes: tuple[int, int]) -> dict[str, Contestant]:
    rng = np.random.default_rng(1)
    x, y = (rng.uniform(-60, 60, (n, 3)).astype(np.float32) for n in sizes)
    weight = jnp.asarray(rng.random(sizes[0]), jnp.float32)

    def ours(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.vdot(weight, nearest(x, y)[0])

    def pairs(x: jax.Array, y: jax.Array) -> jax.Array:
        square = jnp.sum(jnp.square(x[:, None] - y[None]), axis=-1)
        return jnp.vdot(weight, jnp.min(square, axis=1))

    given = jnp.asarray(x), jnp.asarray(y)
    found = {
        "ours": compiled(ours, *given),
        "minimum over all pairs": compiled(pairs, *given),
    }
    if config.torch:
        theirs = measure.need_torch("torch_heart")
        found["torch"] = Contestant(**theirs.nearest(x, y, np.asarray(weight)))
    return found


def _sampling(config: HeartConfig) -> dict[str, Contestant]:
    rng = np.random.default_rng(2)
    shape = (12, 64, 64, config.channels)
    volume = rng.normal(size=shape).astype(np.float32)
    count = 2 * config.size[0] * config.size[1]
    at = (rng.random((count, 3)) * (np.array(shape[:3]) - 1)).astype(np.float32)
    weight = rng.normal(size=(count, config.channels)).astype(np.float32)

    def ours(volume: jax.Array, at: jax.Array) -> jax.Array:
        return jnp.sum(weight * warp(volume, list(at.T)))

    found = {"ours": compiled(ours, jnp.asarray(volume), jnp.asarray(at))}
    if config.torch:
        theirs = measure.need_torch("torch_heart")
        found["torch"] = Contestant(**theirs.sampling(volume, at, weight))
    return found


def _message(config: HeartConfig) -> dict[str, Contestant]:
    topology, vertices = mesh_of(config.size, right=False)
    table, width = topology.neighbours, config.width
    senders, receivers = edges_of(table)
    rng = np.random.default_rng(3)
    x = rng.normal(size=(len(vertices), width)).astype(np.float32)
    edges = rng.normal(size=(*table.index.shape, EDGE_FEATURES)).astype(np.float32)
    module = MessageStep(width)
    given = jnp.asarray(x), jnp.asarray(edges)
    params = jax.jit(lambda key: module.init(key, *given, table))(jax.random.key(0))
    params = params["params"]
    flat = jnp.asarray(edges[table.filled])

    def ours(params: Any, x: jax.Array) -> jax.Array:
        moved: Any = module.apply({"params": params}, x, given[1], table)
        return jnp.mean(jnp.square(moved))

    def by_segments(params: Any, x: jax.Array) -> jax.Array:
        def dense(name: str, value: jax.Array) -> jax.Array:
            bias = params[name].get("bias", jnp.zeros(width))
            return value @ params[name]["kernel"] + bias[None]

        def norm(name: str, value: jax.Array) -> jax.Array:
            value = value - jnp.mean(value, axis=-1, keepdims=True)
            spread = jnp.mean(jnp.square(value), axis=-1, keepdims=True)
            scale, bias = params[name]["scale"], params[name]["bias"]
            return value * jax.lax.rsqrt(spread + 1e-5) * scale[None] + bias[None]

        h = norm("norm", x)
        heard = dense("sender", h)[senders] + dense("edge", flat)
        message = jax.nn.silu(heard + dense("receiver", h)[receivers])
        total = jax.ops.segment_sum(message, receivers, num_segments=len(x))
        mean = dense("message", total / jnp.asarray(table.share, jnp.float32)[:, None])
        both = jnp.concatenate([h, norm("message_norm", mean)], axis=-1)
        moved = x + dense("update_1", jax.nn.silu(dense("update_0", both)))
        return jnp.mean(jnp.square(moved))

    found = {
        "ours": compiled(ours, params, given[0]),
        "sums over segments": compiled(by_segments, params, given[0]),
    }
    if config.torch:
        theirs = measure.need_torch("torch_heart")
        weights = jax.tree.map(np.asarray, params)
        ends = np.asarray(senders), np.asarray(receivers)
        made = theirs.message(weights, x, np.asarray(flat), *ends)
        found["torch"] = Contestant(**made)
    return found


def _deepmesh(config: HeartConfig) -> dict[str, Contestant]:
    """The preset ``repo`` with the widths of ``tiny``."""
    topology, mean = mesh_of(config.size, right=False)
    chosen = heart_steps.deepmesh_config(CONFIGS["tiny"].network)
    batch = heart_steps.deepmesh_batch(
        np.asarray(mean), hearts=config.hearts, slices=config.slices, side=config.side
    )
    sides = heart_steps.deepmesh_sides(chosen, topology, batch)
    found = {"ours": _of_step(sides)}
    if config.torch:
        theirs = measure.need_torch("torch_deepmesh")
        senders, receivers = edges_of(topology.neighbours)
        run = theirs.step(sides.weights, chosen, (receivers, senders), batch)
        found["torch"] = _of_torch(run)
    return found


def _cheart(config: HeartConfig) -> dict[str, Contestant]:
    """The preset ``repo``."""
    chosen = heart_steps.cheart_config(config.shape, config.frames)
    batch = heart_steps.cheart_batch(chosen, people=config.people)
    sides, noise = heart_steps.cheart_sides(chosen, batch)
    found = {"ours": _of_step(sides)}
    if config.torch:
        theirs = measure.need_torch("torch_cheart")
        run = theirs.step(sides.weights, chosen, batch, noise)
        found["torch"] = _of_torch(run)
    return found


def _of_step(sides: heart_steps.Sides) -> Contestant:
    return Contestant(
        lambda: jax.block_until_ready(sides.ours(sides.given)),
        sides.values,
        sides.temporary,
    )


def _of_torch(run: Callable[[], Any]) -> Contestant:
    value, gradients = run()
    values = (value.numpy(), heart_steps.flat(gradients))
    return Contestant(run, values, measure.growth(run))


def parts(config: HeartConfig) -> dict[str, dict[str, Contestant]]:
    """Every part that is asked for, with its contestants, ours first."""
    found: dict[str, dict[str, Contestant]] = {}
    if "coverage" in config.parts:
        found |= _coverage(config)
    if "nearest" in config.parts:
        for sizes in (config.points, config.contour):
            found[f"nearest {' x '.join(map(str, sizes))}"] = _nearest(config, sizes)
    alone = {"sampling": _sampling, "message": _message}
    alone |= {"deepmesh": _deepmesh, "cheart": _cheart}
    names = {"deepmesh": "DeepMesh step", "cheart": "CHeart step"}
    for part, measured in alone.items():
        if part in config.parts:
            found[names.get(part, part)] = measured(config)
    return found
