"""Between PyTorch state dicts and our variables, as trees in memory.

Nothing is guessed: after an import every variable has come from exactly one tensor, and
every tensor has gone to a variable, or is known to belong to a head that a tower leaves
out. Anything else is an error that names the first few. A name that a training wrapper
has put before all of them (``module.``) is taken away first.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from medjax.data.boundary import in_short
from medjax.typing import Variables
from medjax.weights.names import (
    TABLES,
    Network,
    Table,
    to_flax_layout,
    to_torch_layout,
)

log = logging.getLogger(__name__)

WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What training wrappers put before every name: data parallel, compiled, Lightning."""


def from_torch(
    tensors: Mapping[str, np.ndarray], network: Network | Table, variables: Variables
) -> dict[str, Any]:
    """Fills variables with the tensors of a PyTorch state dict.

    Args:
      tensors: Arrays by PyTorch's names.
      network: Whose name table to use; or a table itself.
      variables: The network's own, for structure, shapes, dtypes and shardings; arrays,
        or the `jax.ShapeDtypeStruct`s of `jax.eval_shape`. Not changed.

    Returns:
      A tree like ``variables`` with the imported numbers.

    Raises:
      ValueError: Tensors that are missing, not expected, or of another shape; the
        first few are named.
    """
    table, called = _table(network)
    wanted: dict[str, Any] = {**traverse_util.flatten_dict(dict(variables), sep="/")}
    filled: dict[str, jax.Array] = {}
    parts: dict[str, dict[int, np.ndarray]] = {}
    unexpected, skipped, misshapen = [], [], []
    wrapped = _wrapper(list(tensors))
    for original, tensor in tensors.items():
        name = _modern(original.removeprefix(wrapped), table)
        if _any(table.silent, name):
            continue
        path, layout, place = table.to_flax(name) or (None, "same", None)
        if path is None or path not in wanted:
            # A head, or a layer beyond those of a truncated network.
            known = _any(table.optional, name) or _beyond(path, wanted)
            (skipped if known else unexpected).append(original)
            continue
        like = wanted[path]
        tensor = to_flax_layout(layout, tensor)
        shape = like.shape if place is None else like.shape[1:]
        if tensor.shape != shape:
            misshapen.append(f"{original}: {tensor.shape} for {path} {shape}")
            continue
        if place is not None:
            if place >= like.shape[0]:
                misshapen.append(f"{original}: one more than {path} {like.shape}")
                continue
            found = parts.setdefault(path, {})
            found[place] = tensor
            if len(found) < like.shape[0]:
                continue
            tensor = np.stack([found[i] for i in range(like.shape[0])])
        value = np.ascontiguousarray(tensor.astype(like.dtype))
        filled[path] = jax.device_put(value, getattr(like, "sharding", None))
    missing = sorted(set(wanted) - set(filled)) if not misshapen else []
    problems = {
        "no place for": unexpected,
        "nothing for": [
            name
            for path in missing
            for name in _lacking(table, path, wanted[path], parts.get(path, {}))
        ],
        "another shape in": misshapen,
    }
    if any(problems.values()):
        raise ValueError(
            f"tensors: do not fit a {called}; "
            + "; ".join(f"{k} {in_short(sorted(v))}" for k, v in problems.items() if v)
        )
    if skipped:
        log.info("%s: left aside %s", called, ", ".join(sorted(skipped)))
    return traverse_util.unflatten_dict(filled, sep="/")


def to_torch(network: Network | Table, variables: Variables) -> dict[str, np.ndarray]:
    """A PyTorch state dict, complete for ``load_state_dict(strict=True)``.

    Args:
      network: Whose name table to use; or a table itself.
      variables: All of the network's collections, on this host.

    Returns:
      Arrays by PyTorch's names, those that PyTorch wants beside the weights included
      (``num_batches_tracked``, tied copies).

    Raises:
      ValueError: Variables that are not of this network.
    """
    table, called = _table(network)
    tensors: dict[str, np.ndarray] = {}
    unexpected = []
    for path, leaf in traverse_util.flatten_dict(dict(variables), sep="/").items():
        value = np.asarray(leaf)
        found = table.to_torch(path, len(value) if value.ndim else 1)
        if found is None:
            unexpected.append(path)
            continue
        names, rule = found
        for name, one in zip(names, value if rule.stacked else [value], strict=True):
            tensors[name] = np.ascontiguousarray(
                to_torch_layout(rule.layout, np.asarray(one))
            )
    if unexpected:
        raise ValueError(f"variables: not of a {called}: {sorted(unexpected)}")
    for pattern, counter in table.counters:
        for found in [re.fullmatch(pattern, name) for name in tensors]:
            if found:
                tensors[found.expand(counter)] = np.zeros((), np.int64)
    for name, source in table.tied:
        tensors[name] = tensors[source].copy()
    return tensors


def part(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The tensors of one block of a network, under its own names.

    Args:
      tensors: Of the whole, by PyTorch's names.
      prefix: What stands before the block's names, such as ``cascades.0.model.``.

    Raises:
      ValueError: There are none.
    """
    found = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    if not found:
        raise ValueError(f"prefix: no tensor begins with {prefix!r}")
    return found


def _table(network: Network | Table) -> tuple[Table, str]:
    """The table and what it is called."""
    if isinstance(network, Table):
        return network, network.name
    return TABLES[network], network


def _lacking(
    table: Table, path: str, like: Any, found: Mapping[int, np.ndarray]
) -> list[str]:
    """PyTorch's names of one of our paths, without the places that were found."""
    names = (table.to_torch(path, *like.shape[:1]) or ([path],))[0]
    return [name for place, name in enumerate(names) if place not in found]


def _wrapper(names: list[str]) -> str:
    """The wrappers' names before all of ``names``, or nothing."""
    found = ""
    while names and (w := next((w for w in WRAPPERS if names[0].startswith(w)), "")):
        if not all(name.startswith(w) for name in names):
            break
        found, names = found + w, [name.removeprefix(w) for name in names]
    return found


def _modern(name: str, table: Table) -> str:
    for pattern, replacement in table.renamed:
        name = re.sub(pattern, replacement, name)
    return name


def _any(patterns: tuple[str, ...], name: str) -> bool:
    return any(re.fullmatch(p, name) for p in patterns)


def _beyond(path: str | None, wanted: Mapping[str, Any]) -> bool:
    """Whether a path lies in a transformer layer after the last that is wanted."""
    found = re.match(r"(params/(?:\w+/)?(?:layer|block)_)(\d+)/", path or "")
    if not found:
        return False
    layers = [re.match(re.escape(found[1]) + r"(\d+)/", p) for p in wanted]
    last = max((int(m[1]) for m in layers if m), default=-1)
    return -1 < last < int(found[2])
