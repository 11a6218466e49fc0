"""A run fine-tuned for places, opened from its folder: masks or boxes on any film.

>>> model = medjax.load("runs/lesions")                # doctest: +SKIP
>>> model.masks(["a.png", "b.dcm"])                    # doctest: +SKIP
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from medjax.data.images import ResizeMode
from medjax.metrics.detection import Detections
from medjax.train.checkpoint import load_variables
from medjax.train.mesh import MeshConfig, make_mesh
from medjax.train.record import load_record, save_record
from medjax.train.sharding import replicated
from medjax.train.stopping import StoppingConfig
from medjax.vlp.applied import Applied
from medjax.vlp.detector import DetectorConfig, detector
from medjax.vlp.finetuned import best_step
from medjax.vlp.place_system import PlaceSystem
from medjax.vlp.segmenter import SegmenterConfig, segmenter
from medjax.vlp.towers import ImageTowerConfig

FAMILIES: Mapping[str, type] = {
    "lesion_masks": SegmenterConfig,
    "lesion_boxes": DetectorConfig,
}
"""The class of a system's settings, by what it finds."""


@dataclasses.dataclass(frozen=True)
class PlaceRecord:
    """What ``system.json`` holds of a run that finds places.

    Attributes:
        system: what was trained.
        image: the tower.
        image_size: side of the square films it was trained on.
        resize: how a film becomes that square.
        findings: whose places; empty: of all lesions.
        stopping: which validation score chose the weights.
        start: what the tower started from.
        data: what it was trained on, for titles.
        can: what the system can do, the names of its ``apply``.
    """

    system: SegmenterConfig | DetectorConfig
    image: ImageTowerConfig
    image_size: int
    resize: ResizeMode
    findings: tuple[str, ...]
    stopping: StoppingConfig
    start: str
    data: str
    can: tuple[str, ...] = ()

    def build(self) -> PlaceSystem:
        """The system."""
        if isinstance(self.system, SegmenterConfig):
            return segmenter(self.system, self.image)
        return detector(self.system, self.image)

    def save(self, workdir: Path) -> None:
        """Writes ``system.json`` into a run's folder."""
        family = next(k for k, kind in FAMILIES.items() if type(self.system) is kind)
        # Where its weights came from is another machine's business: they are here.
        here = dataclasses.replace(self.image, checkpoint=None)
        save_record(workdir, family, dataclasses.replace(self, image=here))

    @classmethod
    def load(cls, workdir: Path) -> "PlaceRecord":
        """Reads ``system.json``.

        Raises:
            FileNotFoundError: where there is none.
            DataError: where it is damaged, of another version, or of no such run.
        """
        return load_record(workdir, cls, dict(FAMILIES))


@dataclasses.dataclass(frozen=True)
class Places(Applied):
    """What finds lesions on films; see `Applied`."""

    record: PlaceRecord
    system: PlaceSystem

    def masks(
        self, images: Sequence[str | Path] | np.ndarray, *, batch_size: int = 64
    ) -> Float[np.ndarray, "n h w"]:
        """How probably each pixel is of a lesion.

        Args:
            images: Files of any kind that training reads, or uint8 films
                ``[n, size, size]`` prepared already.
            batch_size: Films at a time.

        Returns:
            float32 in [0, 1], of the size that the tower sees.

        Raises:
            DataError: For a file that cannot be read.
            ValueError: For a run that finds boxes, or an array that is no stack of
                prepared films.
        """
        return self._found("mask", SegmenterConfig, images, batch_size)

    def boxes(
        self, images: Sequence[str | Path] | np.ndarray, *, batch_size: int = 64
    ) -> list[Detections]:
        """Boxes round lesions, the surest first.

        Args:
            images: As for `masks`.
            batch_size: Films at a time.

        Returns:
            Of each film, x0 y0 x1 y1 in pixels of the square film and how sure each is.

        Raises:
            DataError: For a file that cannot be read.
            ValueError: For a run that finds masks, or an array that is no stack of
                prepared films.
        """
        return detections(self._found("boxes", DetectorConfig, images, batch_size))

    def _found(
        self,
        what: str,
        kind: type,
        images: Sequence[str | Path] | np.ndarray,
        batch_size: int,
    ) -> np.ndarray:
        if not isinstance(self.record.system, kind):
            raise ValueError(f"{self.folder} was not fine-tuned for {what}")
        return self.image_rows("find", images, batch_size)


def detections(found: Float[np.ndarray, "b n 5"]) -> list[Detections]:
    """Boxes and scores of each film, without those that were not sure enough."""
    rows = found.astype(np.float64)
    return [Detections(r[r[:, 4] > 0, :4], r[r[:, 4] > 0, 4]) for r in rows]


def open_places(folder: str | Path) -> Places:
    """Opens a run that finds places, at its best checkpoint.

    Raises:
        FileNotFoundError: Where the folder is not a run's.
        DataError: Where what the run says of itself is damaged.
        ValueError: Where there is no checkpoint.
    """
    folder = Path(folder)
    record = PlaceRecord.load(folder)
    step = best_step(folder, record.stopping)
    mesh = make_mesh(MeshConfig(), devices=jax.local_devices())
    return Places(
        folder=folder,
        record=record,
        step=step,
        system=record.build(),
        variables=load_variables(folder, step=step, sharding=replicated(mesh)),
        mesh=mesh,
    )
