"""What was mixed, on a page: loads against their targets, pictures before and after."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from medjax.report import Card, Report
from medjax.report.picture import enlarged, grey, outlined
from medjax.segmentation.lesionmix.populate import VERDICTS


class Shown(NamedTuple):
    """A case before and after, for a picture.

    Attributes:
        name: of the result.
        before: image and lesions of the host.
        after: image and lesions of the result.
        removed: lesions taken away.
    """

    name: str
    before: tuple[np.ndarray, np.ndarray]
    after: tuple[np.ndarray, np.ndarray]
    removed: int


def plane_of(shown: Shown) -> tuple[np.ndarray, ...]:
    """The plane (along the last axis) in which most has changed, rows upwards.

    Returns:
        Image and lesions before, image and lesions after.
    """
    arrays = (*shown.before, *shown.after)
    if arrays[0].ndim == 2:
        return arrays
    changed = np.abs(arrays[2] - arrays[0]).sum(axis=(0, 1))
    return tuple(np.rot90(x[..., int(changed.argmax())]) for x in arrays)


def mixing_report(
    rows: Sequence[dict[str, Any]],
    training_loads: np.ndarray,
    shown: Sequence[Shown],
    *,
    title: str,
    subtitle: str,
    spacing: Sequence[float],
) -> Report:
    """The page.

    Args:
        rows: one per result: ``target``, ``before``, ``load`` (mm^3), ``removed`` and
            the verdicts of slots.
        training_loads: of the cases of the bank, mm^3.
        shown: results to show.
        title: of the page.
        subtitle: one line.
        spacing: voxel size, mm.
    """
    page = Report(title, subtitle)
    columns = {
        key: np.array([row[key] for row in rows], float)
        for key in ("target", "before", "load", "removed", *VERDICTS)
    }
    target, load, before = (columns[k] for k in ("target", "load", "before"))
    more = before < target
    page.numbers(
        {
            "results": (len(rows), f"{int(more.sum())} with lesions put in"),
            "lesions put in": (int(columns["accepted"].sum()), ""),
            "lesions taken away": (int(columns["removed"].sum()), ""),
            "reached, of the target": (
                float(np.median(load[more] / target[more])) if more.any() else "–",
                "median of those that had less",
            ),
        }
    )
    page.section("Loads")
    page.text(
        "A load is drawn from the law; slots run out, or nothing fits any more, before "
        "a case that has little reaches a load that is large. A case that has more "
        "loses whole lesions until it has no more than the target."
    )
    page.histogram(
        "lesion load",
        {"target": target, "reached": load, "training cases": training_loads},
        x="mm³",
    )
    page.table(
        [
            {"slots": name, "lesions": int(columns[name].sum())}
            for name in VERDICTS
            if columns[name].any()
        ],
        caption="what became of the slots",
    )
    page.section("Before and after")
    size = " x ".join(f"{s:g}" for s in spacing)
    page.text(f"One plane of each; voxels of {size} mm. Lesions are outlined.")
    for one in shown:
        _before_after(page, one)
    page.section("Every result")
    page.table(rows)
    return page


def _before_after(page: Report, one: Shown) -> None:
    image, lesion, mixed, label = plane_of(one)
    both = np.stack([image, mixed])
    low, high = (float(x) for x in np.percentile(both, (0.5, 99.8)))
    what = f"{one.removed} lesions taken away" if one.removed else "lesions put in"
    page.before_after(
        np.clip(image, low, high),
        np.clip(mixed, low, high),
        reach=max((high - low) / 2, 1e-6),
        caption=f"{one.name}: {what}",
    )
    cards = [
        Card(
            outlined(enlarged(grey(x, low, high)), enlarged(mask.astype(np.int32))),
            name,
        )
        for name, x, mask in (("before", image, lesion), ("after", mixed, label))
    ]
    page.gallery(cards)
