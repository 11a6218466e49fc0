"""A moving mesh fitted to label maps of a cycle, without a network.

Vertices themselves are what is optimised: the exact coverage of the slices' pixels is
compared with the labels by Dice (:mod:`medjax.heart.supervision`), and what keeps a
heart a heart stands beside it. The first mesh is the phantom's, with the volumes, the
length and the place that the labels have. It is fitted to the first frame; every later
frame begins where the one before it ended. There each surface is first moved as a whole
(shifted, turned, widened, sheared), which costs nothing, and then its vertices are,
held by how edges stretch and neighbours move from where the whole has taken the first
frame. Held to the first frame itself, a heart that ejects much was found to eject less.
Vertices are followed by that alone: labels do not see how muscle slides along itself.

Steps are diffused over the surface before they are taken (Nicolet, Jacobson, Jakob,
"Large Steps in Inverse Rendering of Geometry", ACM TOG 40(6), 2021): a slice pulls at
the vertices between slices too.

Label maps say nothing beyond their first and last slice. As in counting of voxels a
label fills its slice from one neighbour's middle to the other's, and beyond the stack
there is nothing.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32, Integer

from medjax.heart import phantom_mesh
from medjax.heart.appearance import LABELS
from medjax.heart.clinical import label_volumes
from medjax.heart.coarsen import wall_pairs
from medjax.heart.drawing import drawn, slice_planes
from medjax.heart.label_maps import places
from medjax.heart.meshes import Topology, unit
from medjax.heart.phantom import DENSITY, make_heart
from medjax.heart.supervision import (
    LossConfig,
    section_terms,
    shape_terms,
    weigh,
)
from medjax.metrics.overlap import overlap
from medjax.nn.tables import Table
from medjax.progress import track

Cost = tuple[Array, Array]
"""What is made small, or where that is reached; and what there was no room for."""
MARGIN = 6
"""Pixels around all labels that the mesh is compared on."""


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How a mesh is fitted."""

    around: int = 32
    """Vertices around each wall."""
    rings: int = 24
    """Rings of vertices along each wall."""
    first_steps: int = 150
    """Updates for the first frame."""
    moves: int = 20
    """Updates for every later frame by which surfaces are moved as a whole."""
    steps: int = 40
    """Updates of vertices for every later frame; frames that are far apart want more.
    """
    rate: float = 0.5
    """Of Adam, mm; twice that for whole surfaces, which have farther to go."""
    diffusion: float = 4.0
    """How far steps spread over the surface, in squared edges."""
    loss: LossConfig = LossConfig(
        contour=0.0, photometric=0.0, stretch=0.05, volume=0.0, size=512, reach=4
    )
    """Weights; muscle need not keep its volume, which labels drawn by hand do not."""


class Fitted(NamedTuple):
    """A moving mesh, and how well it is that of the labels.

    Attributes:
        vertices: mm.
        topology: surfaces ``endo``, ``epi`` and, where labels have one, ``rv``.
        dice: of every frame and structure, of labels drawn from the mesh.
    """

    vertices: Float[np.ndarray, "t n 3"]
    topology: Topology
    dice: Mapping[str, Float[np.ndarray, " t"]]


def template(
    labels: Integer[np.ndarray, "i j k"],
    affine: Float[np.ndarray, "4 4"],
    config: FitConfig,
) -> tuple[Float[np.ndarray, "n 3"], Topology]:
    """The phantom's mesh in the place and size of labels at end-diastole.

    The long axis goes through the middle of the left ventricle in its first and last
    slices; the base is at the end with the larger sections.

    Args:
        labels: with the codes of this domain.
        affine: voxel indices to mm.
        config: vertices around and along.

    Raises:
        ValueError: where there is no left ventricle with muscle on three slices.
    """
    left = labels == LABELS["lv"]
    held = np.flatnonzero(left.any((0, 1)))
    if len(held) < 3 or not (labels == LABELS["myo"]).any():
        raise ValueError(
            f"labels: the left ventricle is on {len(held)} slices, expected 3 at "
            "least, and muscle about it"
        )
    areas = left.sum((0, 1))[held]
    half = len(held) // 2
    if areas[:half].sum() < areas[-half:].sum():
        held = held[::-1]  # from base to apex
    at = [[*np.argwhere(left[..., k]).mean(0), k, 1.0] for k in held]
    centres = np.array(at) @ affine[:3].T
    # A line through them; ends beyond the outermost slices by half a slice.
    place = np.arange(len(held)) - 0.5 * (len(held) - 1)
    slope = (place @ centres) / (place @ place)
    base = centres.mean(0) - slope * 0.5 * len(held)
    length = float(np.linalg.norm(slope)) * len(held)
    volumes = label_volumes(labels[None], affine)
    mass = DENSITY * float(volumes["myo"][0])
    right = "rv" in volumes
    z = unit(-slope)
    x = -affine[:3, 0]
    if right:
        x = places(labels == LABELS["rv"], affine).mean(0) - centres.mean(0)
    x = unit(x - (x @ z) * z)
    heart = make_heart(
        volume=float(volumes["lv"][0]),
        mass=mass,
        length=length,
        ejection_fraction=0.0,
        shortening=0.0,
        rv_volume=float(volumes["rv"][0]) if right else 1.0,
    )
    mesh = phantom_mesh.moving_mesh(
        heart, np.zeros(1), (config.around, config.rings), right=right
    )
    turn = np.stack([x, np.cross(z, x), z])
    vertices = (mesh.vertices[0] - [0.0, 0.0, heart.base]) @ turn + base
    names = phantom_mesh.SURFACES[: 3 if right else 2]
    return vertices, Topology.of(mesh.faces, len(vertices), mesh.surface, names)


def fit(
    labels: Integer[np.ndarray, "t i j k"],
    affine: Float[np.ndarray, "4 4"],
    config: FitConfig = FitConfig(),
) -> Fitted:
    """Fits a mesh to the first frame, and follows it through the others.

    Args:
        labels: with the codes of this domain.
        affine: voxel indices to mm.
        config: sizes, steps and weights.

    Raises:
        ValueError: where the first frame has no left ventricle with muscle on three
            slices, or there is no room for a slice's segments.
    """
    start, topology = template(labels[0], affine, config)
    thickness = float(np.linalg.norm(affine[:3, 2]))
    target, planes = _target(labels, affine)
    loss = dataclasses.replace(config.loss, slice_thickness=thickness)
    pairs = Table.of(wall_pairs(topology, start), topology.count)
    spread = jnp.asarray(_diffusion(topology, config.diffusion), jnp.float32)
    on_device = jnp.asarray(planes, jnp.float32)

    which = jnp.asarray(topology.surface, jnp.int32)
    surfaces = len(topology.names)

    def seen(vertices: Array, truth: Array) -> dict[str, Array]:
        example = {
            "planes": on_device,
            "plane_mask": jnp.ones(len(planes)),
            "label_mask": jnp.ones(len(planes)),
            "labels": truth[None],
        }
        return section_terms(vertices, topology, example, 0, loss)

    def by_vertices(moved: Array, begin: Array, rest: Array, truth: Array) -> Cost:
        vertices = begin + jnp.dot(spread, moved, precision="highest")
        terms = seen(vertices, truth)
        short = terms["overflow"]
        terms |= shape_terms(vertices, rest, topology, pairs, loss)
        return weigh(terms, loss), short

    def by_surfaces(moved: Array, begin: Array, truth: Array) -> Cost:
        terms = seen(_moved(begin, moved, begin, which), truth)
        return weigh(terms, loss), terms["overflow"]

    @jax.jit
    def followed(
        begin: Array, rest: Array, truth: Array, moves: Array, steps: Array
    ) -> tuple[Array, Array, Array]:
        """A frame's vertices and what they are held to, and what there is no room for.

        Args:
            begin: vertices at the frame before.
            rest: what they were held to there.
            truth: labels.
            moves: updates of whole surfaces.
            steps: updates of vertices.
        """
        moved = jnp.zeros((surfaces, 4, 3))
        told: tuple[Array, ...] = (begin, truth)
        moved, cut = _descent(by_surfaces, moved, told, moves, 2 * config.rate)
        begin, rest = (_moved(x, moved, begin, which) for x in (begin, rest))
        moved = jnp.zeros_like(begin)
        told = (begin, rest, truth)
        moved, short = _descent(by_vertices, moved, told, steps, config.rate)
        begin += jnp.dot(spread, moved, precision="highest")
        return begin, rest, jnp.maximum(short, cut)

    at = rest = jnp.asarray(start, jnp.float32)
    found = []
    for t in track(range(len(labels)), "frames", len(labels), "frames"):
        moves, steps = (config.moves, config.steps) if t else (0, config.first_steps)
        truth = jnp.asarray(target[t])
        at, rest, short = followed(at, rest, truth, jnp.int32(moves), jnp.int32(steps))
        if float(short) > 0:
            raise ValueError(
                f"frame {t}: a slice cuts the mesh in more segments than there is room "
                f"for, loss.size is {loss.size}"
            )
        rest = rest if t else at
        found.append(np.asarray(at))
    vertices = np.stack(found)
    maps = drawn(vertices, topology, affine, labels.shape[1:], thickness=thickness)
    codes = {name: code for name, code in LABELS.items() if (labels == code).any()}
    dice = overlap(maps, labels, structures=tuple(codes.values()), rank=3).dice
    return Fitted(vertices, topology, dict(zip(codes, dice.T, strict=True)))


def _moved(
    vertices: Float[Array, "n 3"],
    moved: Float[Array, "s 4 3"],
    about: Float[Array, "n 3"],
    which: Int32[Array, " n"],
) -> Float[Array, "n 3"]:
    """Vertices whose surfaces were moved, turned, widened and sheared as a whole.

    Args:
        vertices: mm.
        moved: of every surface what is added to the map of places to themselves, and to
            the place; both in mm, at the surface's mean distance from its middle.
        about: vertices whose surfaces have these middles and distances.
        which: surface of every vertex.
    """
    there = jax.nn.one_hot(which, len(moved), dtype=jnp.float32)
    share = there / jnp.sum(there, 0, keepdims=True)
    middle = jnp.dot(share.T, about, precision="highest")
    away = jnp.linalg.norm(about - middle[which], axis=-1)
    radius = jnp.dot(share.T, away, precision="highest")
    place = (vertices - middle[which]) / radius[which][:, None]
    turned = jnp.einsum("ni,nij->nj", place, moved[which, :3], precision="highest")
    return vertices + turned + moved[which, 3]


def _descent(
    cost: Callable[..., Cost], start: Array, told: tuple, steps: Array, rate: float
) -> Cost:
    """Adam along a cosine: where it ends, and the most that there was no room for."""
    rule = optax.scale_by_adam()

    def update(i: Array, state: tuple) -> tuple:
        at, memory, short = state
        gradient, cut = jax.grad(cost, has_aux=True)(at, *told)
        # Optax raises a Python float to the power of an integer array.
        with jax.numpy_dtype_promotion("standard"):
            given: Any = rule.update(gradient, memory, at)
        change, memory = given
        done = i.astype(jnp.float32) / steps.astype(jnp.float32)
        falling = 0.5 * rate * (1.0 + jnp.cos(jnp.pi * done))
        return at - falling * change, memory, jnp.maximum(short, cut)

    state = (start, rule.init(start), jnp.zeros(()))
    at, _, short = jax.lax.fori_loop(0, steps, update, state)
    return at, short


def _target(
    labels: Integer[np.ndarray, "t i j k"], affine: Float[np.ndarray, "4 4"]
) -> tuple[Int32[np.ndarray, "t p h w"], Float[np.ndarray, "p 3 3"]]:
    """What the mesh is compared with: slices about all labels, and an empty one before
    and behind the stack."""
    where = np.argwhere(labels.any((0, 3)))
    low = np.maximum(where.min(0) - MARGIN, 0)
    high = where.max(0) + 1 + MARGIN
    cropped = labels[:, low[0] : high[0], low[1] : high[1]]
    stack = np.moveaxis(cropped, 3, 1)
    # Whole squares of pixels on every level of the pyramid.
    odd = [(-n) % 4 for n in stack.shape[2:]]
    stack = np.pad(stack, ((0, 0), (1, 1), (0, odd[0]), (0, odd[1])))
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :2] @ low
    return stack.astype(np.int32), slice_planes(moved, stack.shape[1], first=-1)


def _diffusion(topology: Topology, amount: float) -> Float[np.ndarray, "n n"]:
    """(1 + amount L)^-1 with L the graph's Laplacian of mean differences."""
    laplacian = np.zeros((topology.count, topology.count))
    one, other = topology.edges.T
    laplacian[one, other] = laplacian[other, one] = -1.0
    np.fill_diagonal(laplacian, -laplacian.sum(1))
    return np.linalg.inv(np.eye(topology.count) + amount * laplacian / 6)
