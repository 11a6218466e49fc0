"""Object-CXR (JF Healthcare, 2020): films with and without foreign objects.

::

    <root>/train.csv, dev.csv, test.csv       (image_name, annotation)
    <root>/train/<image_name>, dev/..., test/...

An annotation is empty, or objects between semicolons: 0 (rectangle), 1 (ellipse) or 2
(polygon), and ``x y`` pairs between blanks, in pixels from the upper left. A rectangle
and an ellipse have the two corners of their box, a polygon all of its corners. Where
there is a test.csv, dev is validated on, as in BenchX; it was published later, and
without it dev is tested on and a validation split drawn from train, as in MGCA (whose
code holds out a tenth, ``--valid 0.1``, and whose followers' tables say 1,600 films,
``--valid 0.2``). Nothing says whose films they are: each is taken for a patient's.

The box of a polygon is the smallest round it; the code of MGCA centres it on the point
that is farthest from the outline, so it is larger there.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medjax.data.ledger import DataError, Ledger
from medjax.data.tables import read_table
from medjax.vlp.datasets.lesions import Shape
from medjax.vlp.datasets.study import Study, find_one, number

FINDING = "Foreign Object"
KINDS: dict[str, Literal["rectangle", "ellipse", "polygon"]] = {
    "0": "rectangle",
    "1": "ellipse",
    "2": "polygon",
}


@dataclass(frozen=True)
class ObjectCxr:
    """Object-CXR, foreign objects."""

    root: Path
    """Folder with train.csv, dev.csv, test.csv if there is one, and the films."""

    name = "object_cxr"
    has_text = False

    def read(self, ledger: Ledger) -> list[Study]:
        """One study per row, with the outline and the box of every object."""
        what = "an Object-CXR folder"
        tables = {
            part: find_one(self.root, [f"{part}.csv"], what)
            for part in ("train", "dev")
        }
        later = self.root / "test.csv"
        if later.is_file():
            tables["test"] = later
        splits = {"dev": "valid" if "test" in tables else "test", "test": "test"}
        studies: list[Study] = []
        for part, table in tables.items():
            rows = read_table(table, ["image_name", "annotation"], ledger=ledger)
            ledger.count(f"rows in {table.name}", len(rows))
            for line, row in rows:
                try:
                    shapes = outlines(row["annotation"])
                except DataError as error:
                    ledger.fault(f"{table.name}:{line}", str(error))
                    continue
                name = f"{part}/{Path(row['image_name']).stem}"
                studies.append(
                    Study(
                        id=name,
                        patient=name,
                        image=self.root / part / row["image_name"],
                        labels={FINDING: float(bool(shapes))},
                        split=splits.get(part, ""),
                        boxes=tuple(shape.box for shape in shapes),
                        lesions={FINDING: shapes} if shapes else {},
                    )
                )
        return studies


def outlines(annotation: str) -> tuple[Shape, ...]:
    """The objects of an annotation.

    Raises:
        DataError: Saying which of them is damaged and how, without its text.
    """
    if not annotation:
        return ()
    parts = annotation.split(";")
    return tuple(_outline(f"object {n}", part) for n, part in enumerate(parts, 1))


def _outline(where: str, text: str) -> Shape:
    first, *words = text.split() or [""]
    if first not in KINDS:
        raise DataError(
            f"{where}: expected 0 (rectangle), 1 (ellipse) or 2 (polygon) and x y pairs"
        )
    kind = KINDS[first]
    wanted = "an even number, 6 or more" if kind == "polygon" else "4"
    whole = len(words) >= 6 and len(words) % 2 == 0
    if not (whole if kind == "polygon" else len(words) == 4):
        raise DataError(
            f"{where}: {kind} of {len(words)} coordinates, expected {wanted}"
        )
    found = [number(where, kind, word) for word in words]
    shape = Shape(kind, tuple(zip(found[::2], found[1::2], strict=True)))
    turned = kind != "polygon" and not (found[0] < found[2] and found[1] < found[3])
    if turned or min(shape.box[2:]) <= 0:
        more = "" if kind == "polygon" else ": expected x1 < x2 and y1 < y2"
        raise DataError(f"{where}: {kind} that encloses nothing{more}")
    return shape
