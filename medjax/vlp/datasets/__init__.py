"""Data sets of radiographs and reports, one small file each, read into ``Study``.

``study`` holds what they share; ``prepare`` turns any of them, once, into a prepared
set; ``prepared`` opens that for training.
"""

from medjax.data.ledger import DataError, Ledger
from medjax.vlp.datasets.chexpert import CheXpert
from medjax.vlp.datasets.covidx import CovidX
from medjax.vlp.datasets.mimic import MimicCxr
from medjax.vlp.datasets.nih import NihCxr14
from medjax.vlp.datasets.object_cxr import ObjectCxr
from medjax.vlp.datasets.openi import OpenI
from medjax.vlp.datasets.prepare import prepare
from medjax.vlp.datasets.prepared import PreparedSource, open_prepared
from medjax.vlp.datasets.rows import PrepareConfig
from medjax.vlp.datasets.rsna import RsnaPneumonia
from medjax.vlp.datasets.siim import SiimPneumothorax
from medjax.vlp.datasets.study import (
    CHEXPERT_FINDINGS,
    LabelPolicy,
    Reader,
    Study,
    split_by_patient,
)
from medjax.vlp.datasets.table import Table

READERS = {
    "mimic": MimicCxr,
    "chexpert": CheXpert,
    "nih": NihCxr14,
    "rsna": RsnaPneumonia,
    "siim": SiimPneumothorax,
    "object_cxr": ObjectCxr,
    "covidx": CovidX,
    "openi": OpenI,
    "table": Table,
}
"""Data sets by the name that the command line knows."""

__all__ = [
    "CHEXPERT_FINDINGS",
    "READERS",
    "CheXpert",
    "CovidX",
    "DataError",
    "LabelPolicy",
    "Ledger",
    "MimicCxr",
    "NihCxr14",
    "ObjectCxr",
    "OpenI",
    "PrepareConfig",
    "PreparedSource",
    "Reader",
    "RsnaPneumonia",
    "SiimPneumothorax",
    "Study",
    "Table",
    "open_prepared",
    "prepare",
    "split_by_patient",
]
