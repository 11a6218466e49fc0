"""Towers to start from: of a run of this library, of another's checkpoint, of a hub."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax

from medjax.data.boundary import reading
from medjax.data.documents import read_json, revive
from medjax.data.images import ResizeMode
from medjax.train.checkpoint import load_variables, saved_steps
from medjax.train.record import RECORD, read_family
from medjax.train.stopping import best_step
from medjax.train.system import System
from medjax.typing import Variables
from medjax.vlp.augment import AUGMENTATIONS, AugmentConfig
from medjax.vlp.export import PREPARATION, Preparation
from medjax.vlp.finetuned import FAMILY, ClassifierRecord
from medjax.vlp.systems import PairRecord
from medjax.vlp.towers import ImageTowerConfig, TextTowerConfig, load_towers
from medjax.weights import checkpoint_digest

WHAT = "preparation of exported towers"


class Start(NamedTuple):
    """A tower to start from."""

    image: ImageTowerConfig
    augment: AugmentConfig
    image_size: int
    resize: ResizeMode
    variables: Variables
    """Of the tower alone, as part of a system's; empty: a checkpoint to be read."""
    identity: str


def find_start(named: str, image: ImageTowerConfig, size: int | None = None) -> Start:
    """The tower that a command names.

    Args:
      named: folder of a run, folder of exported towers or its ``image``, safetensors
        file or folder, or hub id.
      image: the tower, where that is neither run nor exported, which say it themselves.
      size: side of the films that it is to see; None: as in its own training.

    Raises:
      ValueError: it names none.
      DataError: a run or towers whose record is damaged, or a system without such a
        tower.
    """
    if not named:
        raise ValueError(
            "start: name what to start from: the folder of a run, a safetensors file "
            "or folder, or a hub id such as timm/resnet50.tv_in1k"
        )
    return seeing(_found(named, image), size)


def seeing(start: Start, size: int | None) -> Start:
    """The same tower on films of another size; None: as in its own training."""
    if size is None:
        return start
    augment = dataclasses.replace(start.augment, size=size, upsample=None)
    return start._replace(augment=augment, image_size=size)


def foreign(image: ImageTowerConfig, identity: str) -> Start:
    """A tower that no record of this library describes: films as MGCA has them."""
    return Start(image, AUGMENTATIONS["eval"], 256, "mgca", {}, identity)


def _found(named: str, image: ImageTowerConfig) -> Start:
    """As its record has it."""
    folder = Path(named)
    for exported in (folder, folder.parent):
        if folder not in (exported, tower := exported / "image"):
            continue
        if (exported / PREPARATION).is_file() and tower.is_dir():
            return _exported(exported, image)
    if not (folder / RECORD).is_file():
        image = dataclasses.replace(image, checkpoint=named)
        return foreign(image, checkpoint_digest(named))
    if read_family(folder) == FAMILY:
        mine = ClassifierRecord.load(folder)
        step, known = best_step(folder, mine.stopping), mine.system.augment
        image, size, resize = mine.image, mine.image_size, mine.resize
    else:
        pair = PairRecord.load(folder)
        steps, known = saved_steps(folder), pair.system.augment
        if not steps:
            raise ValueError(f"start: {folder} has no checkpoint yet: train it first")
        step, image = steps[-1], pair.image
        size, resize = pair.image_size, pair.resize
    whole = load_variables(folder, step=step)
    part = {k: {"image": v["image"]} for k, v in whole.items() if "image" in v}
    image = dataclasses.replace(image, checkpoint=None, statistics="global")
    return Start(image, known, size, resize, jax.device_get(part), f"{folder}@{step}")


def _exported(folder: Path, image: ImageTowerConfig) -> Start:
    """The image tower of :mod:`medjax.vlp.export`."""
    path, weights = folder / PREPARATION, str(folder / "image")
    content = read_json(path, WHAT)
    with reading(path, WHAT):
        how = revive(Preparation, content)
        architecture = {"architecture": how.architecture, "checkpoint": weights}
        tower = {**dataclasses.asdict(image), **architecture}
        image, seen = revive(ImageTowerConfig, tower), how.seen()
    digest = checkpoint_digest(weights)
    return Start(image, seen, how.image_size, how.resize, {}, digest)


def load_tower(system: System, image: ImageTowerConfig) -> Variables:
    """The weights of a checkpoint."""
    shapes = jax.eval_shape(system.init, jax.random.key(0), {})
    return load_towers(shapes, image, TextTowerConfig())
