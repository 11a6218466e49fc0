"""Data sets as people keep them, by kind of folder."""

from collections.abc import Mapping

from medjax.segmentation.datasets.case import Case, DataSet, Reader, with_splits
from medjax.segmentation.datasets.hearts import Acdc, CmrxMotion, Mnms
from medjax.segmentation.datasets.lesions import Bids, Pairs
from medjax.segmentation.datasets.nnunet import NnunetRaw

READERS: Mapping[str, type[Reader]] = {
    "nnunet": NnunetRaw,
    "acdc": Acdc,
    "mnms": Mnms,
    "cmrxmotion": CmrxMotion,
    "bids": Bids,
    "table": Pairs,
}
"""By the name that commands give them; ``nnunet`` reads the Decathlon too."""

__all__ = [
    "READERS",
    "Acdc",
    "Bids",
    "Case",
    "CmrxMotion",
    "DataSet",
    "Mnms",
    "NnunetRaw",
    "Pairs",
    "Reader",
    "with_splits",
]
