"""Whole steps of DeepMesh and CHeart, and what their published graphs start from.

Both sides have the same weights, by the name tables that also read released ones, and
see the same batch and the same noise.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax.heart.cheart import CONFIGS as CHEART
from medjax.heart.cheart import cheart_system
from medjax.heart.cheart_network import LEVELS, CHeartConfig
from medjax.heart.deepmesh import CONFIGS as DEEPMESH
from medjax.heart.deepmesh import DeepMeshConfig, deepmesh
from medjax.heart.meshes import Topology
from medjax.weights.convert import to_torch
from medjax.weights.heart import CHEART as CHEART_NAMES
from medjax.weights.heart import channels_first, deepmesh_motion

FIELD = 128.0
"""Of images, mm."""
CALM = 0.1
"""Times the weights of the last layer as drawn: hearts are moved, not torn."""
SHIFT = 0.01
"""Of all hearts, in half fields of view."""
POINTS = 200
"""Of the contours on a plane."""


class Sides(NamedTuple):
    """One step on both sides.

    Attributes:
      ours: Loss and gradient of parameters, with what else the step gives, compiled.
      given: Its argument: parameters and the batch.
      temporary: Bytes.
      values: Loss and the gradient, all parameters by PyTorch's names in order.
      weights: What PyTorch starts from, by its names.
    """

    ours: Callable[[Any], Any]
    given: Any
    temporary: int | None
    values: tuple[np.ndarray, ...]
    weights: Mapping[str, np.ndarray]


def _sides(
    loss: Callable[..., Any],
    variables: Mapping[str, Any],
    batch: Mapping[str, jax.Array],
    names: Callable[[Mapping[str, Any]], dict[str, np.ndarray]],
) -> Sides:
    """Compiles a step, and runs it once.

    Args:
      loss: Of variables and a batch, with an auxiliary result.
      variables: All collections.
      batch: An argument, as in training: nothing is computed of it beforehand.
      names: Variables by PyTorch's names.
    """
    rest = {k: v for k, v in variables.items() if k != "params"}

    def step(given: tuple[Any, Any]) -> Any:
        def of(params: Any) -> Any:
            return loss({"params": params, **rest}, given[1])

        return jax.value_and_grad(of, has_aux=True)(given[0])

    given = variables["params"], batch
    program = jax.jit(step).lower(given).compile()
    need = program.memory_analysis()
    (value, _), gradient = program(given)
    by_name = names({"params": jax.device_get(gradient)})
    temporary = None if need is None else int(need.temp_size_in_bytes)
    weights = {k: v for k, v in variables.items() if k != "counters"}
    return Sides(
        program,
        given,
        temporary,
        (np.asarray(value), flat(by_name)),
        names(jax.device_get(weights)),
    )


def drawn(shapes: Any) -> dict[str, Any]:
    """Variables of a network: kernels from a normal distribution, norms as they begin.

    Without compiling what initialises each of them.

    Args:
      shapes: Of `jax.eval_shape`.
    """
    rng = np.random.default_rng(6)

    def one(path: Any, like: Any) -> jax.Array:
        name = path[-1].key
        if name == "kernel":
            inputs = int(np.prod(like.shape[:-1]))
            value = rng.normal(scale=inputs**-0.5, size=like.shape)
        else:
            value = np.full(like.shape, float(name in ("scale", "var")))
        return jnp.asarray(value.astype(like.dtype))

    return dict(jax.tree_util.tree_map_with_path(one, shapes))


def flat(tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Gradients of parameters in the order of their names, as one vector.

    Args:
      tensors: By name; copies under a second name, and counters, are left out.
    """
    aside = {copy for copy, _ in CHEART_NAMES.tied}
    kept = [
        tensors[name].reshape(-1)
        for name in sorted(tensors)
        if name not in aside and not name.endswith("num_batches_tracked")
    ]
    return np.concatenate(kept)


def deepmesh_config(network: Any) -> DeepMeshConfig:
    """The preset ``repo`` with other widths, of the stage that moves a given mesh.

    Args:
      network: Its widths.
    """
    return dataclasses.replace(
        DEEPMESH["repo"], network=dataclasses.replace(network, still=False)
    )


def deepmesh_batch(
    vertices: np.ndarray, *, hearts: int, slices: int, side: int
) -> dict[str, np.ndarray]:
    """Hearts with noise for images, and rings for contours.

    Args:
      vertices: Of the mesh at end-diastole, mm, its long axis along z.
      hearts: How many.
      slices: Of the short axis.
      side: Of an image, pixels.
    """
    rng = np.random.default_rng(4)
    pixel, corner = FIELD / side, -0.5 * FIELD
    planes = np.zeros((slices + 2, 3, 3))
    planes[:slices, 0] = [[corner, corner, z] for z in np.linspace(8, 88, slices)]
    planes[:slices, 1:] = [[0, pixel, 0], [pixel, 0, 0]]
    planes[slices:, 0] = [[corner, 0.5, -16], [0.5, corner, -16]]
    planes[slices:, 1:] = [
        [[0, 0, pixel], [pixel, 0, 0]],
        [[0, 0, pixel], [0, pixel, 0]],
    ]
    angle = rng.uniform(0, 2 * np.pi, (hearts, 2, slices + 2, POINTS))
    radius = rng.choice([20.0, 28.0], angle.shape)
    rings = np.stack([np.cos(angle), np.sin(angle)], axis=-1) * radius[..., None]
    shape = (hearts, 2, slices, side, side)
    fields = {
        "sax": rng.random(shape),
        "lax": rng.random((*shape[:2], 2, side, side)),
        "planes": np.tile(planes, (hearts, 1, 1, 1)),
        "plane_mask": np.ones((hearts, slices + 2)),
        "label_mask": np.ones((hearts, slices + 2)),
        "vertices_ed": np.tile(vertices, (hearts, 1, 1)),
        "contours": 0.5 * FIELD + rings,
        "contour_mask": np.ones(rings.shape[:-1]),
    }
    return {name: value.astype(np.float32) for name, value in fields.items()}


def deepmesh_sides(
    config: DeepMeshConfig, topology: Topology, batch: Mapping[str, np.ndarray]
) -> Sides:
    """Ours of DeepMesh's second stage.

    Args:
      config: Of `deepmesh_config`.
      topology: Of the mesh.
      batch: Of `deepmesh_batch`.
    """
    system = deepmesh(config, topology)
    variables = drawn(jax.eval_shape(system.init, jax.random.key(0), batch))
    params = variables["params"]
    field = params["motion"]["field"]
    # Where nothing moves, images are read at the middle of pixels, and either side's
    # slope is one.
    calm = {"kernel": CALM * field["kernel"], "bias": field["bias"] + SHIFT}
    variables["params"] = {**params, "motion": {**params["motion"], "field": calm}}
    table = deepmesh_motion(halvings=len(config.network.volume) - 1)
    given = {name: jnp.asarray(value) for name, value in batch.items()}

    def loss(variables: Any, given: Any) -> Any:
        return system.loss(variables, given, jax.random.key(0))

    return _sides(loss, variables, given, lambda v: to_torch(table, v))


def cheart_config(shape: tuple[int, int, int], frames: int) -> CHeartConfig:
    """The preset ``repo`` on other label maps.

    Args:
      shape: Voxels along z, y and x.
      frames: Of the cycle.
    """
    return dataclasses.replace(CHEART["repo"], shape=shape, frames=frames)


def cheart_batch(config: CHeartConfig, *, people: int) -> dict[str, np.ndarray]:
    """People with blobs for hearts.

    Args:
      config: Sizes.
      people: How many.
    """
    rng = np.random.default_rng(5)
    shape = (people, config.frames, *(n // 4 for n in config.shape))
    labels = rng.integers(0, 4, shape).astype(np.uint8)
    for axis in (2, 3, 4):
        labels = np.repeat(labels, 4, axis=axis)
    conditions = rng.normal(size=(people, 5)).astype(np.float32)
    return {"labels": labels, "conditions": conditions}


def cheart_sides(
    config: CHeartConfig, batch: Mapping[str, np.ndarray]
) -> tuple[Sides, np.ndarray]:
    """Ours of CHeart, and the noise that it draws.

    Args:
      config: Of `cheart_config`.
      batch: Of `cheart_batch`.
    """
    system, key = cheart_system(config), jax.random.key(1)
    given = {name: jnp.asarray(value) for name, value in batch.items()}
    variables = drawn(jax.eval_shape(system.init, jax.random.key(0), given))
    noise = jax.random.normal(key, (len(batch["labels"]), config.latent))
    small = tuple(n // 2**LEVELS for n in config.shape)

    def names(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
        depth, height, width = small
        return channels_first(to_torch(CHEART_NAMES, variables), (depth, height, width))

    def loss(variables: Any, given: Any) -> Any:
        return system.loss(variables, given, key)

    return _sides(loss, variables, given, names), np.asarray(noise)
