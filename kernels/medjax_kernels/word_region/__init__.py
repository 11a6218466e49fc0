"""GLoRIA's local similarity of all image-report pairs, attention never held."""

from medjax_kernels.word_region.api import word_region_similarity
from medjax_kernels.word_region.distributed import (
    global_cross_entropy,
    global_similarity,
)

__all__ = ["global_cross_entropy", "global_similarity", "word_region_similarity"]
