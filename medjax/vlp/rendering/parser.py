"""Report text -> finding graph, by keywords, scopes and negation.

Reads both the embedded grammar, exactly, and real dictated reports, approximately. The
method is that of the rule labellers (NegEx, the CheXpert labeller): find a finding's
keywords in a sentence, decide from the words before and after whether it is denied, and
give it the side, zone and severity words that stand nearest. Two simplifications: an
uncertain mention ("may reflect atelectasis") counts as present, and several lesions of
one kind become one node (left and right merge to both, the graver severity wins).

An image drawn from a misread sentence is a wrong pair, so the rules lean towards
leaving things out: history, technique and comparison sections are skipped, and "no
acute process" says nothing about any one finding.
"""

import re
from collections.abc import Iterator
from dataclasses import replace

from medjax.vlp.rendering.graph import (
    FINDINGS,
    LUNG_FINDINGS,
    SEVERITIES,
    Finding,
    FindingGraph,
)


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{pattern})\b")


KEYWORDS = {
    "Cardiomegaly": _words(
        r"cardiomegaly|cardiac enlargement|enlargement of the (?:heart|cardiac)"
        r"|enlarged (?:heart|cardiac|cardiomediastinal)"
        r"|(?:heart|cardiac|cardio\w+)[\w ]*? (?:is|are|remains?|appears?)"
        r"(?: \w+){0,2} (?:enlarged|prominent)"
        r"|(?:heart|cardiac)[\w ]{0,20}? (?:enlarged|large)"
    ),
    "Edema": _words(
        r"o?edema|(?:pulmonary |vascular |interstitial )+congestion|congestive changes"
        r"|congestive (?:heart )?failure|vascular engorgement|kerley[ -]b lines"
    ),
    "Pleural Effusion": _words(
        r"(?:pleural |hydro)?(?<!pericardial )effusions?|hydrothorax|pleural fluid"
        r"|blunting of the[\w ]* costophrenic|blunted[\w ]* costophrenic"
    ),
    "Atelectasis": _words(r"atelecta(?:sis|tic)(?: changes?)?|atelectases"),
    "Consolidation": _words(
        r"consolidations?|consolidative|infiltrates?|pneumonia|opacification"
        r"|air ?space (?:disease|opacit(?:y|ies)|consolidation)"
        r"|(?<!nodular )(?<!linear )(?<!streaky )opacit(?:y|ies)"
    ),
    "Pneumothorax": _words(r"(?:hydro)?pneumothora(?:x|ces)"),
    "Nodule": _words(
        r"nodules?|nodular (?:opacit(?:y|ies)|densit(?:y|ies))"
        r"|(?:lung |pulmonary )?mass(?:es)?|granulomas?|granulomata"
    ),
    "Emphysema": _words(
        r"emphysema(?:tous)?(?: changes?)?|hyper(?:-| )?(?:inflat|expan|aerat)\w+|copd"
        r"|flatten(?:ed|ing)[\w ]* (?:hemi)?diaphragms?|chronic obstructive"
    ),
    "Fracture": _words(r"fractures?|fractured"),
    "Support Devices": _words(
        r"support devices?|pacemakers?|pacer|defibrillator|icd|endotracheal tubes?"
        r"|tracheostomy(?: tube)?|et tube|(?:central (?:venous )?|picc |port[- ]?a?-?)"
        r"(?:catheter|line|cath)s?|picc|(?:venous |dialysis |jugular |subclavian )+"
        r"(?:catheter|line)s?|nasogastric tube|ng tube|chest tubes?|medi-?ports?"
    ),
}
KINDS = {
    "pacemaker": _words("pacemakers?|pacer|defibrillator|icd"),
    "endotracheal tube": _words("endotracheal tubes?|tracheostomy.*|et tube"),
    "central venous catheter": _words(r".*(?:catheter|line|cath)s?|picc|medi-?ports?"),
}
"""Which device a keyword names, tried in order."""

SIDE = {
    "both": _words("bilateral|bilaterally|both"),
    "left": _words("left|left-sided|lingula|lingular"),
    "right": _words("right|right-sided"),
}
ZONE = {
    "upper": _words(r"upper|apical|apex|apices|suprahilar"),
    "mid": _words(r"mid|middle|hilar|perihilar|lingula|lingular"),
    "lower": _words(r"lower|base|bases|basal|basilar|bibasilar|bibasal|retrocardiac"),
}
SEVERITY = {
    "severe": _words(r"severe|severely|large|marked|markedly|massive|extensive"),
    "moderate": _words(r"moderate|moderately|moderate-sized"),
    "mild": _words(r"mild|mildly|small|tiny|minimal|minimally|trace|subtle|slight\w*"),
}
BIBASILAR = _words("bibasilar|bibasal|bases|apices")

# "No change in the effusion" denies the change, not the effusion.
PSEUDO_NEGATION = _words(r"(?:no|not|without) (?:\w+ ){0,2}chang\w*(?: in)?")
NEGATION_BEFORE = _words(
    r"no|not|without|denies|negative for|free of|clear of|absence of|absent|resolved"
    r"|ruled? out|nor|resolution of"
)
NEGATION_AFTER = re.compile(
    r"^[^.;]*?\b(?:(?:is|are|was|has|have)(?: been)? (?:not|no longer|absent|resolved"
    r"|excluded|ruled out|(?:with)?in (?:normal )?limits|normal)"
    r"|not (?:seen|identified|visuali[sz]ed|present)|within (?:normal )?limits)\b"
)
# After these words a denial earlier in the sentence no longer holds.
SCOPE_ENDS = re.compile(
    r";|\b(?:but|however|although|though|except|there (?:is|are))\b"
)
CONNECTORS = re.compile(r",|;|\b(?:and|or|with|but|as well as|there (?:is|are))\b")

NORMAL_STATEMENTS = {
    ("Cardiomegaly",): re.compile(
        r"\b(?:heart|cardiac|cardio\w+)[^.;]*\b(?:normal|unremarkable|not enlarged)\b"
        r"|\bnormal (?:heart|cardiac|cardio\w+)"
    ),
    LUNG_FINDINGS: re.compile(
        r"\b(?:lungs?|lung fields)\b(?: \w+){0,3} (?:are |is |remain |appear )"
        r"(?:grossly |otherwise |well[- ]expanded and |\w+ly )?clear(?! of)\b"
        r"|\blungs? clear\b|\bclear lungs?\b"
    ),
    ("Fracture",): re.compile(
        r"\b(?:osseous|bony|bones|skelet\w+)[^.;]*\b(?:intact|unremarkable|normal)\b"
        r"|\bno[\w ]*(?:osseous|bony|skeletal) (?:abnormalit\w+|findings?|lesions?)"
    ),
}

SKIPPED_SECTION = re.compile(
    r"(?:^|\n|(?<=[.:] ))\s*(?:INDICATION|HISTORY|CLINICAL [A-Z ]+|TECHNIQUE|COMPARISON"
    r"|EXAMINATION|EXAM|REASON[A-Z ]*):.*?(?=\n\s*[A-Z][A-Z ]{3,}:|FINDINGS:"
    r"|IMPRESSION:|\Z)",
    re.DOTALL,
)
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n\s*\n|(?:^|\s)\d+[.)]\s+")
ORDER = {severity: rank for rank, severity in enumerate(("", *SEVERITIES))}


def parse(report: str) -> FindingGraph:
    """Reads the findings out of a report.

    Args:
        report: the text, with or without section headers. Sections that do not
            describe this image (history, technique, comparison) are skipped.

    Returns:
        The graph of what is stated. A finding that one sentence affirms and another
        denies is present.
    """
    present: dict[str, Finding] = {}
    absent: set[str] = set()
    for sentence in SENTENCE_END.split(SKIPPED_SECTION.sub(" ", report)):
        text = PSEUDO_NEGATION.sub("", re.sub(r"\s+", " ", sentence).lower())
        for names, statement in NORMAL_STATEMENTS.items():
            if statement.search(text):
                absent.update(names)
        for name, finding in _mentions(text):
            if finding is None:
                absent.add(name)
            else:
                present[name] = _merge(present.get(name), finding)
    ordered = {name: present[name] for name in FINDINGS if name in present}
    return FindingGraph(ordered, frozenset(absent - set(present)))


def _mentions(text: str) -> Iterator[tuple[str, Finding | None]]:
    """Each finding named in a sentence: its attributes, or None where it is denied."""
    found = [
        (match.start(), match.end(), name)
        for name, keywords in KEYWORDS.items()
        for match in keywords.finditer(text)
    ]
    found.sort()
    cuts = [0, *_cuts(text, found), len(text)]
    for (start, end, name), left, right in zip(found, cuts, cuts[1:], strict=False):
        if _denied(text, start, end):
            yield name, None
        else:
            yield name, _attributes(name, text[left:right], text[start:end])


def _cuts(text: str, found: list[tuple[int, int, str]]) -> Iterator[int]:
    """Where one mention's attributes end and the next one's begin."""
    for (_, end, _), (start, _, _) in zip(found, found[1:], strict=False):
        connector = CONNECTORS.search(text, end, max(start, end))
        yield connector.start() if connector else min(end, start)


def _denied(text: str, start: int, end: int) -> bool:
    scope_start = max([0, *(m.end() for m in SCOPE_ENDS.finditer(text, 0, start))])
    # "not enlarged" carries its denial inside the keyword's own match.
    before = text[scope_start:start] + " " + text[start:end]
    return bool(NEGATION_BEFORE.search(before) or NEGATION_AFTER.search(text[end:]))


def _attributes(name: str, context: str, keyword: str) -> Finding:
    sides = [side for side, words in SIDE.items() if words.search(context)]
    zones = [zone for zone, words in ZONE.items() if words.search(context)]
    grades = [grade for grade, words in SEVERITY.items() if words.search(context)]
    kinds = [kind for kind, words in KINDS.items() if words.search(keyword)]
    if "both" in sides or len(sides) == 2 or BIBASILAR.search(context):
        sides = ["both"]
    allowed = FINDINGS[name]
    return Finding(
        side=sides[0] if sides and allowed.sides else "",
        zone=zones[0] if zones and allowed.zones else "",
        severity=grades[0] if grades and allowed.severities else "",
        kind=kinds[0] if kinds and allowed.kinds else "",
    )


def _merge(old: Finding | None, new: Finding) -> Finding:
    if old is None:
        return new
    sides = {old.side, new.side} - {""}
    return replace(
        old,
        side="both" if len(sides) > 1 else "".join(sides),
        zone=old.zone or new.zone,
        severity=max(old.severity, new.severity, key=ORDER.__getitem__),
        kind=old.kind or new.kind,
    )
