"""A heart's mesh for a graph network: levels, edges across the wall, turning frames.

Everything geometric that a network is told is told in frames that turn with the heart:
axes of the whole (:func:`heart_axes`) and of every vertex (:func:`local_frames`). So it
does not see how the patient lay in the scanner.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from medjax.heart.coarsen import coarsen, wall_pairs
from medjax.heart.meshes import Topology, length, unit, vertex_normals
from medjax.nn.graph import Descent
from medjax.nn.tables import Table, neighbours

KINDS = ("surface", "wall", "coarse")
"""Of edges."""


class MotionGraph(NamedTuple):
    """All of the mesh that does not move, for the network; made once on the host.

    Attributes:
        topology: of the mesh.
        tables: neighbours per level, finest first; edges across the wall included.
        kinds: of every slot, index into :data:`KINDS`.
        kept: the finest level's vertex that every vertex of a level is.
        descents: between the levels.
        pairs: inner and outer vertex across the wall.
        partners: for every vertex one across the wall, itself if there is none.
    """

    topology: Topology
    tables: tuple[Table, ...]
    kinds: tuple[Int32[np.ndarray, "_ _k"], ...]
    kept: tuple[Table, ...]
    descents: tuple[Descent, ...]
    pairs: Table
    partners: Table


def motion_graph(
    topology: Topology,
    reference: Float[np.ndarray, "n 3"],
    *,
    levels: int = 3,
    ratio: int = 4,
) -> MotionGraph:
    """The levels of a mesh and all edges that messages run along.

    Args:
        topology: with surfaces ``endo`` and ``epi``.
        reference: vertices of a typical shape, mm.
        levels: with the finest.
        ratio: vertices of a level for one of the next.

    Raises:
        ValueError: if the mesh has no wall or too few vertices.
    """
    pairs = wall_pairs(topology, reference)
    coarser = coarsen(topology, reference, levels=levels - 1, ratio=ratio, links=pairs)
    ends = np.concatenate([topology.edges, pairs])
    both = np.concatenate([ends, ends[:, ::-1]])
    fine = neighbours(both[:, 0], both[:, 1], topology.count)
    codes = np.append(topology.surface, -1)
    own = topology.surface[fine.slots.owner]
    across = fine.filled & (codes[fine.index] != own[:, None])
    kinds = [across.astype(np.int32)]
    kept, at = [np.arange(topology.count)], np.arange(topology.count)
    for level in coarser:
        at = at[level.kept.index[:, 0]]
        kept.append(at)
        kinds.append(np.full(level.neighbours.index.shape, 2, np.int32))
    partner = np.arange(topology.count)
    partner[pairs[::-1, 0]], partner[pairs[::-1, 1]] = pairs[::-1, 1], pairs[::-1, 0]
    return MotionGraph(
        topology=topology,
        tables=(fine, *(level.neighbours for level in coarser)),
        kinds=tuple(kinds),
        kept=tuple(Table.of(at[:, None], topology.count) for at in kept),
        descents=coarser,
        pairs=Table.of(pairs, topology.count),
        partners=Table.of(partner[:, None], topology.count),
    )


def heart_axes(
    vertices: Float[Array, "n 3"], topology: Topology, plane: Float[Array, "3 3"]
) -> Float[Array, "3 3"]:
    """Axes of a heart as rows: towards the right ventricle, across, apex to base.

    Without a right ventricle the first one is the direction of the image's rows.

    Args:
        vertices: at end-diastole, mm.
        topology: with its holes at the base.
        plane: of a short-axis slice, mm.
    """
    left = (
        (topology.surface != topology.names.index("rv"))
        if ("rv" in topology.names)
        else np.ones(topology.count, bool)
    )
    centre = jnp.mean(vertices[np.flatnonzero(left)], axis=0)
    base = jnp.mean(topology.closed(vertices)[topology.count :], axis=0)
    along = unit(base - centre)
    side = plane[1]
    if not left.all():
        side = jnp.mean(vertices[np.flatnonzero(~left)], axis=0) - centre
    side = unit(side - jnp.sum(side * along) * along)
    return jnp.stack([side, jnp.cross(along, side), along])


def local_frames(
    vertices: Float[Array, "n 3"], topology: Topology, axes: Float[Array, "3 3"]
) -> Float[Array, "n 3 3"]:
    """Normal, circumference and long axis at every vertex, as rows.

    At the apex, where normal and long axis agree, another axis of the heart stands in.

    Args:
        vertices: mm.
        topology: with the faces.
        axes: of the heart.
    """
    normal = vertex_normals(vertices, topology)

    def within(axis: Array) -> Array:
        return axis[None] - jnp.sum(normal * axis[None], -1, keepdims=True) * normal

    along, other = within(axes[2]), within(axes[0])
    along = unit(jnp.where(length(along)[:, None] > 0.05, along, other))
    return jnp.stack([normal, jnp.cross(along, normal), along], axis=-2)


def turned(frames: Float[Array, "n 3 3"], vectors: Float[Array, "n _k 3"]) -> Array:
    """Vectors at vertices in the vertices' frames; float32 without matrix units."""
    return jnp.sum(frames[:, None] * vectors[:, :, None, :], axis=-1)
