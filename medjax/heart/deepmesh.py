"""DeepMesh: a template fitted to a heart, then moved, by convolutional fields.

Meng, Bai, O'Regan, Rueckert, "DeepMesh: Mesh-based Cardiac Motion Tracking using Deep
Learning", IEEE TMI 43(4), 2024, arXiv 2309.14306, and its code. Short-axis slices are
the channels of one image, the two long-axis views are images of their own, and one
encoder reads all of them. The first stage turns the three codes at end-diastole (ED)
into a field over a volume and moves a template's vertices by it; the second compares
features of ED and of frame t on every level and makes the field that moves the ED mesh
to t. Contours are compared with soft projections of vertices
(:mod:`medjax.heart.projection`).

``repo`` is the code's: coordinates scaled by half the size although sampling aligns the
corners, image and mesh transposed against each other in the plane, displacements of at
most half the field of view, intensities as they come, the Laplacian of the shape at a
weight that shrinks hearts, and a first stage that is told where the true mesh meets
planes, by folders that tell it. ``paper`` keeps the network and mends these: voxel
centres, one order of axes, displacements in mm along the stack's axes and their
smoothness per mm, intensities of one scale, the Laplacian of displacements, and, if
asked for, exact coverage instead of vertices near planes. Where a plane is missing it
is masked in both.

The two stages are two systems, ``stage="ed"`` and ``"motion"``, which the code runs one
after the other through files; ``"joint"`` trains them as one. BatchNorm is PyTorch's.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from medjax.heart import losses, supervision
from medjax.heart.batch import check
from medjax.heart.deepmesh_networks import DeepMesh, NetworkConfig
from medjax.heart.meshes import Topology
from medjax.heart.planes import normals
from medjax.heart.projection import project, weighted_hausdorff
from medjax.heart.supervision import LossConfig
from medjax.heart.system import MotionSystem
from medjax.nn.warp import warp
from medjax.typing import Batch, Key, Metrics, Variables

Stage = Literal["ed", "motion", "joint"]


@dataclasses.dataclass(frozen=True)
class DeepMeshConfig:
    """Network, geometry and loss; the defaults are the mended ones."""

    stage: Stage = "motion"
    """What is found: the mesh at ED, that at frame t from ED's, or both."""
    network: NetworkConfig = NetworkConfig()
    """Widths."""
    transposed: bool = False
    """Rows of the mesh read columns of the field, as released."""
    voxel_centres: bool = True
    """Index i is the centre of voxel i; released: coordinates scaled by half sizes."""
    max_displacement_mm: tuple[float, float, float] | None = (25.0, 25.0, 25.0)
    """Along slices, rows and columns; None: half the field of view, as released."""
    normalised: bool = True
    """Intensities divided by the 99th percentile of the subject's images."""
    slice: Literal["projection", "coverage"] = "projection"
    """How the mesh is compared with planes."""
    projections: bool = False
    """The mesh at ED is compared with pixels where the true one meets all planes, as
    released, not with contours on those that are labelled. Folders of DeepMesh hold
    them; of other data it is contours."""
    tau: float = 0.75
    """Fall of a vertex's weight with its squared distance from a plane, 1/mm^2."""
    within: float = 2.0
    """Distance from which on vertices are not seen, mm."""
    top: int = 2048
    """Room for vertices near a plane."""
    given: bool = False
    """Stage ``motion`` alone: the mesh at ED is the given one, and is not fitted."""
    plane: float = 1.0
    """Of the distance of mesh and contours on planes; 0: what is left is registration
    of images, whose field the mesh follows."""
    image: float = 20.0
    """Of the squared difference of the warped image at t and that at ED."""
    chamfer: float = 0.5
    """Of the distance to the true surface at ED, mm^2."""
    laplacian_ed: float = 20.0
    """Of the uniform Laplacian of the shape at ED."""
    laplacian: float = 20.0
    """Of the uniform Laplacian at t."""
    laplacian_of: Literal["shape", "displacement"] = "displacement"
    """Whose Laplacian it is at t."""
    smoothness: float = 0.5
    """Of the field's."""
    smoothness_of: Literal["voxels", "mm"] = "voxels"
    """Whether the field's differences are of neighbouring voxels, as released, or per
    mm, whatever the voxels' sizes."""
    coverage: LossConfig = LossConfig()
    """Sizes and weights of ``slice="coverage"``."""


_TINY = NetworkConfig(
    levels=((16,), (24,), (32,)), stem=8, neck=48, up=(32, 16), fuse=8, volume=(8, 16)
)
CONFIGS = {
    "tiny": DeepMeshConfig(network=_TINY),
    "repo": DeepMeshConfig(
        network=NetworkConfig(still=False),
        transposed=True,
        voxel_centres=False,
        max_displacement_mm=None,
        normalised=False,
        laplacian=150.0,
        laplacian_of="shape",
        projections=True,
    ),
    "paper": DeepMeshConfig(smoothness_of="mm"),
}


def displaced(
    vertices: Float[Array, "n 3"],
    field: Float[Array, "d h w 3"],
    planes: Float[Array, "s 3 3"],
    config: DeepMeshConfig,
) -> Float[Array, "n 3"]:
    """Vertices moved by a field over the stack of slices.

    Args:
        vertices: mm.
        field: tanh's, between -1 and 1, along slices, rows and columns.
        planes: of the slices, first to last, mm.
        config: whose geometry.
    """
    size = jnp.asarray(field.shape[:3], jnp.float32)
    axes, steps = stack(planes, field.shape[0])
    away = vertices - planes[:1, 0]
    index = jnp.sum(away[:, None] * axes[None], axis=-1) / steps[None]
    place = index
    if not config.voxel_centres:
        place = index / size[None] * (size[None] - 1.0)
    order = (0, 2, 1) if config.transposed else (0, 1, 2)
    found = warp(field, tuple(place[:, i] for i in order))
    if config.transposed:
        found = found[:, jnp.asarray(order)]
    moved = found * _range(size, steps, config)[None]
    return vertices + jnp.sum(moved[..., None] * axes[None], axis=1)


def stack(planes: Array, depth: int) -> tuple[Array, Array]:
    """Unit axes along slices, rows and columns, and the field's voxel sizes, mm.

    Args:
        planes: of the slices, first to last, ``s 3 3``, mm.
        depth: slices of the field.
    """
    normal = normals(planes[0])
    along = jnp.sum((planes[-1, 0] - planes[0, 0]) * normal)
    normal = normal * jnp.where(along < 0.0, -1.0, 1.0)
    lengths = jnp.sqrt(jnp.sum(jnp.square(planes[0, 1:]), axis=-1))
    axes = jnp.concatenate([normal[None], planes[0, 1:] / lengths[:, None]])
    slab = jnp.abs(along) / max(depth - 1, 1)
    return axes, jnp.concatenate([slab[None], lengths])


def _range(size: Array, steps: Array, config: DeepMeshConfig) -> Array:
    """The largest displacement along slices, rows and columns, mm."""
    if config.max_displacement_mm is None:
        return 0.5 * size * steps
    return jnp.asarray(config.max_displacement_mm)


def warped(
    image: Float[Array, "s h w"],
    field: Float[Array, "d h w 3"],
    planes: Float[Array, "s 3 3"],
    config: DeepMeshConfig,
) -> Float[Array, "s h w"]:
    """The stack at t read where the field takes every voxel of ED.

    Args:
        image: slices at frame t.
        field: over as many or more slices.
        planes: of the slices.
        config: whose geometry.
    """
    s, h, w = image.shape
    depth = field.shape[0]
    size = jnp.asarray(field.shape[:3], jnp.float32)
    _, steps = stack(planes, depth)
    _, voxels = stack(planes, s)
    rows = jnp.linspace(0.0, depth - 1.0, s)
    places = (jnp.arange(n, dtype=rows.dtype) for n in (h, w))
    index = list(jnp.meshgrid(rows, *places, indexing="ij"))
    at = warp(field, tuple(index)) if depth != s else field
    reach = _range(size, steps, config) / voxels
    if not config.voxel_centres:
        # Corners of images are aligned in theirs, those of meshes are not.
        reach = 0.5 * (jnp.asarray([s, h, w], jnp.float32) - 1.0)
    moved = at * reach.reshape(1, 1, 1, 3)
    index[0] = index[0] * ((s - 1.0) / max(depth - 1.0, 1.0))
    return warp(image, tuple(index[i] + moved[..., i] for i in range(3)))


def plane_distance(
    vertices: Float[Array, "n 3"],
    example: dict[str, Array],
    frame: int,
    slices: int,
    config: DeepMeshConfig,
) -> tuple[Array, Array, Array]:
    """Mean weighted Hausdorff distance of slices plus the sum over views, pixels.

    Args:
        vertices: mm.
        example: ``planes``, ``plane_mask``, ``label_mask``, ``contours`` and
            ``contour_mask``; of projections at ED ``projected`` and what goes with it.
        frame: 0 for ED, 1 for t.
        slices: how many of the planes are short-axis slices.
        config: of the projection.

    Returns:
        The distance, the share of planes on which mesh or contour was empty, and the
        share of those with more vertices than there is room for.
    """
    h, w = example["sax"].shape[-2:]
    diagonal = float(np.hypot(h, w))

    def one(plane: Array, contour: Array, there: Array) -> tuple[Array, Array, Array]:
        reach = {"tau": config.tau, "within": config.within, "top": config.top}
        seen = project(vertices, plane, (h, w), **reach)
        pixels = contour / jnp.sqrt(jnp.sum(jnp.square(plane[1:]), axis=-1))[None]
        away = weighted_hausdorff(
            seen.pixels, seen.weight, pixels, there, diagonal=diagonal
        )
        empty = ~(jnp.any(seen.weight > 0.0) & jnp.any(there > 0.0))
        return away, empty, seen.left_out > 0

    def in_turn(*every: Array) -> tuple[Array, Array, Array]:
        return jax.lax.map(jax.checkpoint(lambda x: one(*x)), every)

    planes, known = example["planes"], example["label_mask"]
    if config.projections and frame == 0:
        known = example["projected_planes"]
        # Many planes with many pixels: in turn, as where the cache has room for one.
        each, *told = in_turn(planes, example["projected"], example["projected_mask"])
    else:
        every = planes, example["contours"][frame], example["contour_mask"][frame]
        each, *told = jax.lax.platform_dependent(
            *every, cpu=in_turn, default=jax.vmap(one)
        )
    mask = example["plane_mask"] * known
    short_axis = jnp.sum(mask[:slices] * each[:slices])
    short_axis /= jnp.maximum(jnp.sum(mask[:slices]), 1.0)
    count = jnp.maximum(jnp.sum(mask), 1.0)
    empty, short = (jnp.sum(mask * which.astype(mask.dtype)) / count for which in told)
    return short_axis + jnp.sum(mask[slices:] * each[slices:]), empty, short


def deepmesh(config: DeepMeshConfig, topology: Topology) -> MotionSystem:
    """DeepMesh as a system of pure functions.

    Args:
        config: see ``CONFIGS``.
        topology: of the template.
    """
    module = DeepMesh(config.network, config.stage)
    coverage = config.slice == "coverage"
    seen = ["sax", "lax", "planes", "plane_mask"]
    seen += ["vertices_ed"] if config.stage == "motion" else ["vertices_init"]
    fields = [*seen, "label_mask", "contours", "contour_mask"]
    fields += ["labels", "contour_surface"] if coverage else []
    if config.stage != "motion":
        fields.append("vertices_ed")
        if config.projections and not coverage:
            fields += ["projected", "projected_mask", "projected_planes"]

    def images(batch: Batch) -> tuple[Array, Array, Array]:
        sax, lax = jnp.asarray(batch["sax"]), jnp.asarray(batch["lax"])
        if config.normalised:
            top = jnp.percentile(jnp.abs(sax), 99.0, axis=(1, 2, 3, 4), keepdims=True)
            sax, lax = (x / (top + 1e-6) for x in (sax, lax))
        there = batch["plane_mask"][:, None, :, None, None]
        slices = sax.shape[2]
        views = jnp.asarray(batch["plane_mask"])[:, slices:]
        return sax * there[:, :, :slices], lax * there[:, :, slices:], views

    def init(key: Key, batch: Batch) -> Variables:
        check(batch, fields)
        return module.init(key, *images(batch), train=False)

    def moved(found: dict[str, Array], batch: Batch) -> dict[str, Array]:
        """Vertices at ED and at t, of what was found."""
        slices = batch["planes"][:, : batch["sax"].shape[2]]
        move = jax.vmap(lambda v, f, p: displaced(v, f, p, config))
        at = {"ed": jnp.asarray(batch.get("vertices_ed", 0.0))}
        if "ed" in found:
            at["ed"] = move(batch["vertices_init"], found["ed"], slices)
        if "motion" in found:
            at["t"] = move(at["ed"], found["motion"], slices)
        return at

    def example_terms(
        example: dict[str, Array], at: dict[str, Array], fields: dict[str, Array]
    ) -> dict[str, Array]:
        terms: dict[str, Array] = {}
        slices = example["sax"].shape[1]
        for name in fields:
            frame = 0 if name == "ed" else 1
            x = at["ed" if name == "ed" else "t"]
            if config.plane and coverage:
                each = supervision.section_terms(
                    x, topology, example, frame, config.coverage
                )
                terms[f"plane_{name}"] = supervision.weigh(each, config.coverage)
                terms[f"overflow_{name}"] = each["overflow"]
            elif config.plane:
                found = plane_distance(x, example, frame, slices, config)
                told = ("plane", "empty", "overflow")
                terms |= {f"{k}_{name}": v for k, v in zip(told, found, strict=True)}
            if name == "ed":
                terms["chamfer"] = losses.chamfer(x, example["vertices_ed"])
                terms["laplacian_ed"] = losses.laplacian_uniform(x, topology)
            else:
                whole = config.laplacian_of == "shape"
                shape = x if whole else x - at["ed"]
                terms["laplacian"] = losses.laplacian_uniform(shape, topology)
                image, planes = example["sax"], example["planes"][:slices]
                seen = warped(image[1], fields[name], planes, config)
                terms["image"] = jnp.mean(jnp.square(seen - image[0]))
        return terms

    weights = {name: getattr(config, name) for name in ("chamfer", "image")}
    weights |= {"laplacian": config.laplacian, "laplacian_ed": config.laplacian_ed}
    weights |= {"plane_ed": config.plane, "plane_motion": config.plane}

    def loss(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        del key
        seen = images(batch)
        found, updated = module.apply(
            variables, *seen, train=True, mutable=["batch_stats"]
        )
        total, terms = weighed(found, batch, seen[0])
        return total, (terms, updated)

    def judged(variables: Variables, batch: Batch) -> Array:
        seen = images(batch)
        found: Any = module.apply(variables, *seen, train=False)
        return weighed(found, batch, seen[0])[0]

    def weighed(
        found: dict[str, Array], batch: Batch, sax: Array
    ) -> tuple[Array, Metrics]:
        """The loss of fields that were found, and its terms."""
        examples = {**{name: batch[name] for name in fields}, "sax": sax}
        each = jax.vmap(example_terms)(examples, moved(found, batch), found)
        terms = {name: jnp.mean(value) for name, value in each.items()}
        total = jnp.zeros(())
        for name, value in terms.items():
            total = total + weights.get(name, 0.0) * value
        for name, field in found.items():
            terms[f"smoothness_{name}"] = _smoothness(
                field, batch["planes"][:, : sax.shape[2]], config
            )
            total = total + config.smoothness * terms[f"smoothness_{name}"]
        return total, terms

    def vertices(which: str) -> Any:
        def apply(variables: Variables, batch: Batch) -> Float[Array, "b n 3"]:
            found: Any = module.apply(variables, *images(batch), train=False)
            return moved(found, batch)[which]

        return apply

    apply = {"vertices": vertices("ed" if config.stage == "ed" else "t")}
    if config.stage == "joint":
        apply["vertices_ed"] = vertices("ed")
    every = tuple(dict.fromkeys(fields))
    return MotionSystem(init, loss, apply, every, topology, judged)


def _smoothness(
    field: Float[Array, "b d h w 3"],
    planes: Float[Array, "b s 3 3"],
    config: DeepMeshConfig,
) -> Array:
    """Of a field between -1 and 1: of neighbouring voxels in mm (or, in half fields of
    view, as released), or per mm."""
    if config.smoothness_of == "voxels":
        if config.max_displacement_mm is not None:
            reach = jnp.asarray(config.max_displacement_mm)
            field = field * reach.reshape(1, 1, 1, 1, 3)
        return losses.huber_deepmesh(field)
    size = jnp.asarray(field.shape[1:4], jnp.float32)

    def one(moved: Array, slices: Array) -> tuple[Array, Array]:
        _, steps = stack(slices, field.shape[1])
        return moved * _range(size, steps, config).reshape(1, 1, 1, 3), steps

    return losses.huber_mm(*jax.vmap(one)(field, planes))
