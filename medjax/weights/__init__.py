"""Safetensors to parameter trees and back, one name table per network."""

from medjax.weights.checkpoints import load, save
from medjax.weights.convert import from_torch, part, to_torch
from medjax.weights.files import checkpoint_digest, checkpoint_file

__all__ = [
    "checkpoint_digest",
    "checkpoint_file",
    "from_torch",
    "load",
    "part",
    "save",
    "to_torch",
]
