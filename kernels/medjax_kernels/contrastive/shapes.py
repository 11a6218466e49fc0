"""Batches that people train with; shared by the tests and the benchmark."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Shape:
    """A contrastive problem.

    Attributes:
      n: pairs in the global batch.
      d: width of the projected features.
      p: width of the report features that soft targets compare; 0: hard targets.
      dtype: of the features.
      source: who trains with it.
    """

    n: int
    d: int
    p: int = 0
    dtype: str = "bfloat16"
    source: str = ""


SHAPES = {
    "gloria": Shape(48, 768, dtype="float32", source="GLoRIA, batch of one device"),
    "mgca": Shape(144, 128, dtype="float32", source="MGCA, 2 devices x 72"),
    "imitate": Shape(128, 512, 768, "float32", "IMITATE, one device"),
    "mflag": Shape(512, 1024, dtype="float32", source="M-FLAG, one device"),
    "imitate_global": Shape(1024, 512, 768, "float32", "IMITATE, 8 devices x 128"),
    "clip_4k": Shape(4096, 512, source="medical CLIP on one node"),
    "soft_4k": Shape(4096, 512, 768, source="clip_4k with IMITATE's soft targets"),
    "clip_32k": Shape(32768, 512, source="OpenCLIP's batch, on one H200"),
    "soft_32k": Shape(32768, 512, 768, source="clip_32k with soft targets"),
    "siglip_64k": Shape(65536, 768, source="siglip-kernel's published figure"),
}
"""Name to shape; the 32k ones carry the targets of the README's table."""
