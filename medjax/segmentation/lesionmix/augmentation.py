"""Mixing inside the training step: LesionMix, or a peer, on every patch of a batch.

The host cuts patches with what mixing needs (:mod:`.patches`); the step mixes each with
some probability, and augments what comes out as it would any patch. A row's result
follows from its key alone: ``fold_in(key, row)``, rows computed apart (:mod:`.apart`),
so that neither the batch nor the devices change a bit of it. The bank of lesions is a
collection of the variables beside the parameters: it lies on every device once, and no
program has it as a constant.

A load is a whole case's. A patch gets the share of it that its organ is of the case's.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from medjax.data.boundary import DataError
from medjax.segmentation.labels import Labels
from medjax.segmentation.lesionmix.apart import rows_apart
from medjax.segmentation.lesionmix.bank import (
    BOXES,
    Case,
    Crops,
    Donors,
    LesionBank,
    make_bank,
    refuse_shared,
)
from medjax.segmentation.lesionmix.host import Host
from medjax.segmentation.lesionmix.loads import LoadLaw, LoadName, load_law
from medjax.segmentation.lesionmix.location import marginals
from medjax.segmentation.lesionmix.mix import LesionMixConfig, lesionmix
from medjax.segmentation.lesionmix.mixing import Mixing, mixes
from medjax.segmentation.lesionmix.patches import (
    DONOR,
    HOST,
    LesionPatches,
    organ_of,
)
from medjax.segmentation.sampling import PatchConfig
from medjax.segmentation.system import SegmentationSystem
from medjax.typing import Batch, Key, Metrics, Variables

COLLECTION = "lesions"
"""Of the variables: the bank."""


@dataclasses.dataclass(frozen=True)
class MixingConfig:
    """Whether patches are mixed, and how."""

    method: Literal["none", Mixing] = "none"
    """LesionMix, one of its peers, or nothing."""
    p: float = 0.5
    """Probability of a patch to be mixed."""
    load: LoadName = "uniform"
    """Of LesionMix: law of the load, between percentiles of the training cases' (low
    5-35, medium 35-65, high 65-95, uniform 5-95), one of theirs, or log-normal."""
    log_normal: tuple[float, float] | None = None
    """Of the log-normal law: mean and standard deviation of the load's logarithm."""
    lesionmix: LesionMixConfig = LesionMixConfig()
    """Of LesionMix: how lesions are put in and taken away."""
    bank: int = 512
    """Of LesionMix: most lesions that are kept to be put in."""
    room: int = 64
    """Lesions of a patch that can be told from each other."""

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1 or self.bank < 1 or self.room < 1:
            raise ValueError(
                f"mixing: p {self.p}, bank {self.bank}, room {self.room}: expected a "
                "probability, and 1 at least"
            )


@dataclasses.dataclass(frozen=True, eq=False)  # hashed as itself
class Mixer:
    """Mixing as a part of a system.

    Attributes:
        config: how.
        spacing: voxel size of a patch, mm.
        ignored: the label inside of what nobody annotated.
        law: of loads, of LesionMix.
        bank: of LesionMix.
    """

    config: MixingConfig
    spacing: tuple[float, ...]
    ignored: int
    law: LoadLaw | None = None
    bank: LesionBank | None = None

    @property
    def collection(self) -> dict[str, Any]:
        """The bank as nested dictionaries of arrays; empty without one."""
        if self.bank is None:
            return {}
        donors = self.bank.donors
        crops = {str(i): crops._asdict() for i, crops in enumerate(donors.crops)}
        return {"crops": crops, "smallest": donors.smallest}

    @property
    def collections(self) -> tuple[str, ...]:
        """Of the variables: what there is beside the system's own."""
        return () if self.bank is None else (COLLECTION,)

    def mixed(
        self, batch: Batch, collection: Mapping[str, Any], key: Key
    ) -> dict[str, Array]:
        """A batch of sources with lesions put in, taken away or pasted.

        Args:
            batch: of `LesionPatches`.
            collection: see :attr:`collection`.
            key: of the step.

        Returns:
            ``image`` and ``label`` alone.
        """
        size = batch["image"].shape[0]
        image, label = (jnp.asarray(batch[name]) for name in ("image", "label"))
        given = _Given(
            _host(batch, HOST, image[..., 0]),
            jnp.asarray(batch[f"{HOST}_density"]),
            jnp.asarray(batch[f"{HOST}_share"]),
            None,
        )
        if self.law is None:
            given = given._replace(
                donor=_host(batch, DONOR, jnp.asarray(batch[f"{DONOR}_image"]))
            )
        key = apart(key)

        def one(shared: Any, row: tuple[_Given, Array]) -> tuple[Array, Array]:
            (collection, key), (given, number) = shared, row
            use_key, mix_key = jax.random.split(jax.random.fold_in(key, number))
            host = given.host
            return jax.lax.cond(
                jax.random.bernoulli(use_key, self.config.p),
                lambda: self._one(given, collection, mix_key),
                lambda: (host.image, host.components > 0),
            )

        shared = dict(collection), key
        chunk = self.config.lesionmix.chunk
        new, lesion = rows_apart(one, shared, (given, jnp.arange(size)), chunk=chunk)
        found = jnp.where(lesion, 1, 0).astype(label.dtype)
        found = jnp.where(label == self.ignored, label, found)
        return {"image": new[..., None], "label": found}

    def _one(
        self, given: "_Given", collection: Mapping[str, Any], key: Key
    ) -> tuple[Float[Array, "*s"], Bool[Array, "*s"]]:
        if self.law is None:
            assert given.donor is not None
            pasted = mixes(self.spacing)[self.config.method](
                given.host, given.donor, key
            )
            return pasted.image, pasted.label
        crops = collection["crops"]
        donors = Donors(
            tuple(Crops(**crops[name]) for name in sorted(crops, key=int)),
            marginals(given.density),
            collection["smallest"],
        )
        found = lesionmix(
            given.host,
            donors,
            self.law,
            self.spacing,
            self.config.lesionmix,
            share=given.share,
            key=key,
        )
        return found.image, found.label

    def system(self, system: SegmentationSystem) -> SegmentationSystem:
        """The same system, trained on mixed batches.

        The members of an ensemble share the bank and what is made of a batch with it;
        what happens to that afterwards is each one's own.
        """

        def init(key: Key, batch: Batch) -> Variables:
            bank = {name: self.collection for name in self.collections}
            return {**system.init(key, batch), **bank}

        def loss(
            variables: Variables, batch: Batch, key: Key
        ) -> tuple[Float[Array, ""], tuple[Metrics, Variables]]:
            rest = dict(variables)
            batch = self.mixed(batch, rest.pop(COLLECTION, {}), key)
            return system.loss(rest, batch, key)

        # Whole on every device, whatever the system does with its own variables.
        rules = ((f"^{COLLECTION}/", PartitionSpec()), *system.rules)
        return dataclasses.replace(system, init=init, loss=loss, rules=rules)


def apart(key: Key) -> Key:
    """What mixing draws from, of a step's key.

    No small number: splitting a key gives what folding 0, 1, ... into it gives, and
    augmentation and latents draw from those.
    """
    return jax.random.fold_in(key, 0x6D69)


class _Given(NamedTuple):
    """What is known of every patch."""

    host: Host
    density: Float[Array, "*b_s"]
    share: Float[Array, "*b"]
    donor: Host | None


def _host(fields: Mapping[str, Any], prefix: str, image: Array) -> Host:
    return Host(
        image,
        jnp.asarray(fields[f"{prefix}_components"]),
        jnp.asarray(fields[f"{prefix}_volumes"]),
        jnp.asarray(fields[f"{prefix}_density"]) > 0,
    )


class BankCases(Sequence[Case]):
    """Prepared cases as a bank takes them; slices one by one for a network of slices.

    Args:
        rows: prepared, read when they are asked for.
        organs: of each.
        spacing: of the network's axes, mm.
    """

    def __init__(
        self, rows: Sequence[Mapping[str, Any]], organs: Any, spacing: tuple[float, ...]
    ) -> None:
        self.rows, self.organs, self.spacing = rows, organs, spacing
        self.places: list[tuple[int, int | None]] = [
            (i, plane)
            for i, organ in enumerate(organs)
            for plane in ([None] if len(spacing) == 3 else range(len(organ)))
            if organ.any() and (plane is None or organ[plane].any())
        ]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: Any) -> Case:  # pyright: ignore[reportIncompatibleMethodOverride]
        number, plane = self.places[place]
        row, organ = self.rows[number], self.organs[number]
        image, lesion, name = row["image"][..., 0], row["label"] == 1, str(row["id"])
        if plane is None:
            return Case(name, image, lesion, organ, self.spacing)
        name = f"{name}, slice {plane}"
        return Case(name, image[plane], lesion[plane], organ[plane], self.spacing)


def make_mixing(
    config: MixingConfig,
    rows: Sequence[Mapping[str, Any]],
    patches: PatchConfig,
    spacing: tuple[float, ...],
    labels: Labels,
    *,
    held_out: Sequence[str] = (),
) -> tuple[LesionPatches, Mixer]:
    """Patches and mixing of a set.

    Args:
        config: with a method.
        rows: prepared training cases.
        patches: sizes.
        spacing: voxel size of the network's axes, mm.
        labels: of the set: background and one kind of lesion.
        held_out: cases that no lesion may come from.

    Raises:
        DataError: for images of several channels, other labels, or a bank that would be
            empty or hold a case that is held out.
    """
    channels = rows[0]["image"].shape[-1]
    if labels.regions or len(labels.values) != 2 or channels != 1:
        raise DataError(
            f"mixing.method {config.method}: {channels} channels and the labels "
            f"{list(labels.names)}, expected one channel and one kind of lesion"
        )
    organs = [organ_of(row["image"][..., 0]) for row in rows]
    paired = config.method != "lesionmix"
    cut = LesionPatches(rows, patches, organs, spacing, room=config.room, paired=paired)
    ignored = len(labels.values)
    if paired:
        return cut, Mixer(config, spacing, ignored)
    shape = patches.source
    boxes = sorted({min(box, 2 * (max(shape) // 2)) for box in BOXES})
    cases = BankCases(rows, organs, spacing)
    bank = make_bank(cases, boxes=boxes, one_grid=False, most=config.bank)
    names = {name.split(", slice ")[0] for name in bank.cases}
    refuse_shared(dataclasses.replace(bank, cases=tuple(sorted(names))), held_out)
    law = load_law(config.load, bank.loads, log_normal=config.log_normal)
    return cut, Mixer(config, spacing, ignored, law, bank)
