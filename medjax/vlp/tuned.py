"""What any fine-tuned run says of itself, and how it is opened at its best."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import jax

from medjax.data.images import ResizeMode
from medjax.train.checkpoint import load_variables
from medjax.train.mesh import MeshConfig, make_mesh
from medjax.train.record import load_record, save_record
from medjax.train.sharding import replicated
from medjax.train.stopping import StoppingConfig, best_step
from medjax.vlp.applied import Applied
from medjax.vlp.towers import ImageTowerConfig

R = TypeVar("R", bound="TunedRecord")
A = TypeVar("A", bound=Applied)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TunedRecord:
    """What ``system.json`` holds of a fine-tuned run.

    Attributes:
        system: what was trained; of one of the families.
        image: the tower.
        image_size: side of the square films it was trained on.
        resize: how a film becomes that square.
        findings: names of what it predicts, or whose places it finds; of places, empty
            says all lesions.
        stopping: which validation score chose the weights.
        start: what the tower started from.
        data: what it was trained on, for titles.
        can: what the system can do, the names of its ``apply``.
        generators: what made the films it was trained on of their reports; empty:
            they were taken.
    """

    families: ClassVar[Mapping[str, type]] = {}
    """The class of a system's settings, by the name in ``system.json``."""

    system: Any
    image: ImageTowerConfig
    image_size: int
    resize: ResizeMode
    findings: tuple[str, ...]
    stopping: StoppingConfig
    start: str
    data: str
    can: tuple[str, ...] = ()
    generators: tuple[Mapping[str, Any], ...] = ()

    def save(self, workdir: Path) -> None:
        """Writes ``system.json`` into a run's folder."""
        kinds = self.families.items()
        family = next(name for name, kind in kinds if type(self.system) is kind)
        # Where its weights came from is another machine's business: they are here.
        here = dataclasses.replace(self.image, checkpoint=None)
        save_record(workdir, family, dataclasses.replace(self, image=here))

    @classmethod
    def load(cls: type[R], workdir: Path) -> R:
        """Reads ``system.json``.

        Raises:
            FileNotFoundError: where there is none.
            DataError: where it is damaged, of another version, or of no such run.
        """
        return load_record(workdir, cls, dict(cls.families))


def open_best(kind: type[A], folder: Path, record: Any) -> A:
    """A fine-tuned run at its best checkpoint, on the devices of this process.

    Args:
        kind: what it is opened as.
        folder: of the run.
        record: what it says of itself.

    Raises:
        ValueError: Where there is no checkpoint.
    """
    step = best_step(folder, record.stopping)
    mesh = make_mesh(MeshConfig(), devices=jax.local_devices())
    return kind(
        folder=folder,
        record=record,
        step=step,
        system=record.build(),
        variables=load_variables(folder, step=step, sharding=replicated(mesh)),
        mesh=mesh,
    )
