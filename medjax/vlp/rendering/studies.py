"""Embedded studies: patients, reports and labels that need no file at all.

Each study draws a finding graph, words it as a report, and keeps the graph's truth as
labels: 1 for what is there, 0 for what is not, whether or not the report mentions it.
Most reports have both sections; some have findings or an impression only, as in
MIMIC-CXR, where the systems must cope with it. Patients have one to three studies, and
splits are by patient: nobody is in two of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medjax.vlp.rendering.grammar import write
from medjax.vlp.rendering.graph import FINDINGS, FindingGraph, draw_graph

SECTIONS = {"both": 0.8, "findings": 0.1, "impression": 0.1}
SPLITS = {"train": 0.7, "valid": 0.1, "test": 0.2}


@dataclass(frozen=True)
class EmbeddedStudy:
    """One invented study.

    Attributes:
        id, patient: names, unique and shared by a patient's studies respectively.
        findings, impression: section texts; an empty string is a missing section.
        labels: every name of `FINDINGS` to 1.0 or 0.0.
        split: "train", "valid" or "test".
        graph: what the report states.
    """

    id: str
    patient: str
    findings: str
    impression: str
    labels: Mapping[str, float]
    split: str
    graph: FindingGraph

    @property
    def report(self) -> str:
        """The sections under their headers: what a generator draws."""
        sections = (("FINDINGS", self.findings), ("IMPRESSION", self.impression))
        return "\n\n".join(f"{header}: {text}" for header, text in sections if text)


def embedded_studies(n_patients: int, seed: int) -> list[EmbeddedStudy]:
    """Invents patients and their studies.

    Args:
        n_patients: how many; about 1.5 studies each.
        seed: equal arguments give equal studies, and a larger set with the same seed
            contains the smaller one (in other splits).

    Returns:
        The studies in patient order. Shares of patients per split follow `SPLITS`,
        rounded; the assignment is shuffled.

    Raises:
        ValueError: for fewer than three patients, which cannot fill three splits.
    """
    if n_patients < 3:
        raise ValueError(f"n_patients: expected 3 or more, got {n_patients}")
    splits = _splits(n_patients, seed)
    return [
        _study(patient, visit, splits[patient], seed)
        for patient in range(n_patients)
        for visit in range(_visits(patient, seed))
    ]


def _splits(n_patients: int, seed: int) -> list[str]:
    counts = {name: max(1, round(share * n_patients)) for name, share in SPLITS.items()}
    counts["train"] = n_patients - counts["valid"] - counts["test"]
    names = [name for name, count in counts.items() for _ in range(count)]
    order = np.random.default_rng([seed, n_patients]).permutation(n_patients)
    return [names[i] for i in order]


def _visits(patient: int, seed: int) -> int:
    return int(
        np.random.default_rng([seed, patient]).choice((1, 2, 3), p=(0.6, 0.3, 0.1))
    )


def _study(patient: int, visit: int, split: str, seed: int) -> EmbeddedStudy:
    rng = np.random.default_rng([seed, patient, visit + 1])
    graph = draw_graph(rng)
    sections = rng.choice(list(SECTIONS), p=list(SECTIONS.values()))
    findings, impression = write(graph, rng, sections=str(sections))
    return EmbeddedStudy(
        id=f"s{patient:06d}{visit}",
        patient=f"p{patient:06d}",
        findings=findings,
        impression=impression,
        labels={name: float(name in graph.present) for name in FINDINGS},
        split=split,
        graph=graph,
    )
