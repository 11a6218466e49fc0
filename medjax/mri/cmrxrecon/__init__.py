"""The CMRxRecon challenges (2023, 2024, 2025): files, splits, preparation and scores.

Wang et al., arXiv 2309.10836 and Sci Data 2024 11:687. The data need a registration
(Synapse syn51471091, syn52965326); :func:`fabricate` writes a small tree of the same
layout to develop against.
"""

from medjax.mri.cmrxrecon.evaluation import (
    aggregate_2023,
    official_scores,
    ranking_crop,
)
from medjax.mri.cmrxrecon.layout import EDITIONS, SeriesFiles, find
from medjax.mri.cmrxrecon.lookalike import fabricate
from medjax.mri.cmrxrecon.pipeline import training_stream
from medjax.mri.cmrxrecon.prepare import prepare
from medjax.mri.cmrxrecon.reader import Series, read_series, read_slice
from medjax.mri.cmrxrecon.splits import (
    last_patients_split,
    latent_transformer_split,
    promptmr_split,
)

__all__ = [
    "EDITIONS",
    "Series",
    "SeriesFiles",
    "aggregate_2023",
    "fabricate",
    "find",
    "last_patients_split",
    "latent_transformer_split",
    "official_scores",
    "prepare",
    "promptmr_split",
    "ranking_crop",
    "read_series",
    "read_slice",
    "training_stream",
]
