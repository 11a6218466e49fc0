"""Series to reconstruct: a phantom of known relaxation times, or prepared CMRxRecon.

Prepared sets of a series that differ in matrix size are one: a batch is of one size,
which one is drawn from the seed alone, and held-out series are looked at one by one.

Phantoms are drawn from ``fold_in(key, row)``, so a row depends on the seed and its own
number alone. Training phantoms follow ``seed``; the held-out ones are always the same,
so that runs with different seeds are judged by the same hearts.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import grain
import jax
import jax.numpy as jnp
import numpy as np

from medjax.data.boundary import DataError, reading
from medjax.data.pipeline import (
    ArraySource,
    JoinedSource,
    PipelineConfig,
    Source,
    build_pipeline,
    parts_of,
)
from medjax.data.records import METADATA, Field, RecordSource, read_metadata
from medjax.mri import masks
from medjax.mri.cmrxrecon.pipeline import Row, undersample
from medjax.mri.phantom import Phantom, PhantomConfig, cardiac_phantom
from medjax.train.sets import CACHE, here
from medjax.typing import Key

Contrast = Literal["t1", "t2"]
TRAINED_ON = ("kspace", "sensitivities", "times", "label")
TRUTH = ("image", "t1", "t2")
"""What only a phantom knows of its rows."""
CHUNK = 8
"""Phantoms simulated at once."""


@dataclasses.dataclass(frozen=True)
class ScansConfig:
    """What is reconstructed, and from how much of its k-space."""

    root: Path | None = None
    """A prepared CMRxRecon set, or a folder of those of all matrix sizes, which are
    mixed; or the gs:// or s3:// address of either, as it was uploaded; None:
    phantoms."""
    series: Contrast = "t1"
    """T1 (nine inversion times) or T2 (three echo times)."""
    acceleration: tuple[int, ...] = (8,)
    """Spacing of the sampled lines outside the centre. Of several, every training
    example takes one at random, and all are evaluated."""
    acs: int = 24
    """Central lines that are always sampled."""
    shift: int = 0
    """Lines by which the mask moves on from frame to frame; 0: all frames share it."""
    random_offset: bool = True
    """Train with the first line anywhere in the spacing, as the Latent Transformer was;
    false: with the masks that are evaluated, as the challenge has them."""
    height: int = 64
    """Of phantoms: rows, along which lines are left out."""
    width: int = 64
    """Of phantoms: columns."""
    field_of_view: float = 1.0
    """Of phantoms: what part of the chest is scanned, around the heart."""
    coils: int = 4
    """Of phantoms: receivers."""
    noise: float = 0.003
    """Of phantoms: standard deviation in k-space, of the largest pixel."""
    breathing: float = 0.3
    """Of phantoms: standard deviation of the heart's shift between frames, rows."""
    lesion: float = 0.15
    """Of phantoms: relative rise of T1 and T2 in the diseased sector."""
    tissue_spread: float = 0.04
    """Of phantoms: relative deviation of T1, T2 and M0 between subjects."""
    heart_rate: float = 60.0
    """Of phantoms: mean beats per minute."""
    patients: int = 64
    """Of phantoms: how many to train on."""
    test_patients: int = 8
    """Of phantoms: how many are held out."""
    batch_size: int = 8
    """Of the global batch."""
    seed: int = 0
    """Of the training phantoms, the order of rows, and the masks."""
    workers: int = 0
    """Interpreters that read beside each process; 0: threads."""
    cache: Path = dataclasses.field(default=CACHE, repr=False)
    """Folder of this machine that prepared sets of an object store are fetched to."""

    def phantom(self) -> PhantomConfig:
        """The scan of one phantom."""
        return PhantomConfig(
            sequence=self.series,
            height=self.height,
            width=self.width,
            field_of_view=self.field_of_view,
            coils=self.coils,
            noise=self.noise,
            breathing=self.breathing,
            lesion=self.lesion,
            tissue_spread=self.tissue_spread,
            heart_rate=self.heart_rate,
        )


SMALL = ScansConfig(
    height=48, width=48, acs=8, acceleration=(4, 8), patients=48, batch_size=2
)
"""Hearts for a CPU."""
FULL_SIZE = ScansConfig(
    height=144,
    width=512,
    coils=10,
    acceleration=(4, 8, 10),
    batch_size=1,
    patients=32,
)
"""Hearts as large as the challenge's, where no data are named."""


@dataclasses.dataclass(frozen=True)
class Scans:
    """Rows to train on and rows that are held out.

    Attributes:
        name: Of the data, for titles.
        train: Rows with ``kspace`` ``t c h w``, ``sensitivities`` ``c h w``, ``times``
            ``t`` and ``label`` ``h w``; h and w may differ between prepared sets.
        test: Rows of the same; a phantom's also hold the truth: the noise-free series
            ``image``, and the maps ``t1`` and ``t2`` in ms.
    """

    name: str
    train: Source
    test: Source


def open_scans(config: ScansConfig) -> Scans:
    """The data that the flags describe.

    Args:
        config: Phantoms, or the folder of prepared sets.

    Returns:
        Rows of both splits; phantoms are simulated here.

    Raises:
        ValueError: Where the folder holds no set of the series, sets that do not go
            together, or nothing to test on; where acceleration, central lines or counts
            are impossible.
    """
    if not config.acceleration:
        raise ValueError("data.acceleration is empty, expected one number at least")
    simulated = ("patients", "test_patients", "height", "width", "coils")
    for name in ("batch_size", *simulated * (config.root is None)):
        if getattr(config, name) < 1:
            found = getattr(config, name)
            raise ValueError(f"data.{name} is {found}, expected 1 at least")
    if config.root is not None:
        folders = find_sets(here(config.root, config.cache), config.series)
        scored = held_out_part(folders)
        scans = Scans(
            ", ".join(folder.name for folder in folders),
            _rows(folders, "train", fields=TRAINED_ON),
            _rows(folders, scored),
        )
    else:
        _check_masks(config, config.height)
        own = jax.random.fold_in(jax.random.key(config.seed), 0)
        held_out = jax.random.fold_in(jax.random.key(0), 1)
        scans = Scans(
            f"{config.height}x{config.width} {config.series.upper()} phantoms",
            phantoms(config, config.patients, TRAINED_ON, key=own),
            phantoms(config, config.test_patients, TRAINED_ON + TRUTH, key=held_out),
        )
    for part in (*parts_of(scans.train), *parts_of(scans.test)):
        _check_masks(config, part[0]["kspace"].shape[-2])
    return scans


def _check_masks(config: ScansConfig, lines: int) -> None:
    for acceleration in config.acceleration:  # impossible ones raise
        masks.cmrxrecon(lines, acceleration=acceleration, acs=config.acs)


def _rows(
    folders: Sequence[Path], part: str, *, fields: Sequence[str] | None = None
) -> JoinedSource:
    """Rows of a part, of the sets that have it."""
    having = [f for f in folders if read_metadata(f)["splits"].get(part)]
    return JoinedSource([RecordSource(f, part, fields=fields) for f in having])


def find_sets(root: Path, series: Contrast) -> list[Path]:
    """The prepared sets of a series: ``root`` itself, or the folders in it.

    Raises:
        DataError: Where one of several is no prepared set.
        ValueError: Where there is none, or several that do not differ in matrix size
            alone, or that share a patient between training and what is held out.
    """
    name = f"{series}map_"
    if root.name.startswith(name):
        return [root]
    found = sorted(p for p in root.glob(f"{name}*") if p.is_dir())
    if not found:
        names = sorted(p.name for p in root.glob("*"))[:5]
        raise ValueError(
            f"data.root: expected folders {name}<t>x<c>x<h>x<w> in {root}, found "
            f"{names or 'nothing'}"
        )
    if len(found) > 1:
        _check_sets(root, found)
    return found


def _check_sets(root: Path, folders: Sequence[Path]) -> None:
    shapes, names = [], [folder.name for folder in folders]
    parts: dict[str, str] = {}
    for folder in folders:
        metadata = read_metadata(folder)
        if "kspace" not in metadata["fields"]:
            raise DataError(f"data.root: {folder} has no column 'kspace'")
        shapes.append(Field.of(metadata["fields"]["kspace"]).shape)
        with reading(folder / METADATA, "description of a prepared set", key="request"):
            rows = metadata.get("request", {}).get("rows", ())
            asked = [(str(patient), str(part)) for part, patient, *_ in rows]
        for patient, part in asked:
            if parts.setdefault(patient, part) != part:
                raise ValueError(
                    f"data.root: a patient of the sets {names} in {root} is in the "
                    f"part {part!r} of one and in {parts[patient]!r} of another: "
                    "prepare them together, or name one itself"
                )
    if len({shape[:2] for shape in shapes}) > 1 or len(set(shapes)) < len(shapes):
        raise ValueError(
            f"data.root: the sets {names} in {root} hold k-space of {shapes}, expected "
            "equal frames and coils, and matrix sizes that differ: name one itself"
        )


def held_out_part(folders: Sequence[Path]) -> str:
    """The part of prepared sets that is scored: ``test``, else ``validation``.

    A published split may have no third part (PromptMR's); then it is said that scores
    are of ``validation``.

    Raises:
        ValueError: Where no set has either, or none has ``train``.
    """
    splits = [read_metadata(folder)["splits"] for folder in folders]
    parts = sorted({part for counts in splits for part in counts if counts[part]})
    names = ", ".join(folder.name for folder in folders)
    if "train" in parts and "test" in parts:
        return "test"
    if "train" in parts and "validation" in parts:
        print(f"{names} has no part 'test': 'validation' is held out")
        return "validation"
    raise ValueError(
        f"data.root: {names} in {folders[0].parent} has the parts {parts}, expected "
        "'test' or 'validation' beside 'train' to score"
    )


def phantoms(
    config: ScansConfig, count: int, fields: Sequence[str], *, key: Key
) -> ArraySource:
    """Simulated series as rows in memory.

    Args:
        config: What is scanned.
        count: How many subjects.
        fields: What to keep of each.
        key: Row ``i`` follows ``fold_in(key, i)``.

    Returns:
        The rows.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in fields}
    for start in range(0, count, CHUNK):
        numbers = jnp.arange(start, start + CHUNK)
        chunk = _simulate(config.phantom(), numbers, key)
        for name in fields:
            parts[name].append(np.asarray(getattr(chunk, name)))
    return ArraySource({k: np.concatenate(v)[:count] for k, v in parts.items()})


@functools.partial(jax.jit, static_argnames="scan")
def _simulate(scan: PhantomConfig, numbers: jax.Array, key: Key) -> Phantom:
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(numbers)
    return jax.vmap(lambda k: cardiac_phantom(scan, key=k))(keys)


def training_batches(scans: Scans, config: ScansConfig) -> grain.IterDataset:
    """The endless stream of batches of :mod:`medjax.mri.series` that is trained on.

    Args:
        scans: Of :func:`open_scans`.
        config: Batch size, seed, accelerations, where the masks begin.

    Returns:
        This process's share of every batch, which is of one matrix size, the same for
        all processes. Its iterator can tell its place and return.

    Raises:
        ValueError: Where there are fewer rows than a batch, of any matrix size.
    """
    draws = [
        undersample(
            acceleration=r,
            acs=config.acs,
            random_offset=config.random_offset,
            shift=config.shift,
        )
        for r in config.acceleration
    ]
    return build_pipeline(
        scans.train,
        PipelineConfig(
            batch_size=config.batch_size, seed=config.seed, workers=config.workers
        ),
        transform=_any_of(draws),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


Draw = Callable[[Row, np.random.Generator], Row]


def _any_of(draws: Sequence[Draw]) -> Draw:
    def draw(row: Row, generator: np.random.Generator) -> Row:
        return draws[int(generator.integers(len(draws)))](row, generator)

    return draw


def batch_of(
    row: Row, *, acceleration: int, acs: int, shift: int = 0
) -> dict[str, Any]:
    """One row as a batch, under the challenge's mask.

    Args:
        row: With ``kspace`` and ``sensitivities``.
        acceleration: Spacing of the lines.
        acs: Central lines.
        shift: Lines by which the mask moves on from frame to frame.

    Returns:
        The batch of :mod:`medjax.mri.series`, of one series.
    """
    frames, lines = row["kspace"].shape[0], row["kspace"].shape[-2]
    mask = masks.kt_equispaced(
        lines, frames if shift else 1, acceleration=acceleration, acs=acs, shift=shift
    )
    return {
        "kspace": jnp.asarray(row["kspace"])[None],
        "sensitivities": jnp.asarray(row["sensitivities"])[None],
        "mask": mask[None],
    }
