"""VoxelMorph: two stacks of slices in, the field that registers them out.

Balakrishnan, Zhao, Sabuncu, Guttag, Dalca, "VoxelMorph: A Learning Framework for
Deformable Medical Image Registration", IEEE TMI 38(8), 2019. A U-Net sees the stack at
end-diastole (ED) and at frame t and says where every voxel of ED is at t. It learns
from the images alone: the squared difference of the warped image and ED's, and the
squared slope of the field. No contour, label or mesh takes part; a mesh goes along with
the field that was found.

Differences from the paper: a cine stack has too few slices to be halved, so slices are
channels, as DeepMesh's are, and the U-Net is that of :mod:`medjax.nn.unet`, with norms.
The field is in mm and its slope per mm, alike along all axes. It begins at zero.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax.heart.batch import check
from medjax.heart.deepmesh import DeepMeshConfig, displaced, stack, warped
from medjax.heart.meshes import Topology
from medjax.heart.system import MotionSystem
from medjax.nn.unet import UNet, UNetConfig
from medjax.typing import Batch, Key, Metrics, Variables

FIELDS = ("sax", "planes", "plane_mask", "vertices_ed")
GEOMETRY = DeepMeshConfig(max_displacement_mm=(1.0, 1.0, 1.0))
"""Voxel centres, one order of axes, and a field whose unit is a millimetre."""


@dataclasses.dataclass(frozen=True)
class VoxelMorphConfig:
    """Network and loss."""

    widths: tuple[int, ...] = (16, 32, 32, 32)
    """Of the U-Net's levels; each but the first halves."""
    smoothness: float = 0.01
    """Lambda, of the field's mean squared slope; the released code's where images are
    compared by squared differences."""


CONFIGS = {"tiny": VoxelMorphConfig(widths=(8, 16, 32))}


class Registration(nn.Module):
    """The field, mm along slices, rows and columns."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(
        self, sax: Float[Array, "b 2 d h w"], *, train: bool
    ) -> Float[Array, "b d h w 3"]:
        b, _, d, h, w = sax.shape
        config = UNetConfig(self.widths, 3 * d)
        net = UNet(config, head_init=nn.initializers.zeros, name="unet")
        seen = jnp.moveaxis(sax.reshape(b, 2 * d, h, w), 1, -1)
        found = net(seen, train=train).reshape(b, h, w, d, 3)
        return jnp.moveaxis(found, 3, 1)


def slope(
    field: Float[Array, "d h w 3"], spacing: Float[Array, " 3"]
) -> Float[Array, ""]:
    """Mean of the squared slopes of three components along three axes.

    Args:
        field: displacements, mm.
        spacing: of voxels along slices, rows and columns, mm.
    """
    parts = [
        jnp.mean(jnp.square(jnp.diff(field, axis=axis) / spacing[axis]))
        for axis in range(3)
    ]
    return sum(parts, jnp.zeros(())) / 3.0


def voxelmorph(config: VoxelMorphConfig, topology: Topology) -> MotionSystem:
    """The system that registers stacks and takes a mesh along.

    Args:
        config: network and loss.
        topology: of the mesh, which is no part of what is learned.

    Returns:
        The system; its loss reads no mesh, and its mesh at ED is the given one.
    """
    module = Registration(config.widths)

    def images(batch: Batch) -> Float[Array, "b 2 d h w"]:
        """Of one scale, and nothing where a slice is missing."""
        sax = jnp.asarray(batch["sax"])
        top = jnp.percentile(jnp.abs(sax), 99.0, axis=(1, 2, 3, 4), keepdims=True)
        there = jnp.asarray(batch["plane_mask"])[:, None, : sax.shape[2], None, None]
        return sax / (top + 1e-6) * there

    def init(key: Key, batch: Batch) -> Variables:
        check(batch, FIELDS)
        return module.init(key, images(batch), train=False)

    def weighed(
        variables: Variables, batch: Batch, *, train: bool
    ) -> tuple[Array, Metrics]:
        sax = images(batch)
        field: Any = module.apply(variables, sax, train=train)
        slices = jnp.asarray(batch["planes"])[:, : sax.shape[2]]

        def one(image: Array, moved: Array, planes: Array) -> tuple[Array, Array]:
            seen = warped(image[1], moved, planes, GEOMETRY)
            _, spacing = stack(planes, moved.shape[0])
            return jnp.mean(jnp.square(seen - image[0])), slope(moved, spacing)

        image, steep = jax.vmap(one)(sax, field, slices)
        terms = {"image": jnp.mean(image), "smoothness": jnp.mean(steep)}
        return terms["image"] + config.smoothness * terms["smoothness"], terms

    def loss(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        del key
        total, terms = weighed(variables, batch, train=True)
        return total, (terms, {})

    def judged(variables: Variables, batch: Batch) -> Array:
        return weighed(variables, batch, train=False)[0]

    def vertices(variables: Variables, batch: Batch) -> Float[Array, "b n 3"]:
        sax = images(batch)
        field = module.apply(variables, sax, train=False)
        slices = jnp.asarray(batch["planes"])[:, : sax.shape[2]]
        move = jax.vmap(lambda v, f, p: displaced(v, f, p, GEOMETRY))
        return move(jnp.asarray(batch["vertices_ed"]), field, slices)

    apply = {"vertices": vertices}
    return MotionSystem(init, loss, apply, FIELDS, topology, judged)
