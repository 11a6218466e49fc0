"""The pre-training systems by name, and what a run of one says of itself.

A run leaves ``system.json`` (:mod:`medjax.train.record`) and, under ``reports/``, the
tokenizer and the sizes of its report tower: with both, its weights open anywhere.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medjax.data.images import ResizeMode
from medjax.train.record import load_record, save_record
from medjax.vlp.contrastive import ContrastConfig
from medjax.vlp.convirt import ConvirtConfig, convirt
from medjax.vlp.gloria import GloriaConfig, gloria
from medjax.vlp.imitate import ImitateConfig, imitate
from medjax.vlp.mflag import MFlagConfig, mflag
from medjax.vlp.mgca import MgcaConfig, mgca
from medjax.vlp.system import PretrainingSystem
from medjax.vlp.tokens import Tokenizer
from medjax.vlp.towers import ImageTowerConfig, TextTowerConfig, bert_config

Build = Callable[
    [Any, ImageTowerConfig, TextTowerConfig, ContrastConfig], PretrainingSystem
]
"""System, image tower, report tower and contrast to pure functions."""

PairConfig = ImitateConfig | MFlagConfig | ConvirtConfig | GloriaConfig | MgcaConfig
FAMILIES: Mapping[str, tuple[type, Build]] = {
    "imitate": (ImitateConfig, imitate),
    "mflag": (MFlagConfig, mflag),
    "convirt": (ConvirtConfig, convirt),
    "gloria": (GloriaConfig, gloria),
    "mgca": (MgcaConfig, mgca),
}
"""The class of a system's settings and what makes the system of them."""
REPORTS = "reports"
"""Folder of a run with the tokenizer and the sizes of the report tower."""


def family(config: PairConfig) -> str:
    """The name in :data:`FAMILIES` of a system's settings."""
    return next(k for k, (kind, _) in FAMILIES.items() if type(config) is kind)


@dataclasses.dataclass(frozen=True)
class PairRecord:
    """What ``system.json`` holds of two towers.

    Attributes:
        system: settings of heads and loss.
        image: the image tower.
        text: the report tower; its checkpoint is the run's own ``reports/``.
        image_size: side of the square films it was trained on.
        resize: how a film becomes that square.
        compared: the section that an image embedding is meant to find.
        data: what it was trained on, for titles.
        findings: names of the labels of those data.
        can: what the system can do, the names of its ``apply``.
        generators: what made the films it was trained on of their reports (weights,
            section, sampler, seed), one entry for each of several films of a report;
            empty: they were taken.
    """

    system: PairConfig
    image: ImageTowerConfig
    text: TextTowerConfig
    image_size: int
    resize: ResizeMode
    compared: str
    data: str
    findings: tuple[str, ...]
    can: tuple[str, ...] = ()
    generators: tuple[Mapping[str, Any], ...] = ()

    def with_sizes(self, workdir: Path) -> "PairRecord":
        """The same, whose report tower takes its sizes from the run's folder."""
        text = dataclasses.replace(self.text, checkpoint=str(workdir / REPORTS))
        return dataclasses.replace(self, text=text)

    def build(self, workdir: Path) -> PretrainingSystem:
        """The system, with sizes from the run's folder."""
        make = FAMILIES[family(self.system)][1]
        text = self.with_sizes(workdir).text
        return make(self.system, self.image, text, ContrastConfig())

    def save(self, workdir: Path, tokenizer: Tokenizer) -> None:
        """Writes ``system.json`` and ``reports/`` into a run's folder."""
        folder = workdir / REPORTS
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(folder)
        sizes = json.dumps(bert_config(self.text).to_dict(), indent=2)
        (folder / "config.json").write_text(sizes + "\n")
        # Where its weights came from is another machine's business: they are here.
        here = dataclasses.replace(self.text, checkpoint=None, tokenizer=None)
        record = dataclasses.replace(self, text=here)
        save_record(workdir, family(self.system), record)

    @classmethod
    def load(cls, workdir: Path) -> "PairRecord":
        """Reads ``system.json``.

        Raises:
            FileNotFoundError: where there is none.
            DataError: where it is damaged, of another version, or not of two towers.
        """
        kinds = {name: kind for name, (kind, _) in FAMILIES.items()}
        return load_record(workdir, cls, kinds)
