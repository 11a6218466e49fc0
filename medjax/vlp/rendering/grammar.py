"""Finding graph -> the prose of a report: the embedded report generator.

A finding becomes a noun phrase ("small right basilar atelectasis", or "small
atelectasis in the right lower lobe"), the phrase goes into one of several frames
("There is ...", "... is noted."), and absences are gathered into the lists radiologists
dictate ("No pleural effusion or pneumothorax.") or into normal statements ("The lungs
are clear."). Whatever section is written states the whole graph, except the impression
that follows a findings section: that one is a summary, as in real reports.

Every wording here is one the parser reads back; `tests/vlp/test_rendering.py` holds
the round trip.
"""

import numpy as np

from medjax.vlp.rendering.graph import LUNG_FINDINGS, Finding, FindingGraph

NOUNS = {
    "Cardiomegaly": ("cardiomegaly", "cardiac enlargement"),
    "Edema": ("pulmonary edema", "interstitial edema", "vascular congestion"),
    "Pleural Effusion": ("pleural effusion",),
    "Atelectasis": ("atelectasis", "linear atelectasis", "subsegmental atelectasis"),
    "Consolidation": ("consolidation", "airspace opacity", "airspace consolidation"),
    "Pneumothorax": ("pneumothorax",),
    "Nodule": ("pulmonary nodule", "nodule", "nodular opacity"),
    "Emphysema": ("emphysema", "hyperinflation"),
    "Fracture": ("rib fracture", "displaced rib fracture"),
}
COUNTABLE = {"Pleural Effusion", "Pneumothorax", "Nodule", "Fracture"}
SIZED = {"Pleural Effusion", "Pneumothorax", "Nodule"}
"""Findings whose severity is a size."""

SEVERITY_WORDS = {
    "mild": ("mild", "minimal"),
    "moderate": ("moderate",),
    "severe": ("severe", "marked"),
}
SIZE_WORDS = {
    "mild": ("small", "tiny"),
    "moderate": ("moderate",),
    "severe": ("large",),
}
ZONE_ADJECTIVES = {
    "upper": ("upper lobe", "apical"),
    "mid": ("mid lung",),
    "lower": ("lower lobe", "basilar"),
}
ZONE_PLACES = {
    "upper": ("upper lobe", "upper zone"),
    "mid": ("mid lung", "mid zone"),
    "lower": ("lower lobe", "lower zone", "lung base"),
}
FRAMES = ("There {is} {a}{x}.", "{A}{x} {is} present.", "{A}{x} {is} noted.", "{A}{x}.")
HEARTS = ("heart", "cardiac silhouette")
LUNGS_CLEAR = ("The lungs are clear.", "Lungs are clear bilaterally.", "Clear lungs.")
HEART_NORMAL = (
    "Heart size is normal.",
    "The cardiac silhouette is within normal limits.",
    "The cardiomediastinal silhouette is unremarkable.",
)
BONES_NORMAL = ("The osseous structures are intact.", "No acute osseous abnormality.")
NEGATIONS = ("No {list}.", "There is no {list}.", "No evidence of {list}.")
NORMAL_IMPRESSIONS = (
    "No acute cardiopulmonary process.",
    "No acute cardiopulmonary abnormality.",
    "Normal chest radiograph.",
)


def write(
    graph: FindingGraph, rng: np.random.Generator, *, sections: str = "both"
) -> tuple[str, str]:
    """Words a graph as a report.

    Args:
        graph: what to say.
        rng: chooses among the wordings.
        sections: "both", "findings" or "impression"; the other comes back empty.

    Returns:
        (findings, impression). A findings section, or an impression that stands alone,
        states the whole graph; an impression after findings names most of what is
        present.

    Raises:
        ValueError: for another value of `sections`.
    """
    if sections not in ("both", "findings", "impression"):
        raise ValueError(
            f"sections: expected both, findings or impression, got {sections!r}"
        )
    everything = _positives(graph, rng) + _negatives(graph, rng)
    if sections == "findings":
        return _shuffled(everything, rng) or "Unremarkable study.", ""
    if sections == "impression":
        return "", _shuffled(everything, rng) or _pick(rng, NORMAL_IMPRESSIONS)
    kept = {n: f for n, f in graph.present.items() if rng.random() < 0.85}
    summary = _positives(FindingGraph(kept or graph.present), rng)
    impression = _shuffled(summary, rng) or _pick(rng, NORMAL_IMPRESSIONS)
    return _shuffled(everything, rng) or "Unremarkable study.", impression


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]


def _shuffled(sentences: list[str], rng: np.random.Generator) -> str:
    return " ".join(sentences[i] for i in rng.permutation(len(sentences)))


def _positives(graph: FindingGraph, rng: np.random.Generator) -> list[str]:
    return [_sentence(name, finding, rng) for name, finding in graph.present.items()]


def _sentence(name: str, finding: Finding, rng: np.random.Generator) -> str:
    if name == "Support Devices":
        return _device_sentence(finding, rng)
    if name == "Cardiomegaly" and rng.random() < 0.5:
        adverbs = {"mild": "mildly ", "moderate": "moderately ", "severe": "severely "}
        adverb = adverbs.get(finding.severity, "")
        return f"The {_pick(rng, HEARTS)} is {adverb}enlarged."
    plural = finding.side == "both" and name == "Pleural Effusion"
    phrase = _phrase(name, finding, rng, plural=plural)
    article = "" if plural or name not in COUNTABLE else "a "
    if article and phrase[0] in "aeiou":
        article = "an "
    text = _pick(rng, FRAMES).format(
        a=article, A=article.capitalize(), x=phrase, **{"is": "are" if plural else "is"}
    )
    return text[0].upper() + text[1:]


def _phrase(
    name: str, finding: Finding, rng: np.random.Generator, *, plural: bool
) -> str:
    """Severity, side and zone round a noun, before it or after it."""
    noun = _pick(rng, NOUNS[name]) + ("s" if plural else "")
    words = SIZE_WORDS if name in SIZED else SEVERITY_WORDS
    severity = _pick(rng, words[finding.severity]) if finding.severity else ""
    if finding.side and rng.random() < 0.5:
        return _joined(severity, noun, _place(finding, rng))
    side = "bilateral" if finding.side == "both" else finding.side
    zone = _pick(rng, ZONE_ADJECTIVES[finding.zone]) if finding.zone else ""
    return _joined(severity, side, zone, noun)


def _place(finding: Finding, rng: np.random.Generator) -> str:
    if not finding.zone:
        return "bilaterally" if finding.side == "both" else f"on the {finding.side}"
    place = _pick(rng, ZONE_PLACES[finding.zone])
    if finding.side == "both":
        return f"in both {place}s"
    return f"in the {finding.side} {place}"


def _joined(*words: str) -> str:
    return " ".join(word for word in words if word)


def _device_sentence(finding: Finding, rng: np.random.Generator) -> str:
    device = _joined(finding.side, finding.kind)
    frames = (
        f"A {device} is in place.",
        f"There is {'an' if device[0] in 'aeiou' else 'a'} {device}.",
        f"{device[0].upper()}{device[1:]} in standard position.",
    )
    return _pick(rng, frames).replace("A endo", "An endo")


def _negatives(graph: FindingGraph, rng: np.random.Generator) -> list[str]:
    rest = set(graph.absent)
    sentences = []
    if rest.issuperset(LUNG_FINDINGS):
        sentences.append(_pick(rng, LUNGS_CLEAR))
        rest -= set(LUNG_FINDINGS)
    if "Cardiomegaly" in rest and rng.random() < 0.8:
        sentences.append(_pick(rng, HEART_NORMAL))
        rest -= {"Cardiomegaly"}
    if "Fracture" in rest and rng.random() < 0.6:
        sentences.append(_pick(rng, BONES_NORMAL))
        rest -= {"Fracture"}
    if "Support Devices" in rest:
        sentences.append("No support devices.")
        rest -= {"Support Devices"}
    # Sorted: the order of a set of strings changes from one process to the next.
    names = sorted(rest)
    names = [names[i] for i in rng.permutation(len(names))]
    while names:
        group, names = names[:3], names[3:]
        nouns = [NOUNS[name][0] for name in group]
        listed = ", ".join(nouns[:-1]) + " or " + nouns[-1] if nouns[1:] else nouns[0]
        sentences.append(_pick(rng, NEGATIONS).format(list=listed))
    return sentences
