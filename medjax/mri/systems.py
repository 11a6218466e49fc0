"""The learned reconstructions by name, and what a run says of itself.

A run leaves ``system.json`` beside its checkpoints: which system it is, with all its
settings, and what it was trained on. With that, weights can be used without the flags
that made them.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import DTypeLike

from medjax.data.boundary import reading
from medjax.data.documents import read_json, revive
from medjax.mri.latent_transformer import SingleCoilConfig, latent_transformer_system
from medjax.mri.promptmr import PromptMRConfig, promptmr_system
from medjax.mri.scans import Contrast
from medjax.mri.series import ReconstructionSystem, at_magnitude
from medjax.mri.unrolled import UnrolledConfig, unrolled_system
from medjax.mri.varnet import VarNetConfig, varnet_system
from medjax_kernels.data_consistency.dispatch import ConsistencyImplementation

ReconstructionConfig = SingleCoilConfig | UnrolledConfig | VarNetConfig | PromptMRConfig
FAMILIES: Mapping[str, tuple[type, Callable[[Any], ReconstructionSystem]]] = {
    "latent_transformer": (SingleCoilConfig, latent_transformer_system),
    "unrolled": (UnrolledConfig, unrolled_system),
    "varnet": (VarNetConfig, varnet_system),
    "promptmr": (PromptMRConfig, promptmr_system),
}
"""The class of a system's settings and what makes the system of them."""
RECORD = "system.json"


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
    """

    system: ReconstructionConfig
    magnitude: float
    data: str
    series: Contrast
    frames: int
    coils: int
    acceleration: tuple[int, ...]
    acs: int

    def build(self) -> ReconstructionSystem:
        """The system, shown every series at the magnitude it was trained on."""
        return at_magnitude(build(self.system, ReconstructionKernels()), self.magnitude)

    def save(self, workdir: Path) -> None:
        """Writes ``system.json`` into a folder, made where it is missing."""
        workdir.mkdir(parents=True, exist_ok=True)
        content = {"family": family(self.system), **dataclasses.asdict(self)}
        text = json.dumps(content, indent=2, default=lambda d: np.dtype(d).name)
        (workdir / RECORD).write_text(text + "\n")

    @classmethod
    def load(cls, workdir: Path) -> "Trained":
        """Reads ``system.json``.

        Raises:
            FileNotFoundError: where there is none.
            ValueError: where it is damaged, or of another version.
        """
        path = workdir / RECORD
        if not path.is_file():
            raise FileNotFoundError(
                f"{workdir} is not the folder of a reconstruction's run: no {RECORD} "
                "in it (the run's own command on its folder writes one)"
            )
        what = "record of a trained system of this version"
        with reading(path, what):
            content = read_json(path, what)
            kind, _ = FAMILIES[content.pop("family")]
            parsers = {DTypeLike: np.dtype}
            system = revive(kind, content.pop("system"), parsers)
            return revive(cls, {**content, "system": system})
