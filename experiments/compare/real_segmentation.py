"""Segmentation on a few real files: a demonstration, not a comparison.

``python -m experiments.compare.real_segmentation --root DATA`` runs what this library
does to phantoms on real images, on as many as are free to pass on::

    DATA/lesions/open_ms/MNI_patient07_FLAIR.nii.gz   three have images
    DATA/lesions/open_ms/MNI_patient01_GT.nii.gz      thirty have lesion masks
    DATA/lesions/lesymap/Subject_001.nii.gz           masks of strokes
    DATA/heart/ep_dataset/{sa,seg_sa}.nii.gz          the cine of one pig, 20 frames

``masks``  how much lesion these people have, and of which sizes
``ms``     lesions of one patient by a network of slices that was trained on the two
           others, without mixing and with LesionMix; each patient in turn
``fills``  healthy tissue under lesions of other patients, and under strokes, painted
           over and compared with what is there
``cine``   frames 0 to 9 to train on, 10 to 19 scanned again while somebody breathes

Three patients and one pig say how it works and where it breaks; no number of theirs is
one of a method. Every run has a folder of its own: the same command goes on where it
was stopped, and keeps what is finished. ``--publish`` also writes
``experiments/results/compare_real_segmentation.json``.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from experiments.bench.tables import markdown
from experiments.compare import real_fills, real_hearts, real_lesions
from experiments.compare.publishing import (
    asked_for,
    at_least_one,
    command,
    finished,
    keep,
    machine,
)
from medjax.train.launch import LaunchConfig, cpu_devices

Part = Literal["masks", "ms", "fills", "cine"]


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """Which parts, and how much of each."""

    root: Path | None = None
    """Folder of the files, as in the module's text."""
    parts: tuple[Part, ...] = get_args(Part)
    """What is run."""
    steps: int = 300
    """Of ``ms`` and ``cine``: updates of each network."""
    widths: tuple[int, ...] = (8, 16, 32)
    """Channels of its levels."""
    fills: int = 60
    """Of ``fills``: lesions."""
    strokes: int = 6
    """Of ``fills``: strokes."""
    trained_frames: int = 10
    """Of ``cine``: the first ones, to train on; the others are held out."""
    seed: int = 0
    """Of weights, patches, choices and breaths."""
    workdir: Path = Path("runs/compare-real-segmentation")
    """One folder per run in it; the same command goes on."""
    publish: bool = False
    """Write the committed results as well."""
    launch: LaunchConfig = LaunchConfig(cpu_devices=cpu_devices())
    """How this process starts."""


BUDGETS: Mapping[Part, tuple[str, ...]] = {
    "masks": (),
    "ms": ("steps", "widths", "seed"),
    "fills": ("fills", "strokes", "seed"),
    "cine": ("steps", "widths", "trained_frames", "seed"),
}
"""What a part's folders have to have been made with."""


def compare(config: Demonstration) -> dict[str, Any]:
    """Runs what is not finished yet.

    Args:
      config: What to run.

    Returns:
      ``budget``, and the rows of every part.

    Raises:
      ValueError: There is nothing to run, no folder of files is given, or a folder
        holds a run of another budget.
      FileNotFoundError: A part's files are not there.
    """
    at_least_one(config, "parts")
    if config.root is None:
        raise ValueError(
            "root: these are demonstrations on real files; name the folder that holds "
            "lesions/open_ms, lesions/lesymap and heart/ep_dataset"
        )
    root = config.root
    patients, strokes = root / "lesions/open_ms", root / "lesions/lesymap"
    cine = root / "heart/ep_dataset"
    needed: dict[Part, tuple[Path, ...]] = {
        "masks": (patients, strokes),
        "ms": (patients,),
        "fills": (patients, strokes),
        "cine": (cine,),
    }
    absent = [str(p) for part in config.parts for p in needed[part] if not p.is_dir()]
    if absent:
        raise FileNotFoundError(
            f"root: no folder {', '.join(dict.fromkeys(absent))}; leave parts out "
            f"that need them (parts: {', '.join(config.parts)})"
        )
    found: dict[str, Any] = {}
    if "masks" in config.parts:
        found["masks"] = _once(
            "masks",
            "masks",
            config,
            lambda _: real_lesions.described(patients, strokes),
        )
    if "ms" in config.parts:
        found["ms"] = [
            _once(
                "ms",
                f"ms-{method}-{patient}",
                config,
                lambda folder, method=method, patient=patient: real_lesions.held_out(
                    patients,
                    patient,
                    method,
                    steps=config.steps,
                    widths=config.widths,
                    seed=config.seed,
                    workdir=folder,
                ),
            )
            for method in real_lesions.METHODS
            for patient in real_lesions.pictured(patients)
        ]
    if "fills" in config.parts:
        found["fills"] = _once(
            "fills",
            "fills",
            config,
            lambda _: real_fills.compared(
                patients,
                strokes,
                lesions=config.fills,
                large=config.strokes,
                seed=config.seed,
            ),
        )
    if "cine" in config.parts:
        found["cine"] = [
            row
            for arm in real_hearts.ARMS
            for row in _once(
                "cine",
                f"cine-{arm}",
                config,
                lambda folder, arm=arm: real_hearts.disturbed(
                    cine,
                    arm,
                    trained=config.trained_frames,
                    steps=config.steps,
                    widths=config.widths,
                    seed=config.seed,
                    workdir=folder,
                ),
            )
        ]
    names = dict.fromkeys(name for part in config.parts for name in BUDGETS[part])
    budget = dict(zip(names, asked_for(config, [*names]), strict=True))
    return {"budget": budget | machine(), **found}


def _once(
    part: Part, name: str, config: Demonstration, run: Callable[[Path], Any]
) -> Any:
    """What a run came to: from its folder if it is there."""
    folder = config.workdir / name
    names = BUDGETS[part]
    budget = asked_for(config, names)
    known = finished(folder, budget, f"({', '.join(names)})")
    if known is None:
        known = {"budget": budget, "found": run(folder)}
        keep(folder / "result.json", known)
    return known["found"]


def table(results: Mapping[str, Any]) -> str:
    """Every part that was run, in Markdown."""
    told: Mapping[Part, Callable[[Any], list[str]]] = {
        "masks": _masks,
        "ms": _patients,
        "fills": _fills,
        "cine": _frames,
    }
    parts = [tell(results[name]) for name, tell in told.items() if name in results]
    return "\n\n".join(text for part in parts for text in part)


def _masks(found: Mapping[str, Any]) -> list[str]:
    names = [*found]
    percentiles = {
        "load_ml": ("load, mL: 5, 50 and 95 %", "{:.2f}"),
        "sizes_mm3": ("lesions, mm³: 5, 25, 50, 75 and 95 %", "{:.0f}"),
        "sides": ("their longest side, voxels: 50, 75, 90, 95 and 99 %", "{:.0f}"),
    }
    rows = [
        [about, *(str(found[name][key]) for name in names)]
        for key, about in (("masks", "masks"), ("lesions", "lesions"))
    ]
    for key, (about, form) in percentiles.items():
        cells = [" / ".join(map(form.format, found[name][key])) for name in names]
        rows.append([about, *cells])
    shares = [
        " / ".join(f"{100 * share:.1f}" for share in found[name]["shares"])
        for name in names
    ]
    edges = "% below 3, from 3, 10, 50, 250 and 1000 mm³"
    return [markdown(["", *names], [*rows, [edges, *shares]])]


def _patients(rows: list[Mapping[str, Any]]) -> list[str]:
    told = {
        "dice": ("Dice", ".3f"),
        "lesion_f1": ("lesion F1", ".3f"),
        "lesion_sensitivity": ("lesions found", ".3f"),
        "lesion_ppv": ("found are true", ".3f"),
        "hd95_monai": ("HD95 (MONAI), mm", ".1f"),
        "volume_error_ml": ("volume error, mL", "+.1f"),
    }
    lines = [
        [
            real_lesions.METHODS[row["method"]][0],
            row["patient"],
            *(format(row[key], form) for key, (_, form) in told.items()),
        ]
        for row in rows
    ]
    head = ["trained on the two others", "held out", *(n for n, _ in told.values())]
    return [markdown(head, lines)]


def _fills(found: Mapping[str, Any]) -> list[str]:
    head = ["fill"]
    for about, part in found.items():
        head += [f"{part['n']} {about}: RMSE / SD", "from the harmonic limit"]
    rows = [
        [
            about,
            *(
                cell
                for part in found.values()
                for cell in (
                    "{median:.3f} ({mean:.3f})".format(**part["fills"][name]["error"]),
                    f"{part['fills'][name]['from_limit']['median']:.3f}",
                )
            ),
        ]
        for name, (about, _) in real_fills.FILLS.items()
    ]
    return [markdown(head, rows)]


def _frames(rows: list[Mapping[str, Any]]) -> list[str]:
    head = ["trained on", "held-out frames", "mm from line to line"]
    names = [*real_hearts.STRUCTURES]
    head += [f"{name} {what}" for name in names for what in ("Dice", "HD95 mm")]
    lines = [
        [
            real_hearts.ARMS[row["arm"]],
            row["mode"].replace("_", " "),
            f"{row['severity_mm']:.1f}",
            *(
                text
                for name in names
                for text in (f"{row[name]['dice']:.3f}", f"{row[name]['hd95']:.1f}")
            ),
            str(sum(row[name]["n_missed"] for name in names)),
        ]
        for row in rows
    ]
    return [markdown([*head, "missed"], lines)]


def main() -> int:
    """Runs, prints the tables, keeps the numbers."""
    return command("compare_real_segmentation", Demonstration, compare, table, __doc__)


if __name__ == "__main__":
    sys.exit(main())
