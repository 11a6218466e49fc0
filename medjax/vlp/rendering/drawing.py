"""Report -> radiograph: the generator interface, and the one that ships embedded.

Synthetic-data pre-training (Liu, Shah, Bai, Arcucci, arXiv 2310.07027) replaces every
real image by one generated from its report. What generates is open: a diffusion model
fine-tuned on radiographs, or, with no weights at all, `DrawnGenerator`, which parses
the report and *draws* a frontal film. Drawn films let every experiment and test run on
true image-text pairs whose labels are known, from invented or from real reports.

The film is a density map in anatomical coordinates, x to the viewer's right and y down,
both in [-1, 1]; the patient's left is at x > 0. Anatomy (rotation, size, heart, domes,
exposure, grain) changes with the seed, and whatever the report leaves open (no side, no
severity) is drawn at random, so images of one report differ as films of one diagnosis
do. An image depends only on (report, seed, position in the call).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, UInt8

from medjax.vlp.diffusion.schedule import SamplingConfig
from medjax.vlp.rendering import lesions
from medjax.vlp.rendering.film import Film, band, disc, edge, segment
from medjax.vlp.rendering.graph import FindingGraph
from medjax.vlp.rendering.parser import parse

Lesions = dict[str, Bool[np.ndarray, "h w"]]
"""Where findings lie on a film, by name."""
VISIBLE = 0.03
"""Density that is told from the grain of a film."""


@runtime_checkable
class Generator(Protocol):
    """Anything that makes one grey square image per report."""

    def __call__(
        self, reports: Sequence[str], *, seed: int
    ) -> UInt8[np.ndarray, "b h w"]:
        """Generates the images; equal arguments give equal images."""
        ...

    def described(self) -> Mapping[str, Any]:
        """What decides the images beside these arguments, as JSON holds it."""
        ...


@runtime_checkable
class PlacingGenerator(Generator, Protocol):
    """One that also says where findings lie."""

    def with_lesions(
        self, reports: Sequence[str], *, seed: int
    ) -> tuple[UInt8[np.ndarray, "b h w"], list[Lesions]]:
        """The same images, and for each a mask by finding."""
        ...


@dataclass(frozen=True)
class DrawnGenerator:
    """Draws what the parser reads. Attributes: `size`, the side in pixels."""

    size: int = 64

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 4096:
            raise ValueError(f"size: expected 16 to 4096 pixels, got {self.size}")

    def __call__(
        self, reports: Sequence[str], *, seed: int
    ) -> UInt8[np.ndarray, "b h w"]:
        """One film per report."""
        return self.with_lesions(reports, seed=seed)[0]

    def with_lesions(
        self, reports: Sequence[str], *, seed: int
    ) -> tuple[UInt8[np.ndarray, "b h w"], list[Lesions]]:
        """One film per report, and where on it each finding shows."""
        films = np.empty((len(reports), self.size, self.size), np.uint8)
        masks: list[Lesions] = []
        for row, report in enumerate(reports):
            rng = np.random.default_rng([seed, row])
            films[row], found = draw_with_lesions(parse(report), self.size, rng)
            masks.append(found)
        return films, masks

    def described(self) -> dict[str, Any]:
        """Its name, what of a report it reads, and its size."""
        return {"name": "drawn", "section": "report", "size": self.size}


DEFAULT = SamplingConfig()
FAMILY = "latent_diffusion"
"""What a run of ``experiments.generator`` calls itself."""
TRAINED = "generator"
"""Folder of a run of ``experiments.generator`` with what it has learnt."""


def generator(name: str, *, size: int, sampling: SamplingConfig = DEFAULT) -> Generator:
    """The generator of that name.

    Args:
        name: ``drawn``; ``run:PATH``, what a run of ``experiments.generator`` has
            learnt; or ``diffusion:FOLDER``, a folder or hub id of ``diffusers``.
        size: side of the images in pixels.
        sampling: how the learnt ones sample.

    Raises:
        ValueError: if there is none, or it makes images of another size.
        FileNotFoundError: if there is nothing at that place.
    """
    kind, _, place = name.partition(":")
    if name == "drawn":
        return DrawnGenerator(size)
    if kind not in ("run", "diffusion") or not place:
        raise ValueError(
            "generator: expected drawn, run:PATH (a run of experiments.generator) or "
            f"diffusion:FOLDER (of diffusers, or a hub id), got {name!r}"
        )
    # Only who asks for it waits for JAX.
    from medjax.vlp.diffusion.generator import DiffusionGenerator

    if kind == "run":
        if not (folder := Path(place) / TRAINED).is_dir():
            raise FileNotFoundError(
                f"generator: {place} holds no {TRAINED}/: run experiments.generator "
                "there to its end"
            )
        place = str(folder)
    return DiffusionGenerator.load(place, sampling=sampling, size=size)


def draw(
    graph: FindingGraph, size: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w"]:
    """Draws one film of a finding graph.

    Args:
        graph: what to show; stated absences need no drawing.
        size: side in pixels.
        rng: anatomy, noise, and everything the graph leaves open.
    """
    return draw_with_lesions(graph, size, rng)[0]


def draw_with_lesions(
    graph: FindingGraph, size: int, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "h w"], Lesions]:
    """Draws one film as `draw`, and says where each finding changed it.

    Returns:
        The film, and by finding a mask of where the density is another for it, by
        :data:`VISIBLE` at least. An enlarged heart lies where the heart does; what
        changes the whole chest (emphysema) lies nowhere.
    """
    film = Film.of_patient(size, rng)
    # The shape of the chest comes before what lies in it.
    for name in lesions.SHAPES:
        if name in graph.present:
            lesions.SHAPES[name](film, graph.present[name])
    density = _anatomy(film)
    found: Lesions = {}
    if "Cardiomegaly" in graph.present:
        found["Cardiomegaly"] = film.heart > 0.5
    for name in lesions.LESIONS:
        if name in graph.present:
            before = density
            density = lesions.LESIONS[name](film, density, graph.present[name])
            found[name] = np.abs(density - before) > VISIBLE
    return _expose(film, density), found


def _anatomy(film: Film) -> Float[np.ndarray, "h w"]:
    """Body, lungs, heart, spine, ribs, clavicles and vessels, as density."""
    y, across = film.y, film.across
    shoulders = 0.5 + 0.9 * np.clip(y + 1.0, 0.0, 0.5)
    density = 0.05 + 0.52 * edge(across - shoulders, film.soft)
    density -= film.blackness * film.air()
    density += 0.07 * film.heart
    vertebrae = 0.75 + 0.25 * np.cos(2 * np.pi * y / 0.17)
    density += 0.07 * edge(across - 0.07, film.soft) * vertebrae
    density += film.rib_contrast * film.ribs()
    clavicle = segment(across, y, (0.08, -0.66), (0.72, -0.80))
    density += 0.10 * band(clavicle, 0.022, film.soft)
    hilum = disc(across, y, (0.24, -0.02), (0.20, 0.34))
    return density + 0.09 * film.air() * hilum * np.abs(film.fine)


def _expose(film: Film, density: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Tube settings, scatter, grain and the marker, then eight bits."""
    rng = film.rng
    light = density + rng.uniform(0.02, 0.05) * film.coarse
    light = rng.uniform(0.85, 1.15) * np.clip(light, 0.0, None) ** rng.uniform(0.8, 1.2)
    light += rng.uniform(-0.05, 0.05)
    light += rng.uniform(0.015, 0.04) * rng.standard_normal(light.shape, np.float32)
    if rng.random() < 0.5:
        corner = (rng.choice((-0.85, 0.85)), rng.uniform(-0.92, -0.8))
        light = np.maximum(light, 0.9 * disc(film.x0, film.y0, corner, (0.06, 0.06)))
    return np.round(255 * np.clip(light, 0.0, 1.0)).astype(np.uint8)
