"""Images to segment: files, folders and patterns, channels put together.

In folders, what is named as a label map is none: ``a_gt``, ``P001-1-ED-label``,
``sub-1_msk``, and all below ``labelsTr`` or ``derivatives``.
"""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from medjax.data.boundary import DataError, in_short
from medjax.data.ledger import Ledger
from medjax.segmentation.datasets.case import without_suffix

DRAWN = re.compile(r"(.*[_-])?(gt|labels?|msk|mask|d?seg)\d*", re.IGNORECASE)
"""Names of files that are label maps."""
DRAWN_IN = re.compile(r"labels?(tr|ts|val?)?|labels[_-].*|derivatives", re.IGNORECASE)
"""Names of folders that hold them."""


def find_images(
    given: Sequence[str], channels: int, ledger: Ledger | None = None
) -> list[tuple[Path, ...]]:
    """The files of each image, sorted by name.

    Args:
        given: NIfTI files, folders (searched to their depth, but not for label maps) or
            patterns.
        channels: Of the network. Files of several channels end in ``_0000``,
            ``_0001`` …; a file without a number holds them all, and so does each file
            of a row that has no ``_0000``: its number is of a patient.
        ledger: Counts what is left out of folders.

    Raises:
        DataError: If nothing is found, two images would have one name, or a channel is
            missing.
    """
    files: list[Path] = []
    there, drawn = 0, 0
    for name in given:
        path = Path(name)
        if path.is_dir():
            hidden = (p for p in sorted(path.rglob("*.nii*")) if p.is_file())
            shown = [p for p in hidden if not p.name.startswith(".")]
            kept = [p for p in shown if not is_drawn(p.relative_to(path))]
            files += kept
            there, drawn = there + len(kept), drawn + len(shown) - len(kept)
        elif path.is_file():
            files.append(path)
        else:
            files += [Path(p) for p in sorted(glob.glob(name, recursive=True))]
    if drawn and ledger is not None:
        ledger.count("files in folders, but for label maps", there, drawn)
    if not files:
        but = f" but {drawn} files named as label maps" if drawn else ""
        raise DataError(f"images: found none in {in_short(given)}{but}")
    by: dict[str, dict[int, Path]] = {}
    stems = [without_suffix(path) for path in files]
    begun = {stem[:-5] for stem in stems if stem.endswith("_0000")}
    for path, stem in zip(files, stems, strict=True):
        numbered = re.fullmatch(r"(.+)_(\d{4})", stem)
        name, number = stem, 0
        if numbered is not None and numbered[1] in begun:
            name, number = numbered[1], int(numbered[2])
        if by.setdefault(name, {}).setdefault(number, path) != path:
            raise DataError(f"images: {by[name][number]} and {path} have one name")
    lacking = [name for name, found in by.items() if len(found) not in (1, channels)]
    if lacking:
        raise DataError(
            f"images: {in_short(lacking)} have another number of files than the "
            f"{channels} channels"
        )
    return [tuple(found[i] for i in sorted(found)) for _, found in sorted(by.items())]


def is_drawn(path: Path) -> bool:
    """Whether a file is named as a label map.

    Args:
        path: Of the file, from the folder that was named.
    """
    folders = any(DRAWN_IN.fullmatch(part) for part in path.parts[:-1])
    return folders or DRAWN.fullmatch(without_suffix(path)) is not None
