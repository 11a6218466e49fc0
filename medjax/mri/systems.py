"""The learned reconstructions by name, and what a run says of itself.

A run leaves ``system.json`` beside its checkpoints (:mod:`medjax.train.record`): which
system it is, with all its settings, and what it was trained on.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medjax.mri.image_unet import ImageUNetConfig, image_unet_system
from medjax.mri.latent_transformer import SingleCoilConfig, latent_transformer_system
from medjax.mri.promptmr import PromptMRConfig, promptmr_system
from medjax.mri.scans import Contrast
from medjax.mri.series import ReconstructionSystem, at_magnitude
from medjax.mri.unrolled import UnrolledConfig, unrolled_system
from medjax.mri.varnet import VarNetConfig, varnet_system
from medjax.train.record import load_record, save_record
from medjax_kernels.data_consistency.dispatch import ConsistencyImplementation

ReconstructionConfig = (
    SingleCoilConfig | UnrolledConfig | VarNetConfig | PromptMRConfig | ImageUNetConfig
)
FAMILIES: Mapping[str, tuple[type, Callable[[Any], ReconstructionSystem]]] = {
    "latent_transformer": (SingleCoilConfig, latent_transformer_system),
    "unrolled": (UnrolledConfig, unrolled_system),
    "varnet": (VarNetConfig, varnet_system),
    "promptmr": (PromptMRConfig, promptmr_system),
    "image_unet": (ImageUNetConfig, image_unet_system),
}
"""The class of a system's settings and what makes the system of them."""


@dataclasses.dataclass(frozen=True)
class ReconstructionKernels:
    """Which kernels do the hot work."""

    implementation: ConsistencyImplementation | None = None
    """Of data consistency; None picks the best for platform and shape."""
    lines: int | None = None
    """Sampled lines of every mask of the run, at most: the thin matrix form (xla_dft,
    gpu) then does as much work as there are lines. A mask with more gives NaN."""


def family(config: ReconstructionConfig) -> str:
    """The name in :data:`FAMILIES` of a system's settings."""
    return next(k for k, (kind, _) in FAMILIES.items() if type(config) is kind)


def build(
    config: ReconstructionConfig, kernels: ReconstructionKernels
) -> ReconstructionSystem:
    """The system of these settings, with the chosen kernels."""
    if not isinstance(config, ImageUNetConfig):  # which has no data consistency
        config = dataclasses.replace(
            config, implementation=kernels.implementation, lines=kernels.lines
        )
    return FAMILIES[family(config)][1](config)


def negated_frames(config: ReconstructionConfig) -> int:
    """How many of the first frames' magnitudes the system turns round, for T1."""
    if isinstance(config, UnrolledConfig) and config.denoiser != "latent_transformer":
        return 0
    if not isinstance(config, SingleCoilConfig | UnrolledConfig):
        return 0
    network = config.network
    return network.negative_frames if network.backbone == "restormer" else 0


@dataclasses.dataclass(frozen=True)
class Trained:
    """What ``system.json`` holds.

    Attributes:
        system: settings of the system.
        magnitude: largest pixel of the zero-filled series that it was trained on (the
            median over series), in the unit of their k-space.
        data: what it was trained on, for titles.
        series: T1 or T2.
        frames: of those series.
        coils: of those series.
        acceleration: of their masks.
        acs: central lines of their masks.
        can: what the system can do, the names of its ``apply``.
    """

    system: ReconstructionConfig
    magnitude: float
    data: str
    series: Contrast
    frames: int
    coils: int
    acceleration: tuple[int, ...]
    acs: int
    can: tuple[str, ...] = ()

    def build(self) -> ReconstructionSystem:
        """The system, shown every series at the magnitude it was trained on."""
        return at_magnitude(build(self.system, ReconstructionKernels()), self.magnitude)

    def save(self, workdir: Path) -> None:
        """Writes ``system.json`` into a folder, made where it is missing."""
        save_record(workdir, family(self.system), self)

    @classmethod
    def load(cls, workdir: Path) -> "Trained":
        """Reads ``system.json``.

        Raises:
            FileNotFoundError: where there is none.
            DataError: where it is damaged, of another version, or not of a
                reconstruction.
        """
        kinds = {name: kind for name, (kind, _) in FAMILIES.items()}
        return load_record(workdir, cls, kinds)
