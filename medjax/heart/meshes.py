"""Meshes of the heart: what does not move (topology), and measures of what does.

A :class:`Topology` holds the triangles, which surface every vertex lies on, and the
tables made of them once on the host; it is a static argument of systems. Vertices are
arrays of their own, ``n 3`` in mm in the world's frame, with any axes before them.

Walls of a ventricle are open at the base, and the volume of an open mesh depends on
where it lies. Every boundary loop is therefore closed by a fan of triangles to the mean
of its vertices. The fan belongs to the topology, its centre follows from the vertices,
so closing adds nothing that could move on its own.

Measures take JAX arrays (float32, differentiable, without a scatter in the gradient) or
NumPy arrays (in their own precision).
"""

import dataclasses
import functools
from typing import Any, TypeAlias

import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array, Float, Int, Int32
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medjax.nn.tables import Table, collect, edges_of, gather, grouped, neighbours

Points: TypeAlias = Float[Array, "*batch _ 3"] | Float[np.ndarray, "*batch _ 3"]
"""Places of vertices in mm, or vectors."""
Triangles: TypeAlias = Int[np.ndarray, "f 3"]


@dataclasses.dataclass(frozen=True, eq=False)
class Topology:
    """Triangles of one or more surfaces, and what follows from them.

    Attributes:
        count: number of vertices, used or not.
        faces: corners of triangles, counterclockwise from outside.
        surface: index into ``names`` per vertex.
        names: of the surfaces, as ``("endo", "epi", "rv")``.
        closing: fans over the holes; ``count + i`` is the centre of hole i.
        loops: vertices around every hole.
    """

    count: int
    faces: Int32[np.ndarray, "f 3"]
    surface: Int32[np.ndarray, " n"]
    names: tuple[str, ...]
    closing: Int32[np.ndarray, "g 3"]
    loops: Table

    @classmethod
    def of(
        cls,
        faces: Triangles,
        count: int,
        surface: Int[np.ndarray, " n"] | None = None,
        names: tuple[str, ...] = ("wall",),
    ) -> "Topology":
        """The topology of triangles.

        Args:
            faces: corners; neighbouring triangles turn the same way.
            count: number of vertices.
            surface: index into ``names`` per vertex; all of the first if not given.
            names: of the surfaces.

        Raises:
            ValueError: for corners that are not there or not three, surfaces without a
                name, or triangles with corners on two surfaces.
        """
        faces = np.asarray(faces, np.int32)
        if surface is None:
            surface = np.zeros(count, np.int32)
        surface = np.asarray(surface, np.int32)
        if len(faces) == 0 or faces.min() < 0 or faces.max() >= count:
            told = f"{faces.min()} to {faces.max()}" if len(faces) else "none"
            raise ValueError(
                f"faces: corners {told}, expected some of 0 to {count - 1}"
            )
        twice = np.any(faces == np.roll(faces, 1, axis=1), axis=1)
        if twice.any():
            raise ValueError(
                f"faces: {twice.sum()} triangles have one corner twice, the first is "
                f"number {int(np.argmax(twice))}"
            )
        if surface.shape != (count,) or not 0 <= surface.min() <= surface.max() < len(
            names
        ):
            raise ValueError(
                f"surface: shape {surface.shape}, codes {surface.min()} to "
                f"{surface.max()}; expected {count} of 0 to {len(names) - 1} {names}"
            )
        torn = np.any(surface[faces] != surface[faces[:, :1]], axis=1)
        if torn.any():
            raise ValueError(f"surface: {torn.sum()} triangles lie on two surfaces")
        edges = _open_edges(faces, count)
        hole, holes = _holes(edges, count)
        # Against the direction of the face beside it, as neighbours turn.
        fans = [edges[:, 1], edges[:, 0], count + hole]
        rims, inside = np.unique(np.stack([hole, edges[:, 0]]), axis=1)
        return cls(
            count=count,
            faces=faces,
            surface=surface,
            names=tuple(names),
            closing=np.stack(fans, axis=-1).astype(np.int32),
            loops=Table.of(grouped(rims, inside, holes, empty=count), count),
        )

    @functools.cached_property
    def edges(self) -> Int32[np.ndarray, "e 2"]:
        """Every edge once, the smaller vertex first."""
        return np.unique(np.sort(_directed(self.faces), axis=1), axis=0)

    @functools.cached_property
    def edge_ends(self) -> Table:
        """The two vertices of every edge."""
        return Table.of(self.edges, self.count)

    @functools.cached_property
    def neighbours(self) -> Table:
        """The vertices beside every vertex."""
        one, other = self.edges.T
        both = np.concatenate([one, other]), np.concatenate([other, one])
        return neighbours(*both, self.count)

    @functools.cached_property
    def corners(self) -> Table:
        """Of every face."""
        return Table.of(self.faces, self.count)

    @functools.cached_property
    def closed_corners(self) -> Table:
        """Of every face and of the fans that close the mesh."""
        every = np.concatenate([self.faces, self.closing])
        return Table.of(every, self.count + len(self.loops.index))

    @functools.cached_property
    def face_surface(self) -> Int32[np.ndarray, " g"]:
        """Index into ``names`` of every face, then of every triangle of the fans."""
        return self.surface[np.concatenate([self.faces[:, 0], self.closing[:, 0]])]

    def closed(self, vertices: Points) -> Points:
        """The vertices, and behind them the centres of the holes.

        Args:
            vertices: mm.
        """
        if not len(self.loops.index):
            return vertices
        if isinstance(vertices, np.ndarray):
            rims = [row[row < self.count] for row in self.loops.index]
            centres = [vertices[..., rim, :].mean(axis=-2) for rim in rims]
            return np.concatenate([vertices, np.stack(centres, axis=-2)], axis=-2)
        size = jnp.asarray(self.loops.share[:, None], vertices.dtype)
        centre = jnp.sum(gather(vertices, self.loops), axis=-2) / size
        return jnp.concatenate([vertices, centre], axis=-2)

    def code(self, name: str) -> int:
        """The index of a surface.

        Raises:
            ValueError: if there is none of that name.
        """
        if name not in self.names:
            raise ValueError(f"surface {name!r}: expected one of {list(self.names)}")
        return self.names.index(name)

    def graph(self, nodes: Any = None, edges: Any = None) -> jraph.GraphsTuple:
        """The mesh as a graph: an edge in both directions between neighbours.

        Args:
            nodes: features of vertices.
            edges: features of directed edges, in the order of the filled slots of
                ``neighbours``.
        """
        senders, receivers = edges_of(self.neighbours)
        counts: dict[str, Any] = {"n_node": self.count, "n_edge": len(senders)}
        counts = {name: np.array([n], np.int32) for name, n in counts.items()}
        ends: dict[str, Any] = {"senders": senders, "receivers": receivers}
        return jraph.GraphsTuple(
            nodes=nodes, edges=edges, globals=None, **ends, **counts
        )


def _directed(faces: Triangles) -> Int32[np.ndarray, "e 2"]:
    """The three edges of every face, as it turns."""
    pairs = [faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]
    return np.concatenate(pairs).astype(np.int32)


def _open_edges(faces: Triangles, count: int) -> Int32[np.ndarray, "e 2"]:
    """Edges that no face runs through the other way, as often as they come too many."""
    edges = _directed(faces).astype(np.int64)
    there, first, times = np.unique(
        edges @ [count, 1], return_index=True, return_counts=True
    )
    back = edges[first] @ [1, count]
    place = np.minimum(np.searchsorted(there, back), len(there) - 1)
    answered = np.where(there[place] == back, times[place], 0)
    return np.repeat(edges[first], np.maximum(times - answered, 0), axis=0).astype(
        np.int32
    )


def _holes(
    edges: Int32[np.ndarray, "e 2"], count: int
) -> tuple[Int[np.ndarray, " e"], int]:
    """Which hole every open edge belongs to, and how many holes there are."""
    if not len(edges):
        return np.zeros(0, np.int64), 0
    _, label = connected_components(_matrix(edges, count), directed=False)
    found, hole = np.unique(label[edges[:, 0]], return_inverse=True)
    return hole, len(found)


def _matrix(edges: Int[np.ndarray, "e 2"], count: int) -> coo_array:
    ones = np.ones(len(edges), np.int8)
    return coo_array((ones, (edges[:, 0], edges[:, 1])), shape=(count, count))


def oriented(vertices: Float[np.ndarray, "n 3"], faces: Triangles) -> Triangles:
    """The faces, each turned so that its component encloses a positive volume.

    Args:
        vertices: mm.
        faces: corners, turning either way.

    Raises:
        ValueError: for a surface that has one side only, as a Moebius strip.
    """
    size, count = len(faces), len(vertices)
    # Two nodes per face, as it is and turned. Of neighbours, those are joined that run
    # through their common edge in opposite directions.
    both = np.concatenate([faces, faces[:, ::-1]])
    edges, owner = _directed(both).astype(np.int64), np.tile(np.arange(2 * size), 3)
    there, back = edges @ [count, 1], edges @ [1, count]
    order = np.argsort(there, kind="stable")
    low, high = (np.searchsorted(there[order], back, side=s) for s in ("left", "right"))
    # Of an edge with more than two faces, each is joined to all that fit.
    repeat = high - low
    start = np.repeat(low - np.cumsum(repeat) + repeat, repeat)
    partner = order[start + np.arange(repeat.sum())]
    joined = np.stack([np.repeat(owner, repeat), owner[partner]], axis=-1)
    # A face meets itself turned in each of its edges: that joins nothing.
    joined = joined[joined[:, 0] % size != joined[:, 1] % size]
    _, label = connected_components(_matrix(joined, 2 * size), directed=False)
    if np.any(label[:size] == label[size:]):
        raise ValueError("faces: a surface has one side only and cannot be oriented")
    found = faces.copy()
    for mirrored in np.unique(np.maximum(label[:size], label[size:])):
        turned = label[size:] == mirrored
        mine = turned | (label[:size] == mirrored)
        found[turned & mine] = faces[turned & mine, ::-1]
        part = Topology.of(found[mine], count)
        if float(_volume(vertices, part)[0]) < 0:
            found[mine] = found[mine, ::-1]
    return found


def in_millimetres(
    vertices: Float[np.ndarray, "*batch n 3"], *, flag: str | None = None
) -> None:
    """Refuses a heart that is smaller or larger than hearts are.

    Args:
        vertices: mm.
        flag: what changes the unit, for the message.

    Raises:
        ValueError: if the longest side of the box around it is not 20 to 400 mm.
    """
    flat = np.asarray(vertices).reshape(-1, 3)
    extent = float(np.ptp(flat, axis=0).max(initial=0.0)) if len(flat) else 0.0
    if not 20.0 <= extent <= 400.0:
        way = f"; a file in metres or of unit size needs {flag}" if flag else ""
        raise ValueError(
            f"vertices: the mesh is {extent:g} mm long, expected 20 to 400{way}"
        )


def _cross(vertices: Points, corners: Table) -> Points:
    """Normals of faces whose length is twice the area."""
    if isinstance(vertices, np.ndarray):
        at = vertices[..., corners.index, :]
        return np.cross(at[..., 1, :] - at[..., 0, :], at[..., 2, :] - at[..., 0, :])
    at = gather(vertices, corners)
    return jnp.cross(at[..., 1, :] - at[..., 0, :], at[..., 2, :] - at[..., 0, :])


def length(vectors: Any) -> Any:
    """Lengths along the last axis; the gradient at zero is zero, not NaN.

    Args:
        vectors: of any number of axes, NumPy or JAX.
    """
    if isinstance(vectors, np.ndarray):
        return np.linalg.norm(vectors, axis=-1)
    square = jnp.sum(jnp.square(vectors), axis=-1)
    some = square > 0.0
    return jnp.where(some, jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)


def unit(vectors: Any) -> Any:
    """Vectors of length one along the last axis; zero stays zero.

    Args:
        vectors: of any number of axes, NumPy or JAX.
    """
    size = length(vectors)[..., None]
    xp = np if isinstance(vectors, np.ndarray) else jnp
    return vectors / xp.where(size > 0.0, size, xp.ones_like(size))


def face_normals(vertices: Points, topology: Topology) -> Points:
    """Of length one, outwards; zero for a face without area.

    Args:
        vertices: mm.
        topology: with the faces.
    """
    return unit(_cross(vertices, topology.corners))


def face_areas(vertices: Points, topology: Topology) -> Any:
    """Areas of the faces, mm^2, ``*batch f``.

    Args:
        vertices: mm.
        topology: with the faces.
    """
    return 0.5 * length(_cross(vertices, topology.corners))


def vertex_normals(vertices: Points, topology: Topology) -> Points:
    """Mean normals of the faces around vertices, by area, of length one.

    Args:
        vertices: mm.
        topology: with the faces.
    """
    cross = _cross(vertices, topology.corners)
    if isinstance(cross, np.ndarray):
        total = np.zeros(vertices.shape, cross.dtype)
        for corner in topology.faces.T:
            at: Any = (..., corner, slice(None))
            np.add.at(total, at, cross)
        return unit(total)
    shape = (*cross.shape[:-1], 3, 3)
    spread = jnp.broadcast_to(cross[..., None, :], shape)
    return unit(collect(spread, topology.corners))


def volumes(
    vertices: Points, topology: Topology, *, close: bool = False
) -> dict[str, Any]:
    """Volumes inside the surfaces by the divergence theorem, mm^3, ``*batch`` each.

    Args:
        vertices: mm.
        topology: faces and surfaces; triangles look outwards.
        close: holes are closed by flat fans first.

    Raises:
        ValueError: for a surface with a hole, unless ``close`` is set.
    """
    if len(topology.closing) and not close:
        where = np.unique(topology.surface[topology.closing[:, 0]])
        named = [topology.names[i] for i in where]
        raise ValueError(
            f"the mesh is open: {len(topology.closing)} boundary edges on {named}; an "
            "open mesh has no volume, close=True closes it by flat fans"
        )
    found = _volume(vertices, topology)
    return {name: found[..., i] for i, name in enumerate(topology.names)}


def _volume(vertices: Points, topology: Topology) -> Any:
    """Of every surface, closed; names are the last axis."""
    # A closed surface may be measured from anywhere; near it, float32 is enough.
    at = topology.closed(vertices - vertices.mean(axis=-2, keepdims=True))
    numpy = isinstance(at, np.ndarray)
    corners = topology.closed_corners
    a, b, c = (
        (at[..., corners.index, :] if numpy else gather(jnp.asarray(at), corners))[
            ..., i, :
        ]
        for i in range(3)
    )
    xp = np if numpy else jnp
    parts = xp.sum(a * xp.cross(b, c), axis=-1) / 6.0
    codes = np.arange(len(topology.names))
    which = (topology.face_surface[:, None] == codes).astype(parts.dtype)
    return parts @ which if numpy else jnp.dot(parts, which, precision="highest")
