"""Sharding as data: parameter names to `PartitionSpec`s, batches to global arrays.

A rule list is an ordered sequence of ``(regex, rule)``. The first regex that matches
anywhere in a parameter's path (``"image_tower/stage1/conv/kernel"``) decides; a
parameter that no rule matches is replicated. A rule is `replicate`, `fsdp()`, or a
`PartitionSpec` written out for tensor parallelism::

    rules = [
        ("mlp/up/kernel", PartitionSpec("fsdp", "model")),
        ("mlp/down/kernel", PartitionSpec("model", "fsdp")),
        (".*", fsdp()),
    ]

The idea of regex rules follows big_vision (Beyer et al., 2022).
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from medjax.train.mesh import BATCH_AXES, global_batch_size

Rule = PartitionSpec | Callable[[tuple[int, ...], Mesh], PartitionSpec]
"""A fixed spec, or a function of a parameter's shape and the mesh."""

Rules = Sequence[tuple[str, Rule]]
"""Ordered (regex, rule) pairs; the first match decides."""


def replicate(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Every device holds the whole parameter."""
    del shape, mesh
    return PartitionSpec()


def fsdp(min_size: int = 2**16) -> Rule:
    """Splits the largest axis that the ``fsdp`` mesh axis divides.

    Args:
      min_size: Parameters with fewer elements are replicated: gathering many small
        arrays costs more latency than the memory they hold is worth.

    Returns:
      The rule.
    """

    def rule(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
        devices = mesh.shape["fsdp"]
        divisible = [i for i, size in enumerate(shape) if size % devices == 0]
        if devices == 1 or math.prod(shape) < min_size or not divisible:
            return PartitionSpec()
        axis = max(divisible, key=lambda i: shape[i])
        return PartitionSpec(*("fsdp" if i == axis else None for i in range(axis + 1)))

    return rule


DEFAULT_RULES: Rules = ((".*", fsdp()),)
"""Everything large is split over ``fsdp``; with ``--mesh.fsdp 1`` that is nothing."""


def flatten(tree: Any) -> dict[str, Any]:
    """A nested dict as one dict of paths, ``{"tower/conv/kernel": leaf}``."""
    return dict(traverse_util.flatten_dict(tree, sep="/"))


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict that `flatten` took apart."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")


def param_shardings(params: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Any:
    """Shardings of a tree of parameters.

    Args:
      params: Nested dict of arrays or `jax.ShapeDtypeStruct`s.
      mesh: The mesh.
      rules: Ordered (regex, rule) pairs.

    Returns:
      A tree of `NamedSharding` with the structure of `params`.

    Raises:
      ValueError: If a written-out spec does not divide the parameter it matches.
    """
    flat = flatten(params)
    shardings = {
        name: NamedSharding(mesh, _spec(name, tuple(leaf.shape), mesh, rules))
        for name, leaf in flat.items()
    }
    return unflatten(shardings)


def _spec(name: str, shape: tuple[int, ...], mesh: Mesh, rules: Rules) -> PartitionSpec:
    """The spec of one parameter: first match, checked against its shape."""
    for pattern, rule in rules:
        if re.search(pattern, name):
            spec = rule(shape, mesh) if callable(rule) else rule
            break
    else:
        return PartitionSpec()
    if len(spec) > len(shape):
        raise ValueError(f"rules: {spec} has more axes than {name} of shape {shape}")
    for size, axes in zip(shape, spec, strict=False):
        names = () if axes is None else (axes,) if isinstance(axes, str) else axes
        devices = math.prod(mesh.shape[axis] for axis in names)
        if size % devices:
            raise ValueError(
                f"rules: {spec} splits an axis of {size} of {name} (shape {shape}) "
                f"over {devices} devices"
            )
    return spec


def opt_state_shardings(
    tx: optax.GradientTransformation, opt_state: Any, shardings: Any, mesh: Mesh
) -> Any:
    """Shardings of an optimiser state: each moment lies where its parameter lies.

    Said explicitly because jitting ``tx.init`` alone replicates the whole state,
    however the parameters are split: the zeros it makes depend on no input.

    Args:
      tx: The optimiser.
      opt_state: Its state, or the shapes of it.
      shardings: Shardings of the parameters it was initialised with.
      mesh: The mesh.

    Returns:
      A tree of `NamedSharding` with the structure of `opt_state`.
    """
    return optax.tree_map_params(
        tx,
        lambda _, sharding: sharding,
        opt_state,
        shardings,
        transform_non_params=lambda _: replicated(mesh),
    )


def gathered(shardings: Any) -> Any:
    """Where parameters lie while they are used: no axis split over ``fsdp`` any more.

    What written-out rules split over other mesh axes stays split.

    Args:
      shardings: A tree of `NamedSharding`s, as from :func:`param_shardings`.

    Returns:
      The tree of `NamedSharding`s without ``fsdp``.
    """

    def kept(axes: Any) -> Any:
        if not isinstance(axes, tuple):
            return None if axes == "fsdp" else axes
        return tuple(axis for axis in axes if axis != "fsdp") or None

    return jax.tree.map(
        lambda s: NamedSharding(s.mesh, PartitionSpec(*map(kept, s.spec))), shardings
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds everything."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over ``data`` and ``fsdp``, the rest whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def shard_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Joins the batches of all processes into arrays split over the mesh.

    Args:
      batch: This process's examples: names to arrays with leading axis b/processes.
      mesh: The mesh.

    Returns:
      Global arrays with leading axis b, process 0's examples first.

    Raises:
      ValueError: If an entry is not numeric, or the batch does not split evenly.
    """
    sharding = batch_sharding(mesh)
    arrays = {}
    for name, value in batch.items():
        value = np.asarray(value)
        if value.dtype.kind not in "biufcV" or value.ndim == 0:
            raise ValueError(
                f"batch[{name!r}]: expected a numeric array with a leading batch axis, "
                f"got dtype {value.dtype} and shape {value.shape}"
            )
        shape = (global_batch_size(len(value), mesh), *value.shape[1:])
        arrays[name] = jax.make_array_from_process_local_data(sharding, value, shape)
    return arrays


def load_into(target: Any, source: Mapping[str, Any]) -> Any:
    """Replaces leaves of a sharded tree by host arrays, kept where they lie.

    Args:
      target: Nested dict of global `jax.Array`s.
      source: Nested dict of host arrays, a part of `target`'s tree.

    Returns:
      `target` with the leaves of `source`, in `target`'s dtypes and shardings.

    Raises:
      ValueError: If a name of `source` is unknown or has another shape.
    """
    flat = flatten(target)
    for name, value in flatten(source).items():
        leaf, value = flat.get(name), np.asarray(value)
        if leaf is None or leaf.shape != value.shape:
            expected = "no such entry" if leaf is None else f"shape {leaf.shape}"
            raise ValueError(
                f"pretrained: {name} has shape {value.shape}, the model has {expected}"
            )
        value = value.astype(leaf.dtype)
        # Each process copies only the pieces its own devices hold.
        flat[name] = jax.make_array_from_callback(
            leaf.shape, leaf.sharding, lambda index, value=value: value[index]
        )
    return unflatten(flat)


def on_host(tree: Any, mesh: Mesh) -> Any:
    """Arrays that are spread over a mesh as whole NumPy arrays, on every process.

    Args:
      tree: Arrays; with several processes each has to call this.
      mesh: Whose devices gather them.

    Returns:
      The tree of NumPy arrays.
    """
    return jax.tree.map(np.asarray, jax.device_put(tree, replicated(mesh)))
