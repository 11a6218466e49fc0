"""Problems that people reconstruct; shared by tests, benchmark and compilation."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Shape:
    """A batch of images with one line mask each, undersampled along ``h``.

    Attributes:
        batch: images.
        coils: receiver coils.
        height: phase-encode lines.
        width: readout positions.
        lines: sampled lines of each mask.
        source: whose problem it is.
    """

    batch: int
    coils: int
    height: int
    width: int
    lines: int
    source: str


SHAPES = {
    "tiny": Shape(2, 4, 32, 24, 8, "tests"),
    "laptop": Shape(2, 10, 256, 256, 64, "the CPU figure of the README"),
    "single_coil": Shape(9, 1, 144, 256, 36, "CMRxRecon T1, single coil, 9 frames"),
    "cmr": Shape(9, 10, 144, 256, 40, "CMRxRecon T1, multi-coil, 9 frames, R = 4"),
    "square": Shape(8, 16, 256, 256, 64, "the H200 figures of the README, R = 4"),
    "square_r8": Shape(8, 16, 256, 256, 32, "the same at R = 8"),
    "knee": Shape(1, 15, 372, 640, 64, "fastMRI multi-coil knee, R = 8 with centre"),
}
