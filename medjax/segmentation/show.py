"""The page that a segmentation run leaves: scores, overlays, what training saw."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Integer, UInt8

from medjax.report.page import Card, Report
from medjax.report.picture import HEAT, coloured, enlarged, grey, outlined, overlay
from medjax.report.run import save_evaluation, training_section
from medjax.segmentation.evaluate import Shown
from medjax.segmentation.lesionmix.augmentation import Mixer
from medjax.segmentation.sampling import Patches
from medjax.segmentation.system import SegmentationConfig, augmented
from medjax.train.log import read_metrics
from medjax.typing import Batch, Key

TABLE = {
    "structure": "structure",
    "dice": "Dice",
    "dice_sd": "SD",
    "hd95_monai": "HD95 (MONAI), mm",
    "assd_pooled": "ASSD (pooled), mm",
    "nsd_voxels": "surface Dice",
    "volume_error_ml": "volume error, mL",
    "volume_error_ml_absolute": "its size, mL",
    "volume_error": "of the true volume",
    "volume_error_n_undefined": "without one",
    "n": "cases",
    "n_both_empty": "empty in both",
    "n_missed": "missed",
    "n_false": "false",
    "lesion_sensitivity": "lesions found",
    "lesion_ppv": "found are true",
    "lesion_f1": "lesion F1",
}

LESIONS = {
    "lesions": "lesions",
    "found": "found",
    "false": "false",
    "sensitivity": "found of them",
    "ppv": "found are true",
    "f1": "F1",
}


def show(
    workdir: Path,
    results: Mapping[str, Any],
    shown: Sequence[Shown],
    augmented: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    title: str,
    subtitle: str,
) -> Path:
    """Writes ``evaluation.json`` and ``report.html``.

    Args:
        workdir: Folder of the run.
        results: Of :func:`medjax.segmentation.evaluate.evaluate`.
        shown: Cases.
        augmented: Patches before and after augmentation, as pictures.
        title: Of the page.
        subtitle: Under it.
    """
    save_evaluation(workdir, results)
    page = Report(title, subtitle)
    rows = results["scores"]
    page.numbers(
        {
            f"Dice, {row['structure']}": (row["dice"], f"{row['n']} held-out cases")
            for row in rows
        }
    )
    page.table(
        [{name: row[key] for key, name in TABLE.items()} for row in rows],
        caption="Means over held-out cases on their own grid. A structure that one "
        "side lacks has Dice 0 and the image's diagonal for a distance; one that both "
        "lack has Dice 1 and distance 0. Volume errors are predicted minus true; there "
        "is no share of a volume that is 0.",
        bars={"Dice": (0.0, 1.0)},
    )
    page.table(
        [
            {"structure": row["structure"], "size, mm³": _size(row)}
            | {name: row.get(key) for key, name in LESIONS.items()}
            for row in results["lesions"]
        ],
        caption="Connected components by size: those of the truth and whether they "
        "were found, false ones by their own. The smallest are counted and left out.",
    )
    page.section("Held-out cases")
    page.gallery([card for case in shown for card in cards(case)])
    page.section("What training sees")
    page.gallery(
        [
            card
            for number, (before, after) in enumerate(augmented)
            for card in (
                Card(enlarged(before), f"patch {number}, before"),
                Card(enlarged(after), f"patch {number}, after augmentation"),
            )
        ],
        caption="Sources of patches and the patches that are made of them; outlines "
        "are labels.",
    )
    training_section(page, read_metrics(workdir))
    page.section("Every case")
    page.table(results["cases"])
    return page.save(workdir / "report.html")


def _size(row: Mapping[str, Any]) -> str:
    """A bin of sizes in words."""
    if row["below"] is None:
        return f"{row['from']:g} and more"
    return f"{row['from']:g} to {row['below']:g}"


def cards(case: Shown) -> list[Card]:
    """Truth, prediction and entropy of the slice that holds most of the truth."""
    there = (case.truth > 0).sum(axis=(0, 1))
    place = int(np.argmax(there)) if there.any() else case.truth.shape[2] // 2
    image = upright(case.image.data[..., place])
    low, high = np.percentile(image, [1, 99])
    base = grey(image, float(low), float(high))
    truth = upright(case.truth[..., place])
    said = upright(case.found.labels.data[..., place]).astype(np.int32)
    name = case.found.id
    pictures = [
        Card(
            enlarged(outlined(base, truth)),
            f"{name}: truth",
            [(f"slice {place}, {int(there[place])} voxels", None)],
        ),
        Card(
            enlarged(outlined(base, said)),
            "prediction",
            [(f"mean Dice {case.dice:.3f}", None)],
        ),
    ]
    if "entropy" in case.found.maps:
        entropy = upright(case.found.maps["entropy"].data[..., place])
        heat = overlay(base, entropy / max(float(entropy.max()), 1e-6), HEAT)
        most = f"entropy, at most {float(entropy.max()):.2f} nats"
        pictures.append(Card(enlarged(heat), most))
    return pictures


def before_and_after(
    settings: SegmentationConfig,
    batch_size: int,
    patches: Patches,
    mixer: Mixer | None,
    *,
    count: int = 4,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pictures of sources and of the patches that training makes of them.

    Args:
        settings: Of the system.
        batch_size: Of training.
        patches: The sources.
        mixer: What mixes them first, if anything does.
        count: How many.
    """
    rows = [
        patches.cut({"index": batch_size - 1}, np.random.default_rng(i))
        for i in range(count)
    ]
    batch = {key: np.stack([row[key] for row in rows]) for key in rows[0]}

    def made(batch: Batch, key: Key) -> Any:
        if mixer is not None:
            batch = mixer.mixed(batch, mixer.collection, key)
        return augmented(batch, key, settings)

    images, labels = jax.jit(made)(batch, jax.random.key(0))
    return [
        (
            patch_picture(row["image"], row["label"]),
            patch_picture(np.asarray(image), np.asarray(label)),
        )
        for row, image, label in zip(rows, images, labels, strict=True)
    ]


def patch_picture(
    image: Float[np.ndarray, "*s c"], label: Integer[np.ndarray, "*s"]
) -> UInt8[np.ndarray, "h w 3"]:
    """A patch of two or three axes with its labels: the slice that holds most."""
    image = image[..., 0]
    if image.ndim == 3:
        place = int(np.argmax((label > 0).sum(axis=(1, 2))))
        image, label = image[place], label[place]
    low, high = np.percentile(image, [1, 99])
    if not high > low:
        return coloured(np.zeros(image.shape), HEAT)
    return outlined(grey(image, float(low), float(high)), label)


def upright(plane: np.ndarray) -> np.ndarray:
    """A plane of a volume as one looks at it: its second axis upwards."""
    return np.ascontiguousarray(plane.T[::-1])
