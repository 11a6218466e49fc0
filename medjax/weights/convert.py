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
from medjax.weights.names import TABLES, TO_FLAX, TO_TORCH, Network, Table

log = logging.getLogger(__name__)

WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What training wrappers put before every name: data parallel, compiled, Lightning."""


def from_torch(
    tensors: Mapping[str, np.ndarray], network: Network, variables: Variables
) -> dict[str, Any]:
    """Fills variables with the tensors of a PyTorch state dict.

    Args:
      tensors: Arrays by PyTorch's names.
      network: Whose name table to use.
      variables: The network's own, for structure, shapes, dtypes and shardings; arrays,
        or the `jax.ShapeDtypeStruct`s of `jax.eval_shape`. Not changed.

    Returns:
      A tree like ``variables`` with the imported numbers.

    Raises:
      ValueError: Tensors that are missing, not expected, or of another shape; the
        first few are named.
    """
    table = TABLES[network]
    wanted: dict[str, Any] = {**traverse_util.flatten_dict(dict(variables), sep="/")}
    filled: dict[str, jax.Array] = {}
    unexpected, skipped, misshapen = [], [], []
    wrapped = _wrapper(list(tensors))
    for original, tensor in tensors.items():
        name = _modern(original.removeprefix(wrapped), table)
        if _any(table.silent, name):
            continue
        path, layout = table.to_flax(name) or (None, "same")
        if path is None or path not in wanted:
            # A head, or a layer beyond those of a truncated network.
            known = _any(table.optional, name) or _beyond(path, wanted)
            (skipped if known else unexpected).append(original)
            continue
        like = wanted[path]
        order = TO_FLAX.get(layout)
        if order is not None and tensor.ndim == len(order):
            tensor = tensor.transpose(order)
        if tensor.shape != like.shape:
            misshapen.append(f"{original}: {tensor.shape} for {path} {like.shape}")
            continue
        value = np.ascontiguousarray(tensor.astype(like.dtype))
        filled[path] = jax.device_put(value, getattr(like, "sharding", None))
    missing = sorted(set(wanted) - set(filled)) if not misshapen else []
    problems = {
        "no place for": unexpected,
        "nothing for": [(table.to_torch(p) or (p,))[0] for p in missing],
        "another shape in": misshapen,
    }
    if any(problems.values()):
        raise ValueError(
            f"tensors: do not fit a {network}; "
            + "; ".join(f"{k} {in_short(sorted(v))}" for k, v in problems.items() if v)
        )
    if skipped:
        log.info("%s: left aside %s", network, ", ".join(sorted(skipped)))
    return traverse_util.unflatten_dict(filled, sep="/")


def to_torch(network: Network, variables: Variables) -> dict[str, np.ndarray]:
    """A PyTorch state dict, complete for ``load_state_dict(strict=True)``.

    Args:
      network: Whose name table to use.
      variables: All of the network's collections, on this host.

    Returns:
      Arrays by PyTorch's names, those that PyTorch wants beside the weights included
      (``num_batches_tracked``, tied copies).

    Raises:
      ValueError: Variables that are not of this network.
    """
    table = TABLES[network]
    tensors: dict[str, np.ndarray] = {}
    unexpected = []
    for path, leaf in traverse_util.flatten_dict(dict(variables), sep="/").items():
        found = table.to_torch(path)
        if found is None:
            unexpected.append(path)
            continue
        name, layout = found
        value = np.asarray(leaf)
        if layout != "same":
            value = value.transpose(TO_TORCH[layout])
        tensors[name] = np.ascontiguousarray(value)
    if unexpected:
        raise ValueError(f"variables: not of a {network}: {sorted(unexpected)}")
    for pattern, counter in table.counters:
        for found in [re.fullmatch(pattern, name) for name in tensors]:
            if found:
                tensors[found.expand(counter)] = np.zeros((), np.int64)
    for name, source in table.tied:
        tensors[name] = tensors[source].copy()
    return tensors


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
