"""A graph network that moves a heart's mesh: images at vertices, messages along muscle.

Ours, after the idea of mesh-motion networks (DeepMesh, Meng et al., TMI 2024) and with
the processor of learned simulators (MeshGraphNets, Pfaff et al. 2021; GraphCast, Lam et
al. 2023). Given the mesh at end-diastole (ED) and images at ED and
at frame t, it finds where every vertex is at t, in a few refinements that share their
weights. Each reads the images where the vertices are now, lets vertices talk along the
surface and across the wall, on three levels of the mesh, and moves every vertex by at
most a few millimetres.

What differs from voxel networks: one encoder reads any number of slices, each in its
own plane and spacing, so nothing is resampled; a missing view is masked; and the result
belongs to vertices, at a tenth of the parameters.

Everything geometric is told in frames that turn with the heart: edges and displacements
along normal, circumference and long axis, places along axes of the mesh itself. So the
network does not see how the patient lay in the scanner: a rigid motion of planes and
mesh together moves the answer with them and changes nothing else. Geometry is float32
whatever ``dtype`` says: bfloat16 has steps of half a millimetre at 100 mm.

A refinement takes the current vertices as given (as in RAFT, Teed and Deng 2020): the
loss of every refinement teaches it, and no gradient runs through sampling places. On
the way back only sampling scatters, into the images' features where vertices read them;
encoding vertices, messages on all levels and what is made of them gather alone.
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from medjax.heart import supervision
from medjax.heart.batch import check
from medjax.heart.losses import profile_difference
from medjax.heart.meshes import Topology, length, vertex_normals
from medjax.heart.motion_graph import (
    KINDS,
    MotionGraph,
    heart_axes,
    local_frames,
    motion_graph,
    turned,
)
from medjax.heart.planes import sample_planes, sample_stack
from medjax.heart.supervision import LossConfig
from medjax.heart.system import MotionSystem
from medjax.nn.graph import VCycle
from medjax.nn.normalization import LayerNorm
from medjax.nn.tables import gather, spread
from medjax.typing import Batch, Key, Metrics, Variables


@dataclasses.dataclass(frozen=True)
class GraphMotionConfig:
    """The network and its loss."""

    widths: tuple[int, ...] = (16, 32, 64, 96)
    """Channels of the image encoder, finest level first."""
    channels: int = 48
    """Channels of an image's features."""
    width: int = 128
    """Of vertices and messages."""
    steps: tuple[int, ...] = (2, 2, 4, 2, 2)
    """Rounds of messages down and up the levels of the mesh."""
    ratio: int = 4
    """Vertices of a level for one of the next."""
    weights: tuple[float, ...] = (0.5, 0.7, 1.0)
    """Of the loss of every refinement; there are as many refinements."""
    views: Literal["sax", "sax+lax"] = "sax+lax"
    """Which images are read; the loss sees all planes of the batch."""
    profile: int = 7
    """Samples of intensity along a vertex's normal."""
    profile_mm: float = 9.0
    """How far they reach to both sides."""
    view_mm: float = 8.0
    """Distance over which a long-axis image loses its say."""
    step_mm: float = 5.0
    """The farthest a refinement moves a vertex along each axis."""
    remat: bool = False
    """Compute messages again on the way back instead of keeping them."""
    dtype: str = "float32"
    """Of encoder, messages and heads; geometry stays float32."""
    loss: LossConfig = LossConfig()
    """What tells the mesh that it is wrong."""


CONFIGS = {
    "tiny": GraphMotionConfig(
        widths=(8, 16), channels=16, width=32, steps=(1, 1, 2, 1, 1), weights=(0.7, 1.0)
    ),
    "full": GraphMotionConfig(dtype="bfloat16", remat=True),
}


class Encoder(nn.Module):
    """Features of every image on its own grid, whatever plane it is of."""

    config: GraphMotionConfig

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 1"]) -> Float[Array, "b h w c"]:
        c = self.config
        x, total = images.astype(c.dtype), jnp.zeros(())
        for i, width in enumerate(c.widths):
            for j in range(2):
                strides = 2 if i and not j else 1
                x = nn.Conv(width, (3, 3), strides, dtype=c.dtype, name=f"conv_{i}{j}")(
                    x
                )
                norm = nn.GroupNorm(min(8, width), name=f"norm_{i}{j}")
                x = nn.silu(norm(x.astype(jnp.float32))).astype(c.dtype)
            level = nn.Conv(c.channels, (1, 1), dtype=c.dtype, name=f"out_{i}")(x)
            shape = (*images.shape[:3], c.channels)
            level = jax.image.resize(level.astype(jnp.float32), shape, "linear")
            total = level if i == 0 else total + level
        return total


class GraphMotion(nn.Module):
    """Encoder of images, encoder of vertices, V-cycle of messages, displacement."""

    config: GraphMotionConfig
    graph: MotionGraph

    def setup(self) -> None:
        c = self.config
        self.encoder = Encoder(c)
        self.node_norm = LayerNorm()
        self.nodes = [nn.Dense(c.width, dtype=c.dtype) for _ in range(2)]
        self.cycle = VCycle(c.steps, c.width, c.dtype, c.remat)
        self.hidden = nn.Dense(c.width // 2, dtype=c.dtype)
        self.out = nn.Dense(3, kernel_init=nn.initializers.zeros)

    def __call__(self, batch: Batch) -> Float[Array, "r b n 3"]:
        """Vertices at frame t after every refinement, mm.

        Args:
          batch: ``sax``, ``planes``, ``plane_mask``, ``time`` and ``vertices_ed``, and
            ``lax`` if views are read.
        """
        c = self.config
        images = [batch["sax"]]
        if c.views == "sax+lax":
            images.append(batch["lax"])
        stacks = jnp.concatenate(images, axis=2)
        scale = jnp.sqrt(jnp.mean(jnp.square(stacks), (1, 2, 3, 4), keepdims=True))
        stacks = stacks / (scale + 1e-6)
        b, two, p, h, w = stacks.shape
        features = self.encoder(stacks.reshape(b * two * p, h, w, 1))
        features = features.reshape(b, two, p, h, w, -1)
        features = jnp.concatenate([features, stacks[..., None]], axis=-1)
        fixed = jax.vmap(self._fixed)(batch, features)

        def refine(module: "GraphMotion", x: Array, _: None) -> tuple[Array, Array]:
            x = jax.lax.stop_gradient(x)
            nodes, edges, frames = jax.vmap(module._seen)(batch, features, fixed, x)
            y = module.nodes[0](module.node_norm(nodes))
            y = module.nodes[1](nn.silu(y)).astype(jnp.float32)
            y = module.cycle(y, edges, module.graph.tables, module.graph.descents)
            y = module.out(nn.silu(module.hidden(y)).astype(jnp.float32))
            step = c.step_mm * jnp.tanh(y)
            x = x + jnp.sum(frames * step[..., None], axis=-2)
            return x, x

        # All refinements are one program, compiled once.
        shared = nn.scan(
            refine,
            variable_broadcast="params",
            split_rngs={"params": False},
            length=len(c.weights),
        )
        _, found = shared(self, batch["vertices_ed"], None)
        return found

    def _fixed(self, example: Batch, features: Array) -> dict[str, Array]:
        """What is known at end-diastole, for all refinements."""
        topology, x = self.graph.topology, example["vertices_ed"]
        axes = heart_axes(x, topology, example["planes"][0])
        frames = local_frames(x, topology, axes)
        partner = gather(x, self.graph.partners)[:, 0]
        away = x - jnp.mean(x, axis=0, keepdims=True)
        phase = 2 * jnp.pi * example["time"] * jnp.arange(1.0, 3.0)
        beat = jnp.concatenate([jnp.sin(phase), jnp.cos(phase)])
        surface = np.eye(3, dtype=np.float32)[np.minimum(topology.surface, 2)]
        parts = [
            jnp.sum(away[:, None] * axes[None], -1) / 50.0,
            jnp.sum(frames[:, :1] * axes[None], -1),
            jnp.asarray(surface),
            length(partner - x)[:, None] / 10.0,
            jnp.broadcast_to(beat[None], (len(x), 4)),
            self._sampled(example, features[0], x, frames[:, 0]),
        ]
        return {
            "nodes": jax.lax.stop_gradient(jnp.concatenate(parts[:-1], -1)),
            "images": parts[-1],
            "axes": axes,
        }

    def _seen(
        self,
        example: Batch,
        features: Array,
        fixed: dict[str, Array],
        x: Array,
    ) -> tuple[Array, list[Array], Array]:
        """Features of vertices and edges as they are, and frames of the vertices."""
        topology, ed = self.graph.topology, example["vertices_ed"]
        frames = local_frames(x, topology, fixed["axes"])
        moved = turned(frames, (x - ed)[:, None])[:, 0] / 10.0
        now = self._sampled(example, features[1], x, frames[:, 0])
        nodes = jnp.concatenate([fixed["nodes"], moved, fixed["images"], now], axis=-1)
        edges = []
        tables, kinds, kept = self.graph.tables, self.graph.kinds, self.graph.kept
        for table, kind, chosen in zip(tables, kinds, kept, strict=True):
            here, then = gather(x, chosen)[:, 0], gather(ed, chosen)[:, 0]
            turn = gather(frames.reshape(-1, 9), chosen)[:, 0]
            turn = spread(turn, table).reshape(-1, 3, 3)
            step = gather(here, table) - spread(here, table)[:, None]
            step_ed = gather(then, table) - spread(then, table)[:, None]
            size, size_ed = length(step), length(step_ed)
            ratio = jnp.log((size + 1e-2) / (size_ed + 1e-2))
            told = [turned(turn, step) / 10.0, size[..., None] / 10.0, ratio[..., None]]
            kind = jnp.asarray(np.eye(len(KINDS), dtype=np.float32)[kind])
            edge = jnp.concatenate([*told, kind], axis=-1)
            edges.append(jnp.where(table.filled[..., None], edge, 0.0))
        return nodes, edges, frames

    def _sampled(
        self, example: Batch, features: Array, x: Array, normal: Array
    ) -> Array:
        """Features of one frame's images at vertices, and intensities along normals."""
        c = self.config
        mask, planes = example["plane_mask"], example["planes"]
        d = example["sax"].shape[1]
        seen = features * mask[: len(features), None, None, None]
        values, where = sample_stack(seen[:d], planes[:d], x)
        parts = [values[:, :-1], jnp.tanh(where)]
        if c.views == "sax+lax":
            views, away = sample_planes(seen[d:], planes[d:], x)
            say = jnp.exp(-jnp.square(away / c.view_mm)) * mask[d:, None]
            parts += [*(say[..., None] * views[..., :-1]), jnp.abs(away.T) / 50.0]
        offsets = jnp.linspace(-c.profile_mm, c.profile_mm, c.profile)
        line = x[:, None] + offsets[None, :, None] * normal[:, None]
        # Intensities are given: without a gradient, nothing is scattered into them.
        given = jax.lax.stop_gradient(seen[:d, ..., -1:])
        grey, _ = sample_stack(given, planes[:d], line.reshape(-1, 3))
        parts.append(grey.reshape(-1, c.profile))
        return jnp.concatenate(parts, axis=-1)


def graph_motion(
    config: GraphMotionConfig, topology: Topology, reference: Float[np.ndarray, "n 3"]
) -> MotionSystem:
    """The graph network as a system of pure functions.

    Args:
        config: see ``CONFIGS``.
        topology: with surfaces ``endo`` and ``epi``.
        reference: vertices of a typical shape, for the levels of the mesh, mm.

    Raises:
        ValueError: for a mesh without a wall, or with too few vertices for the levels.
    """
    levels = (len(config.steps) + 1) // 2
    graph = motion_graph(topology, reference, levels=levels, ratio=config.ratio)
    module = GraphMotion(config, graph)
    fields = ["sax", "planes", "plane_mask", "time", "vertices_ed"]
    fields += ["lax"] if config.views == "sax+lax" else []
    seen = tuple(fields)
    by_planes = config.loss.supervision in ("contours", "both")
    by_truth = config.loss.supervision in ("meshes", "both")
    if by_planes:
        fields += ["labels", "label_mask"]
        fields += ["contours", "contour_mask", "contour_surface"]
    fields += ["vertices_t"] if by_truth else []

    def init(key: Key, batch: Batch) -> Variables:
        check(batch, fields)
        return module.init(key, {name: batch[name] for name in seen})

    def example_terms(example: dict[str, Array], x: Array) -> dict[str, Array]:
        reference = example["vertices_ed"]
        terms = supervision.shape_terms(
            x, reference, topology, graph.pairs, config.loss
        )
        terms["photometric"] = _photometric(example, x, topology, config)
        if by_planes:
            terms |= supervision.section_terms(x, topology, example, 1, config.loss)
        if by_truth:
            square = jnp.sum(jnp.square(x - example["vertices_t"]), axis=-1)
            terms["vertex"] = jnp.mean(square)
        return terms

    def loss(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        del key
        found = module.apply(variables, {name: batch[name] for name in seen})
        examples = {name: batch[name] for name in fields}
        each = jax.vmap(lambda x: jax.vmap(example_terms)(examples, x))(found)
        terms = {name: jnp.mean(value, axis=1) for name, value in each.items()}
        weights = jnp.asarray(config.weights)
        total = jnp.sum(weights * supervision.weigh(terms, config.loss))
        return total, ({name: value[-1] for name, value in terms.items()}, {})

    def vertices(variables: Variables, batch: Batch) -> Float[Array, "b n 3"]:
        every = module.apply(variables, {name: batch[name] for name in seen})
        return jnp.asarray(every)[-1]

    def judged(variables: Variables, batch: Batch) -> Float[Array, ""]:
        # It draws nothing, and does in training what it does in use.
        return loss(variables, batch, jax.random.key(0))[0]

    apply = {"vertices": vertices}
    return MotionSystem(init, loss, apply, tuple(fields), topology, judged)


def _photometric(
    example: dict[str, Array],
    x: Float[Array, "n 3"],
    topology: Topology,
    config: GraphMotionConfig,
) -> Float[Array, ""]:
    """How intensities along normals at t differ from those at end-diastole."""
    d = example["sax"].shape[1]
    offsets = jnp.linspace(-config.profile_mm, config.profile_mm, config.profile)

    def profile(frame: int, at: Array) -> Array:
        normal = vertex_normals(at, topology)
        line = at[:, None] + offsets[None, :, None] * normal[:, None]
        images = example["sax"][frame][..., None]
        grey, _ = sample_stack(images, example["planes"][:d], line.reshape(-1, 3))
        return grey.reshape(-1, config.profile)

    return profile_difference(profile(1, x), profile(0, example["vertices_ed"]))
