"""What a system of moving hearts is to the rest of the house: pure functions."""

import dataclasses
from collections.abc import Callable, Mapping

from jax import Array

from medjax.heart.meshes import Topology
from medjax.train.state import Init
from medjax.train.step import Loss
from medjax.train.system import Apply
from medjax.typing import Batch, Variables


@dataclasses.dataclass(frozen=True)
class MotionSystem:
    """A system that finds or moves a mesh; made for one topology.

    Attributes:
        init: key and batch to variables.
        loss: variables, batch and key to the loss, and metrics with updated variables.
        apply: what a trained one can do: ``vertices`` gives those of the batch's frame
            t, ``b n 3`` in mm, and of a system that fits end-diastole those of ED.
        fields: of :mod:`medjax.heart.batch`, read by ``init`` and ``loss``.
        topology: faces, surfaces and tables of the mesh.
        judged: variables and batch to the loss of the network as it is used.
        frozen: regular expressions of parameters that are not trained.
    """

    init: Init
    loss: Loss
    apply: Mapping[str, Apply]
    fields: tuple[str, ...]
    topology: Topology
    judged: Callable[[Variables, Batch], Array]
    frozen: tuple[str, ...] = ()
