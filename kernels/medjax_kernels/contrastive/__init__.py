"""Contrast between paired features over a global batch, never holding N x N."""

from medjax_kernels.contrastive.api import sigmoid_loss, softmax_loss
from medjax_kernels.contrastive.exchange import Exchange
from medjax_kernels.contrastive.targets import Dense, Groups, Identity, Similarity

__all__ = [
    "Dense",
    "Exchange",
    "Groups",
    "Identity",
    "Similarity",
    "sigmoid_loss",
    "softmax_loss",
]
