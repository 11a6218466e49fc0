"""Bodies whose areas and volumes are known."""

import numpy as np


def icosphere(splits: int, radius: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (float64) and faces, seen from outside, of a sphere about the origin."""
    phi = (1 + 5**0.5) / 2
    corners = [(0, a, b * phi) for a in (-1, 1) for b in (-1, 1)]
    vertices = np.array([np.roll(c, k) for c in corners for k in range(3)], float)
    apart = np.linalg.norm(vertices[:, None] - vertices[None], axis=-1)
    near = np.isclose(apart, 2.0)
    faces = [
        (i, j, k)
        for i in range(12)
        for j in range(i)
        for k in range(j)
        if near[i, j] and near[j, k] and near[i, k]
    ]
    faces = np.array(faces)
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    inward = (np.cross(b - a, c - a) * a).sum(-1) < 0
    faces[inward] = faces[inward, ::-1]
    for _ in range(splits):
        edges = np.sort(np.concatenate([faces[:, [i, (i + 1) % 3]] for i in range(3)]))
        unique, middle = np.unique(edges, axis=0, return_inverse=True)
        ab, bc, ca = middle.reshape(3, -1) + len(vertices)
        vertices = np.concatenate([vertices, vertices[unique].mean(axis=1)])
        a, b, c = faces.T
        parts = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        faces = np.concatenate([np.stack(part, axis=-1) for part in parts])
    vertices *= radius / np.linalg.norm(vertices, axis=1, keepdims=True)
    return vertices, faces.astype(np.int32)


def box(sides: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces, seen from outside, of a box with a corner at the origin."""
    vertices = np.array(list(np.ndindex(2, 2, 2)), float) * sides
    squares = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1)]
    squares += [(2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [(s[0], s[i], s[i + 1]) for s in squares for i in (1, 2)]
    return vertices, np.array(faces, np.int32)


def cup(
    around: int = 16, rings: int = 8, radius: float = 20.0, depth: float = 60.0
) -> tuple[np.ndarray, np.ndarray]:
    """Half an ellipsoid, pole down, open at its rim in the plane z = 0."""
    polar = 0.5 * np.pi * np.arange(1, rings + 1) / rings
    angle = 2 * np.pi * np.arange(around) / around
    r, z = radius * np.sin(polar), -depth * np.cos(polar)
    grid = np.broadcast_arrays(
        r[:, None] * np.cos(angle), r[:, None] * np.sin(angle), z[:, None]
    )
    vertices = np.concatenate([[[0.0, 0.0, -depth]], np.stack(grid, -1).reshape(-1, 3)])
    j = np.arange(around)
    after = (j + 1) % around
    faces = [np.stack([np.zeros_like(j), 1 + after, 1 + j], axis=-1)]
    for ring in range(rings - 1):
        low, high = 1 + around * ring, 1 + around * (ring + 1)
        faces.append(np.stack([low + j, low + after, high + after], axis=-1))
        faces.append(np.stack([low + j, high + after, high + j], axis=-1))
    return vertices, np.concatenate(faces).astype(np.int32)


def ventricle(
    around: int = 16, rings: int = 8
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, faces and surface codes (0 inner, 1 outer) of a wall, open above."""
    inner, faces = cup(around, rings, 20.0, 60.0)
    outer, _ = cup(around, rings, 30.0, 68.0)
    both = np.concatenate([inner, outer])
    codes = np.repeat([0, 1], len(inner)).astype(np.int32)
    return both, np.concatenate([faces, faces + len(inner)]), codes
