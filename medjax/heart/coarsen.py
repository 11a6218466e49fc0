"""Coarser copies of a mesh for a network that looks at the whole heart at once.

All of it is done once, on the host, on the reference shape. A level keeps one vertex in
four: farthest points, each next one where the surface is farthest from all before it,
measured along edges, so that thin walls are not bridged. Every vertex belongs to the
cluster of the kept vertex that is nearest along the surface; clusters that touch are
neighbours on the coarser level. Pooling is the mean over a cluster. Going back, a
vertex lies between the three nearest kept ones of its own surface, with barycentric
weights.
"""

import dataclasses
import heapq
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Int, Int32
from scipy.spatial import KDTree

from medjax.heart.meshes import Topology
from medjax.nn.graph import Descent
from medjax.nn.tables import Table, edges_of, grouped, neighbours


@dataclasses.dataclass(frozen=True, eq=False)
class Level(Descent):
    """A coarser level and the way to it from the finer one and back.

    Attributes:
        kept: the finer level's vertex that every coarse vertex is.
        neighbours: coarse vertices beside every coarse vertex.
    """

    kept: Table
    neighbours: Table

    @property
    def count(self) -> int:
        """Number of coarse vertices."""
        return len(self.kept.index)


def coarsen(
    topology: Topology,
    vertices: Float[np.ndarray, "n 3"],
    *,
    levels: int = 2,
    ratio: int = 4,
    links: Int[np.ndarray, "e 2"] | None = None,
) -> tuple[Level, ...]:
    """Levels of a mesh, each with about one vertex for ``ratio`` of the one before.

    Args:
        topology: of the mesh.
        vertices: of the reference shape, mm.
        levels: how many.
        ratio: of vertices from level to level.
        links: further edges that join clusters but are no way along the surface, as
            those across the wall.

    Raises:
        ValueError: if a level would have fewer than four vertices.
    """
    if vertices.shape != (topology.count, 3):
        raise ValueError(
            f"vertices: shape {vertices.shape}, expected ({topology.count}, 3)"
        )
    along, surface = topology.neighbours, topology.surface
    across = np.zeros((0, 2), np.int64) if links is None else np.asarray(links)
    found = []
    for _ in range(levels):
        wanted = len(vertices) // ratio
        if wanted < 4:
            raise ValueError(
                f"levels={levels}: {len(vertices)} vertices are too few to keep one in "
                f"{ratio}"
            )
        kept, cluster = farthest_points(along, vertices, wanted)
        steps = cluster[np.stack(edges_of(along), axis=-1)]
        along = _touching(steps, len(kept))
        across = cluster[across]
        every = np.concatenate([np.stack(edges_of(along), -1), across, across[:, ::-1]])
        between = _nearest_three(vertices, surface, kept, along, cluster)
        every_vertex = np.arange(len(vertices))
        found.append(
            Level(
                kept=Table.of(kept[:, None], len(vertices)),
                members=Table.grouped(cluster, every_vertex, len(kept), len(vertices)),
                between=Table.of(between, len(kept)),
                weights=_barycentric(vertices, vertices[kept][between]),
                neighbours=_touching(every, len(kept)),
            )
        )
        vertices, surface = vertices[kept], surface[kept]
    return tuple(found)


def farthest_points(
    along: Table, vertices: Float[np.ndarray, "n 3"], count: int
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " n"]]:
    """Vertices spread evenly over a mesh, and the nearest of them for every vertex.

    Distances are lengths of paths along edges. Every component gets at least one
    vertex, so there may be more than ``count``.

    Args:
        along: neighbours on the surface.
        vertices: mm.
        count: how many to choose.

    Returns:
        The chosen vertices in the order in which they were, and for every vertex the
        number of the chosen one that it is nearest to.
    """
    senders, receivers = edges_of(along)
    lengths = np.linalg.norm(vertices[senders] - vertices[receivers], axis=-1)
    beside: list[list[tuple[int, float]]] = [[] for _ in vertices]
    ends = zip(receivers.tolist(), senders.tolist(), lengths.tolist(), strict=True)
    for here, there, step in ends:
        beside[here].append((there, step))
    distance = np.full(len(vertices), np.inf)
    cluster, chosen = np.zeros(len(vertices), np.int64), []
    while len(chosen) < count or np.isinf(distance.max()):
        chosen.append(int(np.argmax(distance)))
        # Only where the new vertex is nearer than all before does the search go on.
        front = [(0.0, chosen[-1])]
        while front:
            far, here = heapq.heappop(front)
            if far >= distance[here]:
                continue
            distance[here], cluster[here] = far, len(chosen) - 1
            for there, step in beside[here]:
                if far + step < distance[there]:
                    heapq.heappush(front, (far + step, there))
    return np.asarray(chosen), cluster


def wall_pairs(
    topology: Topology,
    vertices: Float[np.ndarray, "n 3"],
    surfaces: Sequence[str] = ("endo", "epi"),
) -> Int32[np.ndarray, "e 2"]:
    """Pairs of vertices that face each other across a wall.

    Every vertex of either surface with the nearest of the other; a pair comes once.

    Args:
        topology: with both surfaces.
        vertices: of the reference shape, mm.
        surfaces: inner and outer one.

    Returns:
        Inner and outer vertex of every pair.
    """
    inner, outer = (
        np.flatnonzero(topology.surface == topology.code(name)) for name in surfaces
    )
    _, out = KDTree(vertices[outer]).query(vertices[inner])
    _, back = KDTree(vertices[inner]).query(vertices[outer])
    pairs = np.concatenate(
        [np.stack([inner, outer[out]], -1), np.stack([inner[back], outer], -1)]
    )
    return np.unique(pairs, axis=0).astype(np.int32)


def _touching(pairs: Int[np.ndarray, "e 2"], count: int) -> Table:
    """Neighbours by pairs, without those of a vertex with itself."""
    apart = pairs[pairs[:, 0] != pairs[:, 1]]
    return neighbours(apart[:, 0], apart[:, 1], count)


def _nearest_three(
    vertices: np.ndarray,
    surface: np.ndarray,
    kept: np.ndarray,
    along: Table,
    cluster: np.ndarray,
) -> Int[np.ndarray, "n 3"]:
    """The own cluster's and the nearest of those around it: coarse vertices.

    Where a small component has fewer than three, the last comes again.
    """
    own = cluster[:, None]
    senders, receivers = edges_of(along)
    beside = grouped(receivers, senders, len(kept), empty=len(kept))
    around = np.concatenate([own, beside[cluster]], axis=1)
    away = np.append(vertices[kept], [[np.inf] * 3], axis=0)[around]
    far = np.linalg.norm(away - vertices[:, None], axis=-1)
    other = np.append(surface[kept], -1)[around] != surface[:, None]
    far = np.where(other, np.inf, far)
    order = np.argsort(far, axis=1, kind="stable")[:, :3]
    order = np.pad(order, ((0, 0), (0, 3 - order.shape[1])), mode="edge")
    for column in (1, 2):
        missing = np.isinf(np.take_along_axis(far, order[:, column, None], 1))[:, 0]
        order[missing, column] = order[missing, column - 1]
    return np.take_along_axis(around, order, axis=1)


def _barycentric(
    points: Float[np.ndarray, "n 3"], corners: Float[np.ndarray, "n 3 3"]
) -> Float32[np.ndarray, "n 3"]:
    """Weights of three corners for the foot of a point in their plane.

    Negative ones are cut off and the rest divided by their sum, so that a vertex beyond
    the triangle lies on its rim. Corners on one line are weighed by inverse distance.
    """
    one, two = (corners[:, i] - corners[:, 0] for i in (1, 2))
    to = points - corners[:, 0]
    a, b, c = ((x * y).sum(-1) for x, y in ((one, one), (one, two), (two, two)))
    d, e = ((x * to).sum(-1) for x in (one, two))
    area = a * c - b * b
    flat = area <= 1e-6 * np.maximum(a * c, 1e-30)
    safe = np.where(flat, 1.0, area)
    second, third = (c * d - b * e) / safe, (a * e - b * d) / safe
    weights = np.stack([1 - second - third, second, third], axis=-1)
    near = 1.0 / (np.linalg.norm(points[:, None] - corners, axis=-1) + 1e-6)
    weights = np.maximum(np.where(flat[:, None], near, weights), 0.0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
