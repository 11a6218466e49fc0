"""What tells a moving mesh that it is wrong: contours, labels, images, or the truth.

Shared by the systems of this room, so that they differ in the network alone. Labels
judge the exact coverage of pixels; contour points pull where the overlap is still poor;
intensities along normals should stay those of the same muscle; and a mesh whose true
motion is known may be compared vertex by vertex. What keeps a heart a heart stands
beside them: smooth displacement, edges that do not stretch, walls that do not cross,
muscle that keeps its volume.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medjax.heart import losses, slicing
from medjax.heart.meshes import Topology
from medjax.nn.tables import Table

Supervision = Literal["contours", "meshes", "both"]


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the terms; 0 leaves a term out."""

    supervision: Supervision = "contours"
    """Labels and contours on planes, the true vertices, or both."""
    dice: float = 1.0
    """Of 1 - Dice of coverage and labels, over a pyramid."""
    contour: float = 0.1
    """Of the distance of contours in mm, while the Dice of a plane is below 0.5."""
    vertex: float = 0.1
    """Of the squared distance to the true vertices, mm^2."""
    photometric: float = 0.1
    """Of how profiles along normals changed since end-diastole."""
    laplacian: float = 0.1
    """Of the uniform Laplacian of displacements, mm."""
    stretch: float = 0.5
    """Of squared logarithms of edge lengths over those at end-diastole."""
    thickness: float = 1.0
    """Of how much walls are thinner than 2 mm."""
    volume: float = 0.01
    """Of ((V / V at end-diastole - 1) / 5 %)^2 of muscle."""
    size: int = 512
    """Room for triangles that a plane cuts."""
    reach: int = 8
    """Rows or columns of pixels that a triangle may span on a plane."""
    slice_thickness: float = 0.0
    """Of short-axis and long-axis slices, mm; 0: planes without thickness."""
    pyramid: int = 3
    """Pixel sizes at which coverage is compared: 1, 2, 4 and so on."""


def one_hot(labels: Int[Array, "p h w"], channels: int) -> Float[Array, "p h w c"]:
    """Labels 1, 2 and so on as channels.

    Args:
        labels: 0 outside.
        channels: how many of the labels count.
    """
    codes = jnp.arange(1, channels + 1, dtype=labels.dtype)
    return (labels[..., None] == codes.reshape(1, 1, 1, -1)).astype(jnp.float32)


def section_terms(
    vertices: Float[Array, "n 3"],
    topology: Topology,
    example: dict[str, Array],
    frame: int,
    config: LossConfig,
) -> dict[str, Array]:
    """Labels and contours of one frame against the mesh's sections.

    Args:
        vertices: at the frame, mm.
        topology: with the surfaces.
        example: one of a batch: ``planes``, ``plane_mask``, ``label_mask``,
            ``labels``, ``contours``, ``contour_mask`` and ``contour_surface``.
        frame: 0 for end-diastole, 1 for t.
        config: weights and sizes.

    Returns:
        ``dice`` (1 - Dice), ``contour`` (mm) and ``overflow`` (share of planes on which
        coverage was cut short: the run's numbers mean nothing unless it is 0).
    """
    planes = example["planes"]
    mask = example["plane_mask"] * example["label_mask"]
    labels = example["labels"][frame]
    found, limits = slicing.coverage(
        vertices,
        topology,
        planes,
        (labels.shape[-2], labels.shape[-1]),
        size=config.size,
        reach=config.reach,
        thickness=config.slice_thickness,
    )
    regions = slicing.regions(found, topology)
    truth = one_hot(labels, regions.shape[-1])
    terms = {
        "dice": losses.pyramid_dice(regions, truth, mask, levels=config.pyramid),
        "overflow": slicing.overflow(
            limits, mask, size=config.size, reach=config.reach
        ),
    }
    if config.contour:

        def one(plane: Array, region: Array, want: Array, contour: tuple) -> Array:
            points, there, surface = contour
            dice = losses.soft_dice(region[None], want[None], jnp.ones(1))
            far = jax.lax.stop_gradient((jnp.mean(dice) < 0.5).astype(jnp.float32))
            segments = slicing.cut(vertices, topology, plane, size=config.size)
            scale = jnp.sqrt(jnp.sum(jnp.square(plane[1:]), axis=-1))
            at = segments.start * scale[None]
            codes = jnp.asarray(topology.face_surface)
            code = jnp.take(codes, segments.face, mode="clip")

            def apart(k: Array) -> Array:
                mine = (segments.present & (code == k)).astype(jnp.float32)
                its = there * (surface == k).astype(jnp.float32)
                return losses.contour_distance(at, mine, points, its)

            surfaces = jnp.arange(len(topology.names), dtype=jnp.int32)
            return far * jnp.mean(jax.vmap(apart)(surfaces))

        contours = tuple(
            example[name][frame]
            for name in ("contours", "contour_mask", "contour_surface")
        )
        each = jax.vmap(one)(planes, regions, truth, contours)
        terms["contour"] = jnp.sum(mask * each) / jnp.maximum(jnp.sum(mask), 1.0)
    return terms


def shape_terms(
    vertices: Float[Array, "n 3"],
    reference: Float[Array, "n 3"],
    topology: Topology,
    pairs: Table | None,
    config: LossConfig,
) -> dict[str, Array]:
    """What keeps a displacement one of muscle.

    Args:
        vertices: at a frame, mm.
        reference: the same ones at end-diastole, mm.
        topology: with the surfaces.
        pairs: vertices that face each other across the wall, if there is a wall.
        config: weights.
    """
    moved = vertices - reference
    terms = {
        "laplacian": losses.laplacian_uniform(moved, topology),
        "stretch": losses.edge_stretch(vertices, reference, topology),
    }
    if pairs is not None:
        terms["thickness"] = losses.penetration(vertices, topology, pairs)
        terms["volume"] = losses.volume_change(vertices, reference, topology)
    return terms


def weigh(terms: dict[str, Array], config: LossConfig) -> Array:
    """The sum of terms that the configuration knows, each by its weight."""
    known = [name for name in terms if hasattr(config, name)]
    return jnp.sum(
        jnp.stack([getattr(config, name) * terms[name] for name in known]), axis=0
    )
