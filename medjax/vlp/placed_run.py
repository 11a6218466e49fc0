"""A run fine-tuned for places, opened from its folder: masks or boxes on any film.

>>> model = medjax.load("runs/lesions")                # doctest: +SKIP
>>> model.masks(["a.png", "b.dcm"])                    # doctest: +SKIP
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from medjax.metrics.detection import Detections
from medjax.vlp.applied import Applied
from medjax.vlp.detector import DetectorConfig, detector
from medjax.vlp.place_system import PlaceSystem
from medjax.vlp.segmenter import SegmenterConfig, segmenter
from medjax.vlp.towers import ImageTowerConfig
from medjax.vlp.tuned import TunedRecord, open_best

FAMILIES: Mapping[str, type] = {
    "lesion_masks": SegmenterConfig,
    "lesion_boxes": DetectorConfig,
}
"""The class of a system's settings, by what it finds."""


def finder(
    system: SegmenterConfig | DetectorConfig, image: ImageTowerConfig
) -> PlaceSystem:
    """What finds places on a tower."""
    if isinstance(system, SegmenterConfig):
        return segmenter(system, image)
    return detector(system, image)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlaceRecord(TunedRecord):
    """What ``system.json`` holds of a run that finds places."""

    families: ClassVar[Mapping[str, type]] = FAMILIES
    system: SegmenterConfig | DetectorConfig

    def build(self) -> PlaceSystem:
        """The system."""
        return finder(self.system, self.image)


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
    return open_best(Places, folder, PlaceRecord.load(folder))
