"""Batches that people train with; shared by tests, benchmark and compilation."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Shape:
    """Every image of a batch against every report.

    Attributes:
      images: images of the batch.
      reports: reports of the batch.
      words: words of the longest report.
      regions: positions of the local feature map.
      d: width of the features.
      dtype: of the features.
      source: who trains with it.
    """

    images: int
    reports: int
    words: int
    regions: int
    d: int
    dtype: str = "float32"
    source: str = ""


SHAPES = {
    "tiny": Shape(3, 4, 7, 10, 16, source="tests"),
    "sentence": Shape(48, 48, 25, 361, 768, source="GLoRIA, one sentence a report"),
    "sentence_16": Shape(16, 16, 25, 361, 768, source="the same, a small batch"),
    "gloria": Shape(48, 48, 97, 361, 768, source="GLoRIA, word_num 97, layer 3"),
    "gloria_bf16": Shape(48, 48, 97, 361, 768, "bfloat16", "the same in bfloat16"),
    "gloria_256": Shape(256, 256, 97, 361, 768, "bfloat16", "a batch of 256"),
    "mgca": Shape(72, 72, 111, 361, 128, source="MGCA's features, one device"),
    "mgca_global": Shape(72, 144, 111, 361, 128, source="the same, 2 devices x 72"),
}
"""Name to shape. GLoRIA upsamples images to 299 pixels: 19 x 19 regions at layer 3."""
