"""LesionMix: a case brought to another lesion load, by adding or by taking away.

Basaran, Zhang, Bai et al., "LesionMix: A Lesion-Level Data Augmentation Method for
Medical Image Segmentation", DALI at MICCAI 2023, arXiv 2308.09026.

A load is drawn from a law. A case below it is populated with lesions of other cases,
turned, bent and relit; a case above it has lesions painted over. The authors' code is
not public; what is known of it is the paper's abstract and a re-implementation, whose
faults are not taken over: it standardises anew for every lesion but undoes only the
last, loops without end where a lesion is taller than the image, and darkens borders.
What it leaves out is here: the map of places, and inpainting (the paper fills by fast
marching; a harmonic fill is closer to healthy tissue under real lesions' masks, by
``experiments.compare.real_segmentation``, and is the default).

Pure and jitted. A case's result follows from its key alone, to the last bit: not from
the batch, and not from the devices that it is split over (:mod:`.apart`).
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medjax.segmentation.lesionmix.apart import rows_apart
from medjax.segmentation.lesionmix.bank import Donors
from medjax.segmentation.lesionmix.host import Host
from medjax.segmentation.lesionmix.inpaint import InpaintConfig, inpaint
from medjax.segmentation.lesionmix.loads import LoadLaw, draw_load
from medjax.segmentation.lesionmix.populate import PopulateConfig, populate
from medjax.typing import Key


@dataclasses.dataclass(frozen=True)
class LesionMixConfig:
    """How lesions are put in and taken away."""

    populate: PopulateConfig = PopulateConfig()
    """How lesions are put in."""
    inpaint: InpaintConfig = InpaintConfig()
    """How lesions are taken away."""
    remove: bool = True
    """Take lesions away where a case has more than its target; else it stays."""
    chunk: int = 1
    """Cases computed side by side; more on an accelerator. Last bits follow from it."""


class Mixed(NamedTuple):
    """A case with another load.

    Attributes:
        image: of the host's unit.
        label: lesions.
        target: load drawn, mm^3.
        before: load of the host, mm^3.
        load: reached, mm^3.
        removed: lesions taken away.
        verdicts: slots by what became of them, in the order of `.populate.VERDICTS`.
    """

    image: Float[Array, "*b_space"]
    label: Bool[Array, "*b_space"]
    target: Float[Array, "*b"]
    before: Float[Array, "*b"]
    load: Float[Array, "*b"]
    removed: Int[Array, "*b"]
    verdicts: Int[Array, "*b_verdicts"]


def lesionmix(
    host: Host,
    donors: Donors,
    law: LoadLaw,
    spacing: tuple[float, ...],
    config: LesionMixConfig,
    *,
    share: Float[Array, ""] | float = 1.0,
    key: Key,
) -> Mixed:
    """One case at a load drawn from a law.

    Args:
        host: the case.
        donors: of a bank on its grid.
        law: of the load.
        spacing: voxel size in mm.
        config: how.
        share: of a whole case that the host is: the law is of whole cases.
        key: of everything random.
    """
    load_key, out_key, in_key = jax.random.split(key, 3)
    target = share * draw_load(law, key=load_key)
    before, removed = host.load, jnp.zeros((), jnp.int32)
    if config.remove:
        less = inpaint(host, target, spacing, config.inpaint, key=out_key)
        host = host._replace(
            image=less.image, components=less.components, volumes=less.volumes
        )
        removed = less.removed
    # A case that was to have less gets nothing, though it may end below the target.
    wanted = jnp.where(before < target, target, 0.0)
    more = populate(host, donors, wanted, spacing, config.populate, key=in_key)
    return Mixed(
        more.image, more.label, target, before, more.load, removed, more.verdicts
    )


@functools.partial(jax.jit, static_argnames=("law", "spacing", "config"))
def lesionmix_batch(
    hosts: Host,
    donors: Donors,
    law: LoadLaw,
    spacing: tuple[float, ...],
    config: LesionMixConfig,
    rows: Int[Array, " b"],
    *,
    key: Key,
) -> Mixed:
    """A batch of cases, each with a key of its own.

    Args:
        hosts: cases of one shape.
        donors: of a bank on their grid.
        law: of the load.
        spacing: voxel size in mm.
        config: how.
        rows: the number of each case in the whole (global) batch or epoch, which makes
            its key: two cases with one number would be treated alike.
        key: of the batch.
    """

    def one(shared: tuple[Donors, Key], each: tuple[Host, Array]) -> Mixed:
        (donors, key), (host, row) = shared, each
        row_key = jax.random.fold_in(key, row)
        return lesionmix(host, donors, law, spacing, config, key=row_key)

    return rows_apart(one, (donors, key), (hosts, rows), chunk=config.chunk)
