"""Which mesh axes a value varies over inside ``shard_map``.

With ``check_vma=True`` JAX types every value by the mesh axes along which devices may
hold different numbers. A loop must start from a carry of the type it ends with, and a
``custom_vjp`` must return cotangents of its arguments' types: both are met by first
making every array vary over the same axes. The transpose of that step is the sum over
devices that a replicated scale or bias needs, so JAX adds it where it belongs.
"""

from typing import Any

import jax


def axes_of(tree: Any) -> frozenset[str]:
    """The mesh axes over which any array of the tree varies; outside, none."""
    axes: frozenset[str] = frozenset()
    for leaf in jax.tree.leaves(tree):
        axes |= frozenset(jax.typeof(leaf).manual_axis_type.varying)
    return axes


def vary(tree: Any, axes: frozenset[str]) -> Any:
    """The same values, typed as varying over (at least) these axes."""

    def one(leaf: jax.Array) -> jax.Array:
        missing = axes - frozenset(jax.typeof(leaf).manual_axis_type.varying)
        return (
            jax.lax.pcast(leaf, tuple(sorted(missing)), to="varying")
            if missing
            else leaf
        )

    return jax.tree.map(one, tree)


def vary_like(tree: Any, reference: Any) -> Any:
    """The same values, typed as varying over the axes of the reference."""
    return vary(tree, axes_of(reference))
