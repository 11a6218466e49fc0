"""What a run that follows meshes leaves: scores in lines, a page with moving hearts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from medjax.heart.aha import cavity_axis
from medjax.heart.bullseye import bullseye_cards
from medjax.heart.generation_report import lines
from medjax.heart.meshes import Topology
from medjax.heart.motion_pictures import COLOURS, contoured, moving_pair
from medjax.heart.motion_scores import DIRECTIONS, heart_numbers, truth_numbers
from medjax.heart.subject import Subject
from medjax.report import Card, Report
from medjax.report.run import save_evaluation, training_section
from medjax.train.log import read_metrics

TRACKING = {
    "method": "method",
    "vertex": "vertices, mm",
    "vertex_es": "at end-systole, mm",
    **{name: f"{name}, mm" for name in DIRECTIONS},
    "lv_mae_ml": "LV volume, mL",
    "ef": "EF, points",
    "ef_bias": "EF bias, points",
}
NEVER = {
    "muscle_drift": "muscle volume, largest change",
    "flipped": "triangles turned over",
    "crossed": "walls crossed",
}
"""What muscle does not do."""
STRAIN = {
    "method": "method",
    **{name: f"{name}, points" for name in ("GCS endo", "GLS endo", "GRS")},
    "segments": "17 segments, points",
    **NEVER,
}
CONTOURS = {
    "method": "method",
    "view": "view",
    "contour": "contours, mm",
    "dice": "Dice",
    "missed": "only one there",
    "deepmesh_hd": "DeepMesh HD, mm",
    "deepmesh_mcd": "DeepMesh MCD, mm",
    "deepmesh_boundf": "DeepMesh BoundF",
    "deepmesh_dropped": "planes dropped by it",
}


MEANS = (
    "Means over the left ventricle's vertices, all frames after end-diastole and all "
    "people; along the wall's normal, around the heart and along it."
)
TRUTHS = {
    "known": "Vertices are material points, so where each of them should be is known. "
    f"Sections of walls with image planes hardly show motion around the heart. {MEANS}",
    "meshes fitted to labels": "What stands for the truth are meshes fitted to label "
    "maps. They know where walls are, not how muscle slides along itself: of the "
    "errors of vertices only the one along the normal means something, and strain is "
    f"that of the fit. Views without labels have no scores. {MEANS}",
    "contours": "Where vertices are after end-diastole is not known, only contours of "
    "walls on some planes are: vertices, volumes and strain have no scores.",
}
"""What the data know of a heart's motion."""


class Shown(NamedTuple):
    """One person for the page.

    Attributes:
        subject: the truth.
        found: vertices that were followed.
        topology: of both.
    """

    subject: Subject
    found: Float[np.ndarray, "t n 3"]
    topology: Topology


def show(
    workdir: Path, results: Mapping[str, Any], shown: Shown, *, title: str
) -> Path:
    """Prints the scores, and writes ``evaluation.json`` and ``report.html``.

    Args:
        workdir: folder of the run.
        results: all scores.
        shown: the person that is drawn.
        title: of the page.

    Returns:
        Path of the page.
    """
    save_evaluation(workdir, results)
    print(f"\n{results['people']['test']} held-out people; {results['data']}")
    if results["truth"] != "contours":
        print(lines(results["tracking"], TRACKING))
    print(lines(results["contours"], CONTOURS))
    page = report(workdir, results, shown, title=title)
    return page.save(workdir / "report.html")


def report(
    workdir: Path, results: Mapping[str, Any], shown: Shown, *, title: str
) -> Report:
    """The page: headline, training, errors, one person in motion."""
    rows = _metrics(workdir)
    steps = f"{rows[-1]['step']} steps, " if rows else ""
    count = results["people"]["test"]
    page = Report(title, f"{steps}{count} held-out people; {results['data']}")
    page.numbers(_headline(results))
    if (short := cut_short(workdir)) > 0:
        page.notice(
            f"On up to {short:.1%} of planes there was more of the mesh than there is "
            "room for: what the loss said of them is wrong. Raise size and reach of "
            "the loss or, of projected vertices, top."
        )
    if results["frames"] > 2 and results["frames_uneven"] > 1e-3:
        page.text(
            f"{results['frames']} frames a person, as they were scanned, the nearest "
            f"to even times: up to {results['frames_uneven']:.1%} of the cycle away. "
            "Nothing is interpolated, since label maps cannot be."
        )
    if rows:
        training_section(page, rows)
    _errors(page, results)
    _person(page, shown)
    return page


def _headline(results: Mapping[str, Any]) -> dict[str, tuple[float | str, str]]:
    still, ours = results["tracking"]
    size = (f"{results['parameters']:,}", "of all stages")
    if results["truth"] == "contours":
        rows = [row for row in results["contours"] if row["view"] == "sax"]
        return {
            f"{name}, short axis": (
                rows[1][key],
                f"at end-systole; without motion: {rows[0][key]:.2f}",
            )
            for key, name in (("contour", "contours, mm"), ("dice", "Dice"))
        } | {"parameters": size}
    return {
        "vertices, mm": (ours["vertex"], f"without motion: {still['vertex']:.2f}"),
        "EF, points": (ours["ef"], f"bias {ours['ef_bias']:+.1f}"),
        "LV volume, mL": (ours["lv_mae_ml"], "mean over later frames"),
        "parameters": size,
    }


def cut_short(workdir: Path) -> float:
    """The largest share of planes with too little room in training, of both stages
    where there are two; 0 where all had enough.

    Args:
        workdir: folder of the run.
    """
    rows = [*_metrics(workdir), *_metrics(workdir / "ed")]
    every = (v for row in rows for k, v in row.items() if k.startswith("overflow"))
    return max(every, default=0.0)


def _metrics(folder: Path) -> list[dict[str, Any]]:
    return read_metrics(folder) if (folder / "metrics.jsonl").exists() else []


def _errors(page: Report, results: Mapping[str, Any]) -> None:
    page.section("Errors")
    page.text(TRUTHS[results["truth"]])
    rows = results["tracking"]
    if results["truth"] == "contours":
        columns = {"method": "method", **NEVER}
        page.table(_named(rows, columns), caption="what muscle does not do")
    else:
        page.table(_named(rows, TRACKING), caption="vertices and volumes")
        told = "strain at end-systole, and what muscle does not do"
        page.table(_named(rows, STRAIN), caption=told)
    page.text(
        "Contours at end-systole. DeepMesh's own scores take the vertices that are "
        "nearly on a plane for the contour, and leave a plane without any out of the "
        "mean: the share of these stands behind them."
    )
    page.table(_named(results["contours"], CONTOURS))


def _named(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]
) -> list[dict[str, Any]]:
    return [{text: row.get(key) for key, text in columns.items()} for row in rows]


def _person(page: Report, shown: Shown) -> None:
    """One person: the moving mesh, volumes, contours and segments."""
    subject, found, topology = shown
    page.section("A held-out person")
    true, septum = np.asarray(subject.vertices), np.asarray(subject.septum)
    apex, base = cavity_axis(true[0], topology)
    rows = (true, found) if subject.followed else (found,)
    moving = moving_pair(rows, topology, base - apex, septum)
    above = "the truth above, the mesh that was followed below"
    page.picture(moving, above if subject.followed else "the mesh that was followed")
    numbers, strain = heart_numbers(found, topology, septum)
    systole, wanted, known = truth_numbers(subject, topology)
    lines_of = {} if wanted is None else {"truth": wanted.curves["lv"]}
    lines_of["found"] = numbers.curves["lv"]
    curves = [
        {"share of the cycle": float(subject.times[t])}
        | {name: float(curve[t]) for name, curve in lines_of.items()}
        for t in range(len(true))
    ]
    page.curves("left ventricle, mL", curves, x="share of the cycle")
    page.gallery(
        _contours(subject, found, topology, systole),
        caption="green: truth; orange: followed",
    )
    if wanted is None:
        return
    if known is None or strain is None:
        page.text("The mesh that was followed is torn: it has no strain.")
    elif known.segments is not None and strain.segments is not None:
        cards = bullseye_cards(
            100 * known.segments, 100 * strain.segments, low=-40, high=0, reach=15
        )
        page.gallery(cards, caption="circumferential strain at end-systole, %")


def _contours(
    subject: Subject,
    found: Float[np.ndarray, "t n 3"],
    topology: Topology,
    systole: int,
) -> list[Card]:
    """A slice in the middle and both long-axis views, at end-diastole and systole."""
    slices = len(subject.planes) - 2
    views = {"short axis": slices // 2, "2CH": slices, "4CH": slices + 1}
    cards = []
    for end, frame in (("ED", 0), ("ES", systole)):
        for name, p in views.items():
            meshes = [(found[frame], COLOURS["found"])]
            points = None
            if subject.followed:
                truth = np.asarray(subject.vertices[frame])
                meshes.insert(0, (truth, COLOURS["truth"]))
            else:
                points = subject.contours[frame, p][subject.contour_mask[frame, p] > 0]
            picture = contoured(
                subject.images[frame][p],
                subject.planes[p],
                topology,
                meshes,
                points=points,
            )
            cards.append(Card(picture, f"{name}, {end}"))
    return cards
