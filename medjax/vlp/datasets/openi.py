"""Open-i, the Indiana University chest radiographs (Demner-Fushman et al. 2016).

Reports as XML, in the archive or unpacked, or as the table that circulates; images, if
at hand, in a folder of PNG files::

    <root>/NLMCXR_reports.tgz   or  ecgen-radiology/1.xml ...   or  indiana_reports.csv
    <root>/indiana_projections.csv                (optional: which image is frontal)
    <images>/CXR1_1_IM-0001-4001.png              (the table: 1_IM-0001-4001.dcm.png)

Without images a study is a report alone, to be drawn by a generator
(``medjax.vlp.rendering``). With images, frontal ones make a pair each; without the
projections nobody says which are frontal, and all are taken. Labels come from the
manual MeSH codes, so what is not coded is absent.
"""

import tarfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from medjax.data.boundary import DataError, affordable, reading
from medjax.data.ledger import Ledger
from medjax.data.tables import read_table
from medjax.vlp.datasets.study import Study, find_one

# Finding to the MeSH headings that say it.
FINDINGS = {
    "No Finding": {"normal"},
    "Cardiomegaly": {"cardiomegaly"},
    "Lung Opacity": {"opacity", "airspace disease", "infiltrate", "density"},
    "Nodule": {"nodule", "mass"},
    "Edema": {"pulmonary edema", "pulmonary congestion"},
    "Consolidation": {"consolidation"},
    "Pneumonia": {"pneumonia"},
    "Atelectasis": {"pulmonary atelectasis"},
    "Pneumothorax": {"pneumothorax", "hydropneumothorax"},
    "Pleural Effusion": {"pleural effusion"},
    "Emphysema": {"emphysema", "pulmonary emphysema"},
    "Granuloma": {"calcified granuloma", "granuloma", "granulomatous disease"},
    "Fracture": {"fractures, bone"},
    "Support Devices": {
        "catheters, indwelling",
        "implanted medical device",
        "medical device",
        "tube, inserted",
        "stents",
    },
}
T = TypeVar("T")
UNCODED = {"no indexing", "technical quality of image unsatisfactory"}


@dataclass(frozen=True)
class _Report:
    id: str
    findings: str
    impression: str
    headings: frozenset[str]
    images: tuple[str, ...]


@dataclass(frozen=True)
class OpenI:
    """Open-i / Indiana University."""

    root: Path
    """Folder with the reports."""
    images: Path | None = None
    """Folder of PNG files; without it the reports stand alone."""
    source: Literal["auto", "xml", "csv"] = "auto"
    """Which form of the reports to read; auto prefers the XML, which has 104 more."""

    name = "openi"
    has_text = True

    def read(self, ledger: Ledger) -> list[Study]:
        """All reports with text, paired with their images if there are any."""
        source = self._source()
        reports = list(
            _read_table(source, ledger)
            if source.suffix == ".csv"
            else _read_xml(source, ledger)
        )
        ledger.count(f"reports in {source.name}", len(reports))
        for section in ("findings", "impression"):
            have = sum(bool(getattr(report, section)) for report in reports)
            ledger.log(f"  with {section}: {have}, without: {len(reports) - have}")
        reports = ledger.keep(
            "has findings or impression",
            reports,
            lambda report: bool(report.findings or report.impression),
        )
        if self.images is None:
            return [_study(report, report.id, None, "") for report in reports]
        return self._pair(reports, self.images, ledger)

    def _source(self) -> Path:
        xml = ["NLMCXR_reports.tgz", "ecgen-radiology", "1.xml"]
        table = ["indiana_reports.csv"]
        choice = {"auto": xml + table, "xml": xml, "csv": table}[self.source]
        found = find_one(self.root, choice, "an Open-i folder")
        return self.root if found.suffix == ".xml" else found

    def _pair(
        self, reports: list[_Report], folder: Path, ledger: Ledger
    ) -> list[Study]:
        """One study per frontal image; matched by what file names share."""
        views: dict[str, str] = {}
        projections = self.root / "indiana_projections.csv"
        if projections.is_file():
            wanted = ["uid", "filename", "projection"]
            rows = [r for _, r in read_table(projections, wanted, ledger=ledger)]
            views = _by_key([(r["filename"], r["projection"]) for r in rows])
        if not folder.is_dir():
            raise DataError(f"images: {folder} is not a folder")
        files = _by_key([(path.name, path) for path in sorted(folder.glob("*.png"))])
        by_report: dict[str, list[str]] = {}
        for key in files:
            by_report.setdefault(key.split("_")[0], []).append(key)
        pairs = [
            (report, key)
            for report in reports
            for key in (
                [image_key(image) for image in report.images]
                or by_report.get(report.id, [])
            )
        ]
        ledger.count("images of these reports", len(pairs))
        if views:
            pairs = ledger.keep(
                "frontal",
                pairs,
                lambda pair: views.get(pair[1], "Frontal") == "Frontal",
            )
        return [
            _study(
                report,
                key,
                files.get(key, folder / f"CXR{key}.png"),
                views.get(key, ""),
            )
            for report, key in pairs
        ]


def _study(report: _Report, id: str, image: Path | None, view: str) -> Study:
    coded = bool(report.headings - UNCODED)
    return Study(
        id=id,
        patient=report.id,
        image=image,
        findings=report.findings,
        impression=report.impression,
        labels={
            finding: float(bool(mesh & report.headings)) if coded else np.nan
            for finding, mesh in FINDINGS.items()
        },
        view=view,
    )


def image_key(name: str) -> str:
    """What the names of one image share: the report's number and the film's.

    ``CXR1_1_IM-0001-4001.png`` and ``1_IM-0001-4001.dcm.png`` are both
    ``1_IM-0001-4001``; ``CXR10_IM-0002-1001`` is ``10_IM-0002-1001``. Several reports
    have a film ``IM-0002-1001``: without the number they would share it.
    """
    stem = name.removesuffix(".png").removesuffix(".dcm").removeprefix("CXR")
    report, _, film = stem.partition("_")
    return f"{report}_{film.removeprefix(f'{report}_')}"


def _by_key(named: Sequence[tuple[str, T]]) -> dict[str, T]:
    """Things by the key of their image's name.

    Raises:
        DataError: Two names have one key, so that films could not be told apart.
    """
    found: dict[str, tuple[str, T]] = {}
    for name, thing in named:
        other, _ = found.setdefault(image_key(name), (name, thing))
        if other != name:
            raise DataError(f"images: {other} and {name} are names of one image")
    return {key: thing for key, (_, thing) in found.items()}


def _read_xml(source: Path, ledger: Ledger) -> Iterator[_Report]:
    for name, content in _documents(source):
        try:
            with reading(source, "XML report", key=name, quote=False):
                report = _parse(name, content)
        except DataError as error:
            ledger.fault(name, f"unreadable XML ({error})")
            continue
        yield report


def _parse(name: str, content: bytes) -> _Report:
    root = ElementTree.fromstring(content)
    text = {e.get("Label"): e.text or "" for e in root.iter("AbstractText")}
    return _Report(
        id=name.removesuffix(".xml"),
        findings=" ".join(text.get("FINDINGS", "").split()),
        impression=" ".join(text.get("IMPRESSION", "").split()),
        headings=_headings(e.text or "" for e in root.iter("major")),
        images=tuple(e.get("id", "") for e in root.iter("parentImage")),
    )


def _documents(source: Path) -> Iterator[tuple[str, bytes]]:
    """XML files of the archive (read in place, nothing is unpacked) or of a folder."""
    if source.is_dir():
        for path in sorted(source.glob("*.xml"), key=lambda p: (len(p.stem), p.stem)):
            with reading(path, "XML report"):
                content = path.read_bytes()
            yield path.name, content
        return
    # Read to the end first: the boundary must not take the blame for what happens
    # between two reports. All of them are 4 MB.
    with reading(source, "archive of reports"):
        found = list(_members(source))
    yield from found


def _members(source: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(source) as archive:
        for member in archive:
            if not member.isreg() or not member.name.endswith(".xml"):
                continue
            affordable(source, (member.size,), "uint8", f"member {member.name}")
            file = archive.extractfile(member)
            if file is not None:
                with file:
                    yield Path(member.name).name, file.read()


def _read_table(source: Path, ledger: Ledger) -> Iterator[_Report]:
    wanted = ["uid", "MeSH", "findings", "impression"]
    for _, row in read_table(source, wanted, ledger=ledger):
        yield _Report(
            id=row["uid"],
            findings=" ".join(row["findings"].split()),
            impression=" ".join(row["impression"].split()),
            headings=_headings(row["MeSH"].split(";")),
            images=(),
        )


def _headings(codes: Iterator[str] | list[str]) -> frozenset[str]:
    """MeSH codes are heading/qualifier/...; the heading alone says the finding."""
    return frozenset(c.split("/")[0].strip().lower() for c in codes if c.strip())
