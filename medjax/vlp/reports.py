"""Free text to sections, to sentences, to clean words.

A radiology report is prose under headers: what is seen (FINDINGS) and what it means
(IMPRESSION). Real reports have one of the two, or neither; headers are misspelt, come
twice, or run on in one line; an addendum or a wet read stands above a line of
underscores; the anonymiser leaves ``___`` (MIMIC-CXR) or ``XXXX`` (Open-i) behind.

The rules are those of the sectioned MIMIC-CXR files that MGCA and its successors train
on (MIT-LCP/mimic-cxr, MGCA), with three repairs that ``faithful=True`` takes back:

* headers are also found at the very start, in title case and after a full stop in the
  same line (the original wants a newline, one space and capitals), and those that name
  an organ ("LUNGS:") do not end the findings;
* what stands above the last line of underscores is an addendum, not a section;
* sentences end at a full stop that a space follows. The original splits at every
  ``digits.`` and every full stop, so "2.5 cm" becomes two sentences.

Where the original lists typing errors of headers one by one, a rule of similarity
stands here in both modes. The original also leaves out 54 studies by a hand-made list;
here they are parsed.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# Headers of the sections that matter, by their usual name: how else people call them.
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "findings": (
        "finding",
        "findings in chest",
        "findings in the chest",
        "observations",
        "report",
        "radiographic findings",
    ),
    "impression": (
        "impressions",
        "impresson",
        "impresion",
        "imp",
        "conclusion",
        "conclusions",
        "summary",
        "opinion",
        "diagnosis",
        "assessment",
        "interpretation",
        "impression and recommendation",
        "impression and recommendations",
        "impression/recommendation",
        "impression/recommendations",
        "findings and impression",
        "findings/impression",
        "findings impression",
        "final impression",
        "overall impression",
    ),
    "comparison": (
        "comparisons",
        "comparison exam",
        "comparison study",
        "comparison films",
        "compared to",
        "prior",
        "prior study",
    ),
    "indication": (
        "indications",
        "clinical indication",
        "reason for exam",
        "reason for examination",
        "reason for study",
        "reason",
        "indication for study",
    ),
    "history": ("clinical history", "clinical information", "medical history"),
    "technique": ("procedure", "technical factors", "views", "number of views"),
    "examination": ("exam", "study", "type of examination", "type of exam"),
    "addendum": ("addenda", "wet read", "preliminary report"),
}
_CANONICAL = {other: name for name, all_ in SYNONYMS.items() for other in (name, *all_)}
# A header that names the film introduces what is seen on it.
_FILM = re.compile(
    r"\b(chest|portable|pa and lateral|lateral and pa|pa and lat|ap and lateral|"
    r"frontal and lateral|two views|cxr|radiograph|single view|upright|supine)\b"
)
# Headers within the findings of a structured report: they stay part of the text.
_ORGANS = re.compile(
    r"^(the )?(lungs?|heart|pleura|pleural spaces?|mediastinum|cardiomediastin\w+|"
    r"hila|bones?|osseous|soft tissues?|lines|tubes|lines and tubes|support devices|"
    r"devices|diaphragm|upper abdomen|abdomen|airways?|vasculature)\b"
)
_FAITHFUL_HEADER = re.compile(r"\n ([A-Z ()/,-]+):\s")
_KNOWN = "|".join(
    sorted({re.escape(n) for n in _CANONICAL if len(n) > 6}, key=len, reverse=True)
)
_HEADER = re.compile(
    r"(?:^|\n)[ \t]*([A-Z][A-Z ()/,&-]{1,60})[ \t]*:(?=\s|$)"
    rf"|(?:^|\n)[ \t]*((?i:{_KNOWN}))[ \t]*:(?=\s|$)"
    r"|(?<=[.!?)] )((?:FINDINGS|IMPRESSION|CONCLUSION)S?)[ \t]*:(?=\s|$)"
)
_UNDERSCORES = re.compile(r"(?:^|\n)[ \t]*_{10,}[ \t]*(?=\n|$)")
_PHI = re.compile(r"\[\*\*.*?\*\*\]|_{2,}|\bX{4,}\b", re.DOTALL)
_NUMBERING = re.compile(r"(?:^|(?<=[.!?:;]))\s*\(?\d{1,2}[.)](?=\s+\S)", re.MULTILINE)
_ABBREVIATION = re.compile(
    r"(?:\b(?:dr|mr|mrs|ms|vs|approx|e\.g|i\.e|etc|st|fig|a\.m|p\.m)|\b[A-Z])\.$", re.I
)
_FAITHFUL_NUMBERING = re.compile(r"[0-9]+\.")
_WORD = re.compile(r"\w+")


def header_name(header: str) -> str:
    """The usual name of a header, through synonyms and small typing errors."""
    name = " ".join(header.lower().split()).strip(" -()/,&")
    if name in _CANONICAL:
        return _CANONICAL[name]
    if len(name) >= 6:
        close = difflib.get_close_matches(name, _CANONICAL, n=1, cutoff=0.82)
        if close:
            return _CANONICAL[close[0]]
    return "findings" if _FILM.search(name) else name


def split_sections(text: str, *, faithful: bool = False) -> dict[str, str]:
    """Cut a report at its headers.

    Args:
        text: The whole report as filed.
        faithful: Only headers that the original finds, and no addendum rule.

    Returns:
        Section name to text with single spaces, in order of appearance; among them
        ``findings`` and ``impression`` if they have text (the last one of a name wins),
        else ``last_paragraph`` if there is one, and ``addendum`` for what stands above
        a line of underscores.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    above, body = ("", text) if faithful else _split_addendum(text)
    found = list((_FAITHFUL_HEADER if faithful else _HEADER).finditer(body))
    if not faithful:
        found = [h for h in found if not _ORGANS.match(_header(h).lower().strip())]
    sections: dict[str, str] = {}
    ends = [header.start() for header in found[1:]] + [len(body)]
    sections: dict[str, str] = {}
    name, content = "", body
    for header, end in zip(found, ends[: len(found)], strict=True):
        name = header_name(_header(header))
        content = body[header.end() : end]
        if content.strip():
            sections.pop(name, None)  # the last of a name also stands last
            sections[name] = _one_line(content)
    if above := _one_line(above):
        sections.setdefault("addendum", above)
    if not sections.keys() & {"findings", "impression"}:
        first, *rest = re.split(r"\n[ \t]*\n", content.strip("\n"), maxsplit=1)
        if not found and "FINAL REPORT" not in first and not faithful:
            sections["last_paragraph"] = _one_line(content)  # no report form at all
        elif rest and rest[0].strip():
            sections["last_paragraph"] = _one_line(rest[0])
            if name in sections:
                sections[name] = _one_line(first)
    return {name: text for name, text in sections.items() if text}


def _header(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group)


def _split_addendum(text: str) -> tuple[str, str]:
    """Text above and below the last line of underscores that a report follows."""
    for line in reversed(list(_UNDERSCORES.finditer(text))):
        above, below = text[: line.start()], text[line.end() :]
        if _WORD.search(below.replace("_", "")):
            return above, below
    return "", text


def _one_line(text: str) -> str:
    return " ".join(text.split())


def split_sentences(text: str, *, faithful: bool = False) -> list[str]:
    """Cut a section into sentences; list numbers ("1. ... 2. ...") fall away.

    Args:
        text: One section, wrapped or not.
        faithful: Cut at every ``digits.`` and every full stop, as MGCA and GLoRIA do,
            which breaks decimals.

    Returns:
        Sentences without surrounding space; empty ones are left out.
    """
    if faithful:
        parts = _FAITHFUL_NUMBERING.split(text.replace("\n", " "))
        sentences = [s for part in parts for s in part.split(".")]
        return [s.strip() for s in sentences if s.strip()]
    sentences: list[str] = []
    for part in _NUMBERING.split(text):
        joined = ""
        for piece in re.split(r"(?<=[.!?])\s+", _one_line(part)):
            joined = f"{joined} {piece}".strip()
            if not _ABBREVIATION.search(joined):
                sentences.append(joined)
                joined = ""
        sentences.append(joined)
    return [s for s in sentences if _WORD.search(s)]


@dataclass(frozen=True)
class CleanConfig:
    """What is done to the text of a section before it is tokenised."""

    style: Literal["tidy", "mgca", "raw"] = "tidy"
    """tidy: single spaces, marks of the anonymiser removed. mgca: lower-case words
    without punctuation, sentences of one word dropped, ASCII only. raw: as filed
    (IMITATE and M-FLAG)."""
    min_words: int = 3
    """Reports with fewer words are left out."""


def clean(text: str, style: Literal["tidy", "mgca", "raw"] = "tidy") -> str:
    """Clean one section; see ``CleanConfig``."""
    if style == "raw":
        return text.strip()
    if style == "tidy":
        tidy = _one_line(_PHI.sub(" ", text))
        return re.sub(r"\s+([.,;:])", r"\1", tidy).strip(" ,;")
    sentences = [_WORD.findall(s.lower()) for s in split_sentences(text, faithful=True)]
    words = [w for s in sentences if len(s) > 1 for w in s]
    ascii_words = (w.encode("ascii", "ignore").decode() for w in words)
    return " ".join(w for w in ascii_words if w)


def join_sections(findings: str, impression: str) -> str:
    """The report that is read whole: impression first, so that cutting spares it."""
    return f"{impression} {findings}".strip()


def word_count(text: str) -> int:
    """Words of a text (``\\w+``; the anonymiser's underscores are none)."""
    return len(_WORD.findall(text.replace("_", " ")))
