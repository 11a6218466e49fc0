"""T1 and T2 maps: every pixel's exponential fitted at once.

``t1`` and ``t2`` hold the models, ``exponential`` the search that they share, ``noise``
the noise floor of magnitudes, ``plausibility`` what is to be made of a fit.

Times and maps are in ms. Series may be of any real type (DICOM holds unsigned 16-bit
integers): fits run in float32, or in float64 where that is what comes.
"""

from medjax.mri.relaxometry.noise import estimate_sigma
from medjax.mri.relaxometry.plausibility import REASONS, implausible
from medjax.mri.relaxometry.series import FRAMES_TO_FIT
from medjax.mri.relaxometry.t1 import T1Map, T1Mode, fit_t1, phase_sensitive
from medjax.mri.relaxometry.t2 import T2Map, T2Method, fit_t2

__all__ = [
    "FRAMES_TO_FIT",
    "REASONS",
    "T1Map",
    "T1Mode",
    "T2Map",
    "T2Method",
    "estimate_sigma",
    "fit_t1",
    "fit_t2",
    "implausible",
    "phase_sensitive",
]
