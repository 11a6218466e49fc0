"""Segmentation of scans that breathing disturbed: scores by grade, and what is unsure.

Every structure is scored by Dice and by HD95 (medpy's, mm), means are told by the
grade of the scan and by how people were to breathe, and end-diastole and end-systole of
an acquisition give its ejection fraction. The uncertainty of a scan is the mean entropy
within three voxels of what is predicted (of the whole image where nothing is): a mean
over the image is one of its background.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from medjax.data.boundary import DataError
from medjax.data.nifti import Volume
from medjax.progress import Progress
from medjax.segmentation.cmrxmotion.reader import (
    ACQUISITIONS,
    GRADES,
    LABELS,
    PHASES,
    Scan,
    read_scan,
)
from medjax.segmentation.cmrxmotion.scoring import (
    cmrxmotion_task2,
    empty_of_all,
    over_cases,
    score_case,
)
from medjax.segmentation.cmrxmotion.submission import write_segmentation
from medjax.segmentation.pretrained import Segmenter
from medjax.segmentation.uncertainty import image_score

SEGMENTATIONS, TRUTH = "segmentations", "truth"
"""Folders of a run: label maps by segmenter, and those they are scored against."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a segmenter says of a scan.

    Attributes:
        scan: which.
        image: on its grid.
        truth: labels, where there are any.
        said: labels.
        entropy: nats per voxel.
        uncertainty: its mean around the prediction.
        scores: of `.scoring.score_case`; empty without a truth.
    """

    scan: Scan
    image: Volume
    truth: Volume | None
    said: Integer[np.ndarray, "i j k"]
    entropy: Float[np.ndarray, "i j k"]
    uncertainty: float
    scores: dict[str, float]


def answers(
    model: Segmenter, scans: Sequence[Scan], *, out: Path | None = None
) -> list[Answer]:
    """Segments scans, scores them, and writes them as a submission of task 2.

    Args:
        model: a trained segmentation of the challenge's labels.
        scans: any.
        out: folder of the submission; None: nothing is written.
    """
    found = []
    with Progress("segment", len(scans), "scans") as progress:
        for scan in scans:
            image, truth = read_scan(scan)
            segmented = model.segment([image], id=scan.name, maps=("entropy",))
            said = segmented.labels.data.astype(np.int32)
            entropy = segmented.maps["entropy"].data
            scores: dict[str, float] = {}
            if truth is not None:
                scores = score_case(
                    said, truth.data, image.spacing, official=False, name=scan.name
                )
            if out is not None:
                write_segmentation(out, scan.name, said, image)
            around = image_score(entropy, said > 0)
            found.append(Answer(scan, image, truth, said, entropy, around, scores))
            progress.advance()
    return found


def rows_by_grade(arm: str, found: Sequence[Answer]) -> list[dict[str, Any]]:
    """A row for each grade that occurs: Dice and HD95 of every structure.

    Means of structures that some scans lack on a side come with their numbers:
    ``LV_n_missed`` and so on, and ``n_missed``, ... over all structures. The grade of
    an acquisition, of which there is one ejection fraction, is that of its worse phase.

    Args:
        arm: name of the segmenter.
        found: scored answers; those without a truth or a grade are left out.
    """
    graded = [answer for answer in found if answer.scan.grade is not None]
    pairs = acquisitions([answer for answer in found if answer.scores])
    rows = []
    for grade in GRADES:
        those = [answer for answer in graded if answer.scan.grade == grade]
        worst = [p for p in pairs if max(a.scan.grade or 0 for a in p) == grade]
        rows += _row({"trained on": arm, "grade": grade}, those, worst)
    return rows


def rows_by_breathing(arm: str, found: Sequence[Answer]) -> list[dict[str, Any]]:
    """The same for each way of breathing that occurs, whatever came of it.

    Args:
        arm: name of the segmenter.
        found: scored answers; those without a truth are left out.
    """
    rows = []
    for number, mode in ACQUISITIONS.items():
        those = [a for a in found if a.scan.acquisition == number and a.scores]
        known = {"trained on": arm, "breathing": mode.replace("_", " ")}
        rows += _row(known, those, acquisitions(those))
    return rows


def _row(
    known: Mapping[str, Any],
    those: Sequence[Answer],
    pairs: Sequence[tuple[Answer, Answer]],
) -> list[dict[str, Any]]:
    """Means over scored scans, and over acquisitions; none of none."""
    those = [answer for answer in those if answer.scores]
    if not those:
        return []
    row: dict[str, Any] = {**known, "n": len(those)}
    mean, empty = over_cases([a.scores for a in those])
    row |= {key: value for key, value in mean.items() if not key.endswith("_hd")}
    row |= empty | empty_of_all(empty)
    row["dice"] = float(np.mean([row[f"{name}_dice"] for name in LABELS]))
    row["uncertainty"] = float(np.mean([a.uncertainty for a in those]))
    errors = ejection_errors(pairs)
    row["EF error"] = float(np.mean(np.abs(errors))) if errors else float("nan")
    row["acquisitions"] = len(errors)
    return [row]


def acquisitions(found: Sequence[Answer]) -> list[tuple[Answer, Answer]]:
    """Answers to end-diastole and end-systole of what was scanned at both."""
    both: dict[tuple[str, int], dict[str, Answer]] = {}
    for answer in found:
        scan = answer.scan
        both.setdefault((scan.patient, scan.acquisition), {})[scan.phase] = answer
    first, second = PHASES
    return [(by[first], by[second]) for by in both.values() if set(by) == set(PHASES)]


def ejection_errors(pairs: Sequence[tuple[Answer, Answer]]) -> list[float]:
    """Predicted minus true ejection fraction, percent.

    Args:
        pairs: both phases of acquisitions, with truths. Without a cavity at
            end-diastole on either side there is none.
    """
    errors = []
    for pair in pairs:
        said = _fraction([answer.said for answer in pair])
        truths = [answer.truth for answer in pair]
        errors.append(said - _fraction([t.data for t in truths if t is not None]))
    return [error for error in errors if np.isfinite(error)]


def _fraction(labels: Sequence[np.ndarray]) -> float:
    """Ejection fraction, percent, of end-diastole and end-systole; NaN without any."""
    full, empty = (float((each == LABELS["LV"]).sum()) for each in labels)
    return 100.0 * (1.0 - empty / full) if full else float("nan")


def counts(scans: Sequence[Scan]) -> list[dict[str, Any]]:
    """How many scans of each acquisition have which grade: modes are no grades."""
    rows = []
    for number, mode in ACQUISITIONS.items():
        of_mode = [scan.grade for scan in scans if scan.acquisition == number]
        if of_mode:
            by = {f"grade {grade}": of_mode.count(grade) for grade in GRADES}
            rows.append({"breathing": mode.replace("_", " "), **by})
    return rows


def task2_rows(
    found: Mapping[str, Sequence[Answer]], workdir: Path
) -> list[dict[str, Any]]:
    """Scores of written label maps, as the challenge's script counts and as it should.

    Args:
        found: answers by segmenter, written below :data:`SEGMENTATIONS`.
        workdir: folder of the run; truths are written beside them.
    """
    labelled = [a for a in next(iter(found.values())) if a.truth is not None]
    for answer in labelled:
        assert answer.truth is not None
        truth = answer.truth.data.astype(np.int32)
        write_segmentation(workdir / TRUTH, answer.scan.name, truth, answer.image)
    rows = []
    for arm in found if labelled else ():
        for official in (True, False):
            kind = "official" if official else "correct"
            row: dict[str, Any] = {"trained on": arm, "scored": kind}
            try:
                scores = cmrxmotion_task2(
                    workdir / SEGMENTATIONS / arm, workdir / TRUTH, official=official
                )
                row |= scores.mean | {"scans": len(scores.cases)}
                row |= scores.empty | empty_of_all(scores.empty)
            except DataError as error:  # what stops the script
                row["remark"] = str(error)
            rows.append(row)
    return rows


def in_turn(found: Sequence[Answer], count: int) -> list[Answer]:
    """A few answers to show, the first of every grade before the second of any."""
    seen: dict[int | None, int] = {}
    places = []
    for number, answer in enumerate(found):
        turn = seen[answer.scan.grade] = seen.get(answer.scan.grade, -1) + 1
        places.append((turn, answer.scan.grade or 0, number))
    return [found[number] for *_, number in sorted(places)[:count]]
