"""Films with places to learn: masks or boxes of lesions, of any set that has either."""

from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Bool

from medjax.data.boundary import DataError
from medjax.vlp.datasets.lesions import fill, surround, unpack, whose
from medjax.vlp.labelled import Labelled, LabelledFilms
from medjax.vlp.place_system import Kind

COLUMNS = ("lesions", "lesion_findings", "boxes")


class PlacedFilms:
    """Some rows of a prepared set with the places of lesions in memory.

    Attributes:
        kind: What a row brings beside its film: ``mask`` (bool [s, s]) or ``boxes``
            (float32 [most, 4], x0 y0 x1 y1, zeros behind the last).
        masks: Where lesions show, packed, row by row.
        boxes: Boxes round them, row by row.
    """

    def __init__(
        self, part: LabelledFilms, wanted: Sequence[int], *, kind: Kind, size: int
    ) -> None:
        self.part, self.kind, self.size = part, kind, size
        self.ids, self.patients = part.ids, part.patients
        stored = [name for name in COLUMNS if name in part.fields]
        self._packed: list[np.ndarray] = []
        self.boxes: list[np.ndarray] = []
        for row in part.columns_of(stored):
            masked = "lesions" in row
            mask = unpack(row, size, wanted) if masked else fill(row["boxes"], size)
            self.boxes.append(row["boxes"] if "boxes" in row else surround(mask))
            self._packed.append(np.packbits(mask))
        self.most = 0

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, row: SupportsIndex) -> dict[str, Any]:
        index = row.__index__()
        film = self.film(index)
        if self.kind == "mask":
            return {"image": film, "mask": self.mask(index)}
        boxes = np.zeros((self.most, 4), np.float32)
        found = self.boxes[index][: self.most]
        boxes[: len(found)] = found
        return {"image": film, "boxes": boxes}

    def film(self, row: int) -> np.ndarray:
        """uint8 [size, size]."""
        return self.part.film(row)

    def mask(self, row: int) -> Bool[np.ndarray, "s _s"]:
        """Where lesions show."""
        pixels = self.size * self.size
        flat = np.unpackbits(self._packed[row], count=pixels).astype(bool)
        return flat.reshape(self.size, self.size)


def place_films(
    data: Labelled, *, kind: Kind, findings: Sequence[str]
) -> dict[str, PlacedFilms]:
    """The films of all splits with the places of some findings.

    Args:
        data: Opened by its labels.
        kind: What a batch shall bring.
        findings: Whose places; none: all lesions. Boxes that a set keeps are what they
            are, whatever is named.

    Raises:
        DataError: The set says no places, or none of its training films has one.
    """
    fields = data.corpus.metadata["fields"]
    if not ("lesions" in fields or "boxes" in fields):
        raise DataError(
            f"target: {data.corpus.folder} has neither masks nor boxes of lesions; "
            "embedded, RSNA, SIIM and Object-CXR data have them (of earlier versions: "
            "prepare them again), and a table by --mask or --boxes"
        )
    known = data.corpus.findings
    columns = whose(known, findings)
    size = data.corpus.metadata["image_size"]
    parts = {
        split: PlacedFilms(part, columns, kind=kind, size=size)
        for split, part in data.parts.items()
    }
    most = max(len(boxes) for part in parts.values() for boxes in part.boxes)
    for split, part in parts.items():
        part.most = most
        if not any(len(boxes) for boxes in part.boxes):
            raise DataError(
                f"target: no film of the {split} split shows any of "
                f"{[known[k] for k in columns]}"
            )
    return parts
