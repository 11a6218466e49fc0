"""Anatomy to generate: label maps over the cycle, and who they are of.

Phantom people, or a tree of label maps. Those of a tree are brought into one frame, as
the phantom is: z from apex to base, x towards the right ventricle, the left ventricle's
centre at one place. Label maps cannot be averaged over time, so a frame between two is
the nearer one. A condition that a tree does not tell of a person is the mean of those
of whom it does, 0 where it tells it of nobody, and is counted.

Training phantoms follow the seed; the held-out ones are always the same.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import grain
import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from medjax.data.boundary import DataError
from medjax.data.nifti import Volume
from medjax.data.pipeline import (
    ArraySource,
    PipelineConfig,
    Source,
    build_pipeline,
)
from medjax.data.volumes import Grid, resample
from medjax.heart.appearance import LABELS, heart_labels
from medjax.heart.datasets import labelled, open_tree
from medjax.heart.exporting import anatomy_grid
from medjax.heart.label_maps import Labels, places
from medjax.heart.meshes import unit
from medjax.heart.population import CONDITIONS, person
from medjax.heart.trees import open_cheart
from medjax.progress import say, track
from medjax.train.sets import on_disk

Format = Literal["phantom", "cheart", "ukb", "acdc", "mnms"]
HELD_OUT = 0
"""Population of the held-out phantoms; training seeds begin behind it."""


@dataclasses.dataclass(frozen=True)
class AnatomyConfig:
    """Whose hearts are learned, and how finely."""

    root: Path | None = None
    """Folder of the data set; None: phantoms."""
    format: Format = "phantom"
    """Whose tree it is. Of ``acdc`` and ``mnms`` end-diastole and end-systole are
    labelled, so they want 2 frames."""
    frames: int = 10
    """Of the cycle, from end-diastole on."""
    shape: tuple[int, int, int] = (16, 32, 32)
    """Voxels along z, y and x."""
    spacing: tuple[float, float, float] = (7.0, 4.0, 4.0)
    """Of voxels, mm."""
    people: int = 48
    """Of phantoms: how many to train on."""
    test_people: int = 16
    """How many are held out: of phantoms, or the last of a tree that has no parts."""
    batch_size: int = 4
    """Of the global batch."""
    seed: int = 0
    """Of the training phantoms and the order of rows."""


CHEART = AnatomyConfig(frames=20, shape=(64, 128, 128), spacing=(2.0, 1.25, 1.25))
"""As large as the published ones."""


@dataclasses.dataclass(frozen=True)
class Anatomies:
    """People to learn from, and people held out.

    Attributes:
        name: of the data, for titles.
        train: rows with ``labels`` ``t d h w`` and ``conditions``.
        test: rows of the same.
        valid: people set aside, by whom a state is chosen; None where nobody is.
        filled: people of whom a condition is not known, by its name.
    """

    name: str
    train: ArraySource
    test: ArraySource
    filled: dict[str, int]
    valid: ArraySource | None = None


Person = tuple[UInt8[np.ndarray, "t d h w"], Float[np.ndarray, " c"]]


def open_anatomies(config: AnatomyConfig, *, aside: int = 0) -> Anatomies:
    """The data that the flags describe.

    Args:
        config: phantoms, or a tree.
        aside: how many are set aside, the last of those to train on; of CHeart's tree
            all of the part ``val``, if not 0.

    Raises:
        DataError: where a tree is at fault.
        ValueError: for counts or sizes that are impossible, or a tree without a root.
    """
    least = {"frames": 2, "people": 1, "test_people": 1, "batch_size": 1}
    expect_enough(config, least)
    if min(*config.shape, *config.spacing) <= 0:
        raise ValueError(
            f"data.shape {config.shape} and data.spacing {config.spacing}: expected "
            "positive numbers"
        )
    expect_root(config)
    if config.format == "phantom":
        populations = ((1 + config.seed, config.people), (HELD_OUT, config.test_people))
        expect_somebody(config, config.people + config.test_people, aside)
        parts = [_phantoms(config, *which) for which in populations]
        name = f"{config.people} phantom hearts"
    elif config.format == "cheart":
        parts = _cheart(config, valid=aside > 0)
        name = f"{config.root} (CHeart)"
    else:
        every = _tree(config)
        expect_somebody(config, len(every), aside)
        parts = [every[: -config.test_people], every[-config.test_people :]]
        name = f"{config.root} ({config.format})"
    if aside and config.format != "cheart":
        parts = [parts[0][:-aside], parts[1], parts[0][-aside:]]
    told = [np.stack([c for _, c in part]) for part in parts]
    every = np.concatenate(told)
    absent = np.isnan(every).sum(0)
    known = np.nansum(every, axis=0) / np.maximum(len(every) - absent, 1)
    rows = [
        ArraySource(
            {
                "labels": np.stack([labels for labels, _ in part]),
                "conditions": np.where(np.isnan(c), known, c).astype(np.float32),
            }
        )
        for part, c in zip(parts, told, strict=True)
    ]
    filled = {n: int(k) for n, k in zip(CONDITIONS, absent, strict=True) if k}
    return Anatomies(name, rows[0], rows[1], filled, *rows[2:])


def expect_enough(config: Any, least: Mapping[str, int]) -> None:
    """Refuses counts of a data set that are too small, and a seed below zero.

    Args:
        config: of a data set of this room, with a ``seed``.
        least: the smallest value of some of its fields.

    Raises:
        ValueError: naming the field.
    """
    # Population -1 + 1 would be the held-out one.
    for name, few in {**least, "seed": 0}.items():
        if (found := getattr(config, name)) < few:
            raise ValueError(f"data.{name} is {found}, expected {few} at least")


def expect_root(config: Any) -> None:
    """Refuses a tree without a folder, an address, and a folder of phantoms.

    Args:
        config: of a data set of this room, with ``root`` and ``format``.

    Raises:
        ValueError: naming both.
        DataError: for an address of an object store.
    """
    on_disk(config.root, "data.root")
    if (config.root is None) != (config.format == "phantom"):
        raise ValueError(
            f"data.root is {config.root} and data.format {config.format!r}: a tree "
            "needs both, phantoms neither"
        )


def expect_somebody(config: Any, count: int, aside: int) -> None:
    """Refuses to hold out, and to set aside, everybody that there is.

    Args:
        config: of a data set of this room, with ``test_people`` and ``root``.
        count: people, those held out among them.
        aside: how many of them choose a state.

    Raises:
        ValueError: where nobody is left to train on.
    """
    if count <= config.test_people + aside:
        where = "" if config.root is None else f" in {config.root}"
        also = f" and validation.people {aside}" if aside else ""
        raise ValueError(
            f"data.test-people is {config.test_people}{also} of {count} people{where}: "
            "nobody is left to train on"
        )


def _phantoms(config: AnatomyConfig, population: int, count: int) -> list[Person]:
    grid = anatomy_grid(config.shape, config.spacing)
    times = np.arange(config.frames) / config.frames
    found = []
    for i in track(range(count), "phantoms", count, "hearts"):
        who = person(population, i)
        labels = heart_labels(who.heart, times, grid).astype(np.uint8)
        found.append((labels, np.array(who.conditions)))
    return found


def _cheart(config: AnatomyConfig, *, valid: bool) -> list[list[Person]]:
    """Training people, those of the part ``test`` and, if asked for, of ``val``."""
    assert config.root is not None
    parts: dict[str, list[Person]] = {"train": [], "test": []}
    parts |= {"val": []} if valid else {}
    every = open_cheart(config.root)
    people = [p for p in every if p.part in parts]
    if unread := len(every) - len(people):
        say(
            f"{unread} people of the part 'val' are not read: --validation.keep best "
            "keeps the state that is best for them"
        )
    for one in track(people, "label maps", len(people), "people"):
        labels = one.read()
        if labels.shape[1:] != config.shape:
            raise DataError(
                f"{one.labels[0]}: {labels.shape[1:]} voxels, data.shape is "
                f"{config.shape}"
            )
        if len(labels) < config.frames:
            raise DataError(
                f"{one.labels[0]}: labels of {len(labels)} frames, data.frames is "
                f"{config.frames}"
            )
        labels = labels[nearest_frames(len(labels), config.frames)]
        told = [one.conditions.get(name, np.nan) for name in CONDITIONS]
        parts[one.part].append((labels.astype(np.uint8), np.array(told)))
    for part, found in parts.items():
        if not found:
            raise DataError(f"data.root: {config.root} has nobody in the part {part!r}")
    return list(parts.values())


def _tree(config: AnatomyConfig) -> list[Person]:
    assert config.root is not None and config.format not in ("phantom", "cheart")
    cases = labelled(open_tree(config.root, config.format), config.root)
    found = []
    for case in track(cases, "label maps", len(cases), "people"):
        labels = case.read_labels()
        start = (
            labels.frames.index(case.diastole) if case.diastole in labels.frames else 0
        )
        turned = np.roll(np.arange(len(labels.frames)), -start)
        whole = labels.frames == tuple(range(len(turned)))
        if len(turned) < config.frames or not (whole or len(turned) == 2):
            raise DataError(
                f"{case.name}: labels of {len(turned)} frames, data.frames is "
                f"{config.frames}"
            )
        chosen = turned[nearest_frames(len(turned), config.frames)]
        maps = dataclasses.replace(labels, data=labels.data[chosen])
        told = [case.conditions.get(name, np.nan) for name in CONDITIONS]
        aligned = align(maps, config.shape, config.spacing, case.name)
        found.append((aligned, np.array(told)))
    return found


def nearest_frames(count: int, wanted: int) -> Int[np.ndarray, " t"]:
    """Which of ``count`` frames of a cycle are nearest to ``wanted`` even ones.

    Args:
        count: frames that there are.
        wanted: frames that are asked for; the first is the first.
    """
    return np.floor(np.arange(wanted) * count / wanted + 0.5).astype(int) % count


def align(
    labels: Labels, shape: Sequence[int], spacing: Sequence[float], name: str
) -> UInt8[np.ndarray, "t d h w"]:
    """Label maps of a scan in the frame of the phantom.

    The long axis is that of the slices; its direction, from the smaller to the larger
    end of the left ventricle, and the side of the right ventricle, are the first
    frame's.

    Args:
        labels: of the scan, the first at end-diastole.
        shape: voxels along z, y, x.
        spacing: mm along z, y, x.
        name: of the person, for messages.

    Raises:
        DataError: where the first frame lacks a ventricle.
    """
    first = labels.data[0]
    left, right = (places(first == LABELS[n], labels.affine) for n in ("lv", "rv"))
    if not len(left) or not len(right):
        raise DataError(f"{name}: end-diastole has no label of both ventricles")
    centre = left.mean(0)
    z = unit(labels.affine[:3, 2])
    areas = (first == LABELS["lv"]).sum((0, 1))
    held = np.flatnonzero(areas)
    middle = len(held) // 2
    if areas[held[:middle]].sum() > areas[held[len(held) - middle :]].sum():
        z = -z
    x = right.mean(0) - centre
    x = unit(x - (x @ z) * z)
    y = np.cross(z, x)
    grid = anatomy_grid(tuple(shape), tuple(spacing))
    # The phantom's cavity has its centre of mass at about 60 mm.
    own = np.eye(4)
    own[:3, :3] = np.stack([x, y, z], axis=1)
    own[:3, 3] = centre - own[:3, :3] @ np.array([0.0, 0.0, 60.0])
    moved = Volume(np.moveaxis(labels.data, 0, -1), labels.affine, (1.0, 1.0, 1.0))
    there = resample(moved, Grid(grid.shape, own @ grid.affine), interpolation="labels")
    return np.moveaxis(there.data, -1, 0).astype(np.uint8)


def training_batches(rows: Source, *, batch_size: int, seed: int) -> grain.IterDataset:
    """The endless stream of batches of this process.

    Args:
        rows: people, or people at frames.
        batch_size: of the global batch.
        seed: of the order of rows.

    Raises:
        ValueError: where there are fewer rows than a batch.
    """
    return build_pipeline(
        rows,
        PipelineConfig(batch_size=batch_size, seed=seed),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
