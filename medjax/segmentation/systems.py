"""The systems of this domain by name, and what a run says of itself."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medjax.segmentation.dropout import DropoutConfig, dropout_system
from medjax.segmentation.hierarchical import HierarchicalConfig, hierarchical_system
from medjax.segmentation.inference import WindowConfig
from medjax.segmentation.phiseg import PHiSegConfig, phiseg_system
from medjax.segmentation.preparation import Preparation
from medjax.segmentation.probunet import ProbUNetConfig, probunet_system
from medjax.segmentation.several import (
    EnsembleConfig,
    ViewsConfig,
    ensemble_system,
    views_system,
)
from medjax.segmentation.ssn import SSNConfig, ssn_system
from medjax.segmentation.system import (
    SegmentationConfig,
    SegmentationSystem,
    segmentation_system,
)
from medjax.train.record import load_record, save_record

FAMILIES: Mapping[str, tuple[type, Any]] = {
    "segmentation": (SegmentationConfig, segmentation_system),
    "hierarchical": (HierarchicalConfig, hierarchical_system),
    "probunet": (ProbUNetConfig, probunet_system),
    "phiseg": (PHiSegConfig, phiseg_system),
    "ssn": (SSNConfig, ssn_system),
    "dropout": (DropoutConfig, dropout_system),
    "tta": (ViewsConfig, views_system),
    "ensemble": (EnsembleConfig, ensemble_system),
}
"""The class of a system's settings and what makes the system of them."""


@dataclasses.dataclass(frozen=True)
class SegmentationRecord:
    """What ``system.json`` holds."""

    system: SegmentationConfig
    """Settings of the system."""
    preparation: Preparation
    """What is done to every image."""
    data: str
    """What it was trained on, for titles."""
    window: WindowConfig = WindowConfig()
    """Tiles, unless others are asked for."""
    can: tuple[str, ...] = ()
    """What a trained one is good for, of ``predict`` and ``samples``."""

    def build(self) -> SegmentationSystem:
        """The system."""
        name = family(self.system)
        return FAMILIES[name][1](self.system)

    def save(self, workdir: Path) -> None:
        """Writes ``system.json`` into a folder, made where it is missing."""
        save_record(workdir, family(self.system), self)

    @classmethod
    def load(cls, workdir: Path) -> "SegmentationRecord":
        """Reads ``system.json``.

        Raises:
            FileNotFoundError: Where there is none.
            DataError: Where it is damaged, of another version, or of another domain.
        """
        kinds = {name: kind for name, (kind, _) in FAMILIES.items()}
        return load_record(workdir, cls, kinds)


def family(config: Any) -> str:
    """The name in :data:`FAMILIES` of a system's settings."""
    return next(name for name, (kind, _) in FAMILIES.items() if type(config) is kind)
