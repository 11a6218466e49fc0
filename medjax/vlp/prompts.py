"""The sentences that stand for "it is there" and "it is not" in zero-shot tests.

Zero-shot numbers move by whole points with the wording, so the wording is data under a
version that every result names. Prompts are sentences as dictated, not class names:
text towers were trained on reports. A "no" in front of a class name, as in CheXzero, is
one of the negatives; for "No Finding" it would be a double denial, which is why that
class has sentences of its own.
"""

import itertools
import random
from collections.abc import Mapping
from typing import Literal

PROMPTS_VERSION = "1"

NOUNS = {
    "Atelectasis": "atelectasis",
    "Cardiomegaly": "cardiomegaly",
    "Consolidation": "consolidation",
    "Edema": "pulmonary edema",
    "Effusion": "pleural effusion",
    "Emphysema": "emphysema",
    "Enlarged Cardiomediastinum": "enlargement of the cardiomediastinal silhouette",
    "Fibrosis": "fibrosis",
    "Fracture": "rib fracture",
    "Hernia": "hiatal hernia",
    "Infiltration": "infiltrate",
    "Lung Lesion": "lung lesion",
    "Lung Opacity": "lung opacity",
    "Mass": "lung mass",
    "Nodule": "pulmonary nodule",
    "Pleural Effusion": "pleural effusion",
    "Pleural Other": "pleural abnormality",
    "Pleural Thickening": "pleural thickening",
    "Pleural_Thickening": "pleural thickening",
    "Pneumonia": "pneumonia",
    "Pneumothorax": "pneumothorax",
    "Support Devices": "support devices",
}
"""CheXpert-14, NIH-14 (both spellings) and the embedded findings."""

POSITIVE = ("There is {}.", "{} is present.", "{} is noted.")
NEGATIVE = ("There is no {}.", "No {}.", "No evidence of {}.")

SENTENCES = {
    "Cardiomegaly": (
        (
            "The heart is enlarged.",
            "Cardiomegaly is present.",
            "There is cardiomegaly.",
        ),
        ("Heart size is normal.", "No cardiomegaly.", "The heart is not enlarged."),
    ),
    "Fracture": (
        ("There is a rib fracture.", "A rib fracture is present."),
        ("No rib fracture.", "The osseous structures are intact."),
    ),
    "No Finding": (
        ("No acute cardiopulmonary process.", "Normal chest radiograph."),
        ("The chest radiograph is abnormal.", "There is an acute abnormality."),
    ),
    "Support Devices": (
        (
            "A pacemaker is in place.",
            "An endotracheal tube is in place.",
            "A central venous catheter is in place.",
        ),
        ("No support devices.",),
    ),
}
"""Findings that reports state in words of their own."""

LUNGS = ("", "on the right", "on the left", "in both lungs", "at the lung bases")
PARTS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "Atelectasis": (
        ("", "mild", "minimal"),
        ("atelectasis", "linear atelectasis", "subsegmental atelectasis"),
        LUNGS,
    ),
    "Cardiomegaly": (
        ("", "mild", "moderate", "severe"),
        ("cardiomegaly", "cardiac enlargement", "enlarged cardiac silhouette"),
        ("",),
    ),
    "Consolidation": (
        ("", "patchy", "dense", "increased"),
        ("consolidation", "airspace consolidation", "lobar consolidation"),
        LUNGS,
    ),
    "Edema": (
        ("", "mild", "moderate", "severe"),
        ("pulmonary edema", "interstitial edema", "alveolar edema"),
        ("",),
    ),
    "Pleural Effusion": (
        ("", "small", "moderate", "large"),
        ("pleural effusion", "layering pleural effusion"),
        ("", "on the right", "on the left", "on both sides"),
    ),
    "Pneumothorax": (
        ("", "tiny", "small", "large"),
        ("pneumothorax", "apical pneumothorax"),
        ("", "on the right", "on the left"),
    ),
}
"""How severe, of what kind, where: what GLoRIA's prompts are put together from, in
words of this library. Findings without an entry have their noun alone."""
SEVERITY = ("", "mild", "moderate", "severe")

Wording = Literal["dictated", "chexzero", "biovil", "sampled"]
WORDINGS: Mapping[Wording, tuple[str, str]] = {
    "chexzero": ("{}", "no {}"),
    "biovil": ("Findings suggesting {}.", "No evidence of {}."),
}
"""Forms of published zero-shot tests, one sentence a side: CheXzero (Tiu et al., Nature
Biomedical Engineering 2022), which says the label itself, and BioViL (Boecking et al.,
ECCV 2022)."""


def prompts(
    finding: str, wording: Wording = "dictated", *, sampled: int = 5, seed: int = 0
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The positive and negative sentences of a finding.

    Args:
        finding: a label of CheXpert, NIH or the embedded data. Others are taken as the
            noun itself, in lower case.
        wording: ``dictated``: sentences of reports, the ensemble of this module; a
            published form; or ``sampled``: as in GLoRIA's test (Huang et al., ICCV
            2021), some of all that severity, kind and place make together, and nothing
            that says it is not there.
        sampled: how many of those; fewer where there are not so many.
        seed: of the choice, which depends on the finding as well.

    Returns:
        (positive, negative), each of one sentence or more, but for ``sampled``.

    Raises:
        ValueError: fewer than one sentence is asked for.
    """
    noun = NOUNS.get(finding, finding.replace("_", " ").lower())
    if wording == "sampled":
        return _sampled(finding, noun, sampled, seed), ()
    if wording != "dictated":
        name = finding.replace("_", " ") if wording == "chexzero" else noun
        there, absent = (form.format(name) for form in WORDINGS[wording])
        return (there,), (absent,)
    if finding in SENTENCES:
        return SENTENCES[finding]
    written = [
        tuple(form.format(noun) for form in forms) for forms in (POSITIVE, NEGATIVE)
    ]
    positive = tuple(text[0].upper() + text[1:] for text in written[0])
    return positive, written[1]


def _sampled(finding: str, noun: str, count: int, seed: int) -> tuple[str, ...]:
    if count < 1:
        raise ValueError(f"sampled: expected 1 at least, got {count}")
    name = {"Effusion": "Pleural Effusion"}.get(finding, finding)
    parts = PARTS.get(name, (SEVERITY, (noun,), ("",)))
    every = [" ".join(filter(None, words)) for words in itertools.product(*parts)]
    chosen = random.Random(f"{seed} {name}").sample(every, min(count, len(every)))
    return tuple(chosen)
