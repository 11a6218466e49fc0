"""MIMIC-CXR-JPG 2.0.0 and 2.1.0 (Johnson et al. 2019, PhysioNet): images and reports.

The tree of the project, with the reports (a separate download of MIMIC-CXR) unpacked
into it, beside the study folders, or anywhere else::

    <root>/mimic-cxr-2.0.0-metadata.csv.gz        (also .csv; 2.1.0 keeps these names)
    <root>/mimic-cxr-2.0.0-split.csv.gz
    <root>/mimic-cxr-2.0.0-chexpert.csv.gz
    <root>/files/p10/p10000032/s50414267/<dicom_id>.jpg
    <root>/files/p10/p10000032/s50414267.txt      (or under --reports)

A study here is one image: two frontal films of one report are two pairs. Filters follow
MGCA (frontal views, a findings or impression section), each with its count; the
papers' totals differ (187k to 217k), so look at the counts, not at a total.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from medjax.data.boundary import reading
from medjax.data.ledger import DataError, Ledger
from medjax.data.tables import Row, read_table
from medjax.vlp.datasets.study import (
    CHEXPERT_FINDINGS,
    LabelPolicy,
    Study,
    find_one,
)
from medjax.vlp.reports import split_sections

NUMBER = re.compile(r"\d{1,12}")
# wget keeps the path of the site; the folder a user names may be above the tree.
ABOVE = ("", "mimic-cxr-jpg/", "physionet.org/files/mimic-cxr-jpg/*/")
SPLITS = {"train": "train", "validate": "valid", "test": "test"}


@dataclass(frozen=True)
class MimicCxr:
    """MIMIC-CXR-JPG 2.0.0 or 2.1.0."""

    root: Path
    """Folder with the CSV files and files/."""
    reports: Path | None = None
    """Folder of the reports' p10/... tree (or its files/), if not beside the images."""
    views: tuple[str, ...] = ("PA", "AP")
    """View positions kept."""
    labeler: Literal["chexpert", "negbio", "none"] = "chexpert"
    """Whose labels."""
    labels: LabelPolicy = LabelPolicy()
    """What blank and uncertain labels become."""
    last_paragraph: bool = False
    """Take the last paragraph as report where neither section exists."""
    faithful: bool = False
    """Section the reports as the released code does (see medjax.vlp.reports)."""

    name = "mimic_cxr"
    has_text = True

    def read(self, ledger: Ledger) -> list[Study]:
        """All image-report pairs that pass the filters."""
        table = self._table("metadata")
        root = table.parent
        wanted = ["dicom_id", "subject_id", "study_id", "ViewPosition"]
        rows = []
        for line, row in read_table(table, wanted, ledger=ledger):
            # They are names of folders next.
            if all(NUMBER.fullmatch(row[key]) for key in ("subject_id", "study_id")):
                rows.append(row)
            else:
                reason = "subject_id and study_id are expected to be numbers"
                ledger.fault(f"{table}:{line}", reason)
        ledger.count("images in the metadata", len(rows))
        views = "/".join(self.views)
        rows = ledger.keep(
            f"view {views}", rows, lambda row: row["ViewPosition"] in self.views
        )
        split = self._splits(ledger)
        rows = ledger.keep(
            "in the official split", rows, lambda row: row["dicom_id"] in split
        )
        labels = self._labels(ledger)
        unlabelled: Mapping[str, float] = (
            {finding: np.nan for finding in CHEXPERT_FINDINGS} if labels else {}
        )
        sections = self._sections(root, rows, ledger)
        rows = ledger.keep("report on file", rows, lambda r: r["study_id"] in sections)
        wanted = "findings, impression" + " or last paragraph" * self.last_paragraph
        rows = ledger.keep(
            f"has {wanted}", rows, lambda r: any(sections[r["study_id"]])
        )
        return [
            Study(
                id=row["dicom_id"],
                patient=row["subject_id"],
                image=_study(root / "files", row) / f"{row['dicom_id']}.jpg",
                findings=sections[row["study_id"]][0],
                impression=sections[row["study_id"]][1],
                report=sections[row["study_id"]][2],
                labels=labels.get(row["study_id"], unlabelled),
                split=split[row["dicom_id"]],
                view=row["ViewPosition"],
            )
            for row in rows
        ]

    def _table(self, kind: str) -> Path:
        names = [f"mimic-cxr-*-{kind}.csv", f"mimic-cxr-*-{kind}.csv.gz"]
        patterns = [above + name for above in ABOVE for name in names]
        return find_one(self.root, patterns, "a MIMIC-CXR-JPG folder")

    def _splits(self, ledger: Ledger) -> dict[str, str]:
        """Image to our name of its official split."""
        table, found = self._table("split"), {}
        for line, row in read_table(table, ["dicom_id", "split"], ledger=ledger):
            if row["split"] not in SPLITS:
                fault = f"split: expected one of {list(SPLITS)}"
                ledger.fault(f"{table.name}:{line}", fault)
                continue
            found[row["dicom_id"]] = SPLITS[row["split"]]
        return found

    def _labels(self, ledger: Ledger) -> dict[str, Mapping[str, float]]:
        if self.labeler == "none":
            return {}
        table = self._table(self.labeler)
        rows = read_table(table, ["study_id", *CHEXPERT_FINDINGS], ledger=ledger)
        return {
            row["study_id"]: {
                f: self.labels(f, row[f], f"{table.name}:{line}")
                for f in CHEXPERT_FINDINGS
            }
            for line, row in rows
        }

    def _sections(
        self, root: Path, rows: list[Row], ledger: Ledger
    ) -> dict[str, tuple[str, str, str]]:
        """Study to findings, impression and (where asked for) the last paragraph."""
        base = self.reports or root / "files"
        if (base / "files").is_dir():
            base = base / "files"
        sections: dict[str, tuple[str, str, str]] = {}
        missing: list[str] = []
        for row in {row["study_id"]: row for row in rows}.values():
            path = _study(base, row).with_suffix(".txt")
            try:
                with reading(path, "report", quote=False):
                    text = path.read_text(encoding="utf-8", errors="replace")
            except FileNotFoundError:
                missing.append(row["study_id"])
                continue
            found = split_sections(text, faithful=self.faithful)
            last = found.get("last_paragraph", "") if self.last_paragraph else ""
            parts = found.get("findings", ""), found.get("impression", ""), last
            sections[row["study_id"]] = parts
        if missing and not sections:
            raise DataError(
                f"reports: none of {len(missing)} reports found under {base}: expected "
                "p10/p10000032/s50414267.txt beside the study folders; they are a "
                "separate download (mimic-cxr-reports.zip), see --reports"
            )
        for study in missing:
            ledger.fault(f"s{study}", "no report file")
        return sections


def _study(base: Path, row: Mapping[str, str]) -> Path:
    subject = row["subject_id"]
    return base / f"p{subject[:2]}" / f"p{subject}" / f"s{row['study_id']}"
