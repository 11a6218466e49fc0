"""Reconstructions without learning: the references every network is measured against.

========================== =====================================================
:func:`zero_filled`        inverse Fourier transform, root sum of squares
:func:`cg_sense`           Tikhonov-regularised least squares (Pruessmann 2001)
:func:`espirit_sense`      the same over several ESPIRiT map sets (Uecker 2014)
:func:`soft_sense`         the same with sets of maps that are given
:func:`grappa`             missing k-space from its neighbours (Griswold 2002)
:func:`total_variation`    sparse gradients (Block 2007)
:func:`wavelet`            sparse db4 wavelets (Lustig 2007)
:func:`low_rank_plus_sparse` a series as background plus change (Otazo 2015)
========================== =====================================================

Every ``lam`` is *relative*: scaling k-space by a constant scales the result by the same
constant and changes nothing else. (Absolute regularisation, as elsewhere, must be tuned
anew for k-space of 1e-4 and of 1e+4.)
"""

from medjax.mri.classical.grappa import grappa
from medjax.mri.classical.linear import (
    cg_sense,
    espirit_sense,
    soft_sense,
    zero_filled,
)
from medjax.mri.classical.low_rank import low_rank_plus_sparse
from medjax.mri.classical.sparse import total_variation, wavelet

__all__ = [
    "cg_sense",
    "espirit_sense",
    "grappa",
    "low_rank_plus_sparse",
    "soft_sense",
    "total_variation",
    "wavelet",
    "zero_filled",
]
