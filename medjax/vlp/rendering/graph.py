"""What a chest report says, as data: findings with side, zone, severity and kind.

A report is worth drawing, or scoring, only for the statements in it. This module holds
them as a `FindingGraph`: the findings that are *present* (each a node with attributes)
and the ones *stated to be absent*. A finding that is neither was not mentioned. The
grammar writes graphs as prose, the parser reads them back, and the law that joins the
two is ``parse(write(graph)) == graph``.

The ten findings are a subset of the CheXpert vocabulary plus emphysema, each chosen
because it looks different on a frontal radiograph. Prevalences are those of an
in-patient population, raised where a rare finding would leave nothing to learn from.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

SIDES = ("left", "right", "both")
"""Of the patient, so "left" is on the viewer's right. The empty string: not stated."""

ZONES = ("upper", "mid", "lower")
SEVERITIES = ("mild", "moderate", "severe")
DEVICES = ("pacemaker", "endotracheal tube", "central venous catheter")


@dataclass(frozen=True)
class Finding:
    """One finding that is present. An empty attribute means the report does not say.

    Attributes:
        side: one of `SIDES`, of the patient.
        zone: one of `ZONES`.
        severity: one of `SEVERITIES`; sizes are folded in ("small" is mild).
        kind: which device, for "Support Devices".
    """

    side: str = ""
    zone: str = ""
    severity: str = ""
    kind: str = ""


@dataclass(frozen=True)
class FindingGraph:
    """The statements of one report: what is there, and what is said not to be."""

    present: Mapping[str, Finding]
    absent: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        known = {*self.present, *self.absent}
        if unknown := known - set(FINDINGS):
            raise ValueError(
                f"unknown findings {sorted(unknown)}; known: {list(FINDINGS)}"
            )
        if both := set(self.present) & self.absent:
            raise ValueError(f"findings both present and absent: {sorted(both)}")

    def labels(self) -> dict[str, float]:
        """The stated truth: 1 present, 0 absent; what is not mentioned is left out."""
        stated = dict.fromkeys(self.present, 1.0) | dict.fromkeys(self.absent, 0.0)
        return {name: stated[name] for name in FINDINGS if name in stated}


@dataclass(frozen=True)
class FindingKind:
    """How one finding occurs: how often, and which attributes it may carry."""

    prevalence: float
    sides: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    severities: tuple[str, ...] = SEVERITIES
    kinds: tuple[str, ...] = ()
    raised_by: tuple[tuple[str, float], ...] = ()
    """Findings that make this one more likely, and the probability they raise it to."""


FINDINGS: Mapping[str, FindingKind] = {
    "Cardiomegaly": FindingKind(0.24),
    "Edema": FindingKind(0.12, raised_by=(("Cardiomegaly", 0.30),)),
    "Pleural Effusion": FindingKind(0.18, SIDES, raised_by=(("Edema", 0.45),)),
    "Atelectasis": FindingKind(
        0.16, SIDES, ("mid", "lower", "lower"), raised_by=(("Pleural Effusion", 0.30),)
    ),
    "Consolidation": FindingKind(0.20, SIDES, ZONES),
    "Pneumothorax": FindingKind(0.12, ("left", "right")),
    "Nodule": FindingKind(0.14, ("left", "right"), ZONES, ("mild", "severe")),
    "Emphysema": FindingKind(0.13),
    "Fracture": FindingKind(0.13, ("left", "right"), severities=()),
    "Support Devices": FindingKind(
        0.24, ("left", "right"), severities=(), kinds=DEVICES
    ),
}
"""Every finding in causal order: later ones may be raised by earlier ones."""

LUNG_FINDINGS = ("Edema", "Atelectasis", "Consolidation", "Nodule")
"""What "the lungs are clear" rules out."""


def draw_graph(rng: np.random.Generator, *, normal: float = 0.22) -> FindingGraph:
    """A random study.

    Args:
        rng: where the draws come from.
        normal: the share of studies forced to show nothing; some more are normal by
            chance.

    Returns:
        A graph in which a severity is left unsaid one time in four, and each finding
        that is not present is stated absent about every second time.
    """
    present: dict[str, Finding] = {}
    if rng.random() >= normal:
        for name, kind in FINDINGS.items():
            raised = [p for cause, p in kind.raised_by if cause in present]
            if rng.random() < max([kind.prevalence, *raised]):
                present[name] = _draw_finding(rng, kind)
    rest = [name for name in FINDINGS if name not in present]
    absent = frozenset(name for name in rest if rng.random() < 0.5)
    return FindingGraph(present, absent)


def _draw_finding(rng: np.random.Generator, kind: FindingKind) -> Finding:
    device = _pick(rng, kind.kinds)
    return Finding(
        # A tube in the trachea has no side.
        side="" if device == "endotracheal tube" else _pick(rng, kind.sides),
        zone=_pick(rng, kind.zones),
        severity=_pick(rng, kind.severities) if rng.random() < 0.75 else "",
        kind=device,
    )


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))] if options else ""
