"""The blank film of one patient: coordinates, body shape, and the brushes.

Shapes are signed distances run through a linear ramp (`edge`), so that every border is
one or two pixels soft at any size and nothing needs an exponential.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

Plane = Float[np.ndarray, "h w"]
Point = tuple[float, float]


def edge(distance: Plane, width: float) -> Plane:
    """1 where the signed distance is negative, 0 where positive, a ramp of `width`."""
    return np.clip(0.5 - distance / width, 0.0, 1.0)


def band(distance: Plane, half_width: float, width: float) -> Plane:
    """A line: 1 within `half_width` of a distance of 0."""
    return edge(np.abs(distance) - half_width, width)


def disc(x: Plane, y: Plane, centre: Point, radii: Point) -> Plane:
    """A soft blob: 1 at the centre, falling to 0 at the ellipse."""
    squared = ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2
    return np.clip(1.0 - squared, 0.0, 1.0)


def ellipse(x: Plane, y: Plane, centre: Point, radii: Point) -> Plane:
    """Roughly the signed distance to an ellipse, negative inside."""
    squared = ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2
    return (np.sqrt(squared) - 1.0) * min(radii)


def segment(x: Plane, y: Plane, start: Point, stop: Point) -> Plane:
    """The distance to a straight piece of line."""
    dx, dy = stop[0] - start[0], stop[1] - start[1]
    along = ((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy)
    along = np.clip(along, 0.0, 1.0)
    return np.hypot(x - start[0] - along * dx, y - start[1] - along * dy)


@lru_cache(maxsize=16)
def _grid(size: int) -> tuple[Plane, Plane]:
    centres = ((np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size)) - 1.0
    x, y = np.meshgrid(centres, centres)
    return x, y


@lru_cache(maxsize=32)
def _upsampling(size: int, coarse: int) -> Float[np.ndarray, "h n"]:
    """Linear interpolation from `coarse` knots to `size` pixels, as a matrix."""
    at = np.linspace(0.0, coarse - 1.0, size)
    knots = np.arange(coarse)
    weights = np.clip(1.0 - np.abs(at[:, None] - knots[None, :]), 0.0, 1.0)
    return weights.astype(np.float32)


def smooth_noise(rng: np.random.Generator, size: int, coarse: int) -> Plane:
    """Noise of unit variance at the knots, the same field at every image size."""
    knots = rng.standard_normal((coarse, coarse), np.float32)
    up = _upsampling(size, coarse)
    return up @ knots @ up.T


@dataclass
class Film:
    """The geometry that lesions change and `drawing._anatomy` turns into density.

    Attributes:
        x0, y0: film coordinates; x, y: the same, turned and scaled to the patient.
        across: |x|, the distance from the midline, so that both lungs are one shape.
        coarse, fine: smooth noise with about 6 and 24 knots across the film.
        soft: the softness of borders.
        heart_size: (width, height) of the heart relative to the average.
        domes: y of the right and left hemidiaphragm; curvature: how domed they are.
        blackness: by how much air darkens the film.
        broken: (sign of the side, x, y) of a broken rib, if there is one.
    """

    rng: np.random.Generator
    x0: Plane
    y0: Plane
    x: Plane
    y: Plane
    across: Plane
    coarse: Plane
    fine: Plane
    soft: float
    heart_size: list[float]
    domes: list[float]
    curvature: float
    chest: Point
    blackness: float
    rib_contrast: float
    rib_phase: float
    broken: tuple[float, float, float] | None = None

    @classmethod
    def of_patient(cls, size: int, rng: np.random.Generator) -> "Film":
        """A healthy chest, every measure drawn around its average."""
        x0, y0 = _grid(size)
        angle, scale = rng.uniform(-0.1, 0.1), rng.uniform(0.94, 1.1)
        dx, dy = rng.uniform(-0.07, 0.07, 2)
        c, s = np.float32(np.cos(angle) / scale), np.float32(np.sin(angle) / scale)
        u, v = x0 - np.float32(dx), y0 - np.float32(dy)
        x, y = c * u + s * v, c * v - s * u
        dome = rng.uniform(0.42, 0.56)
        return cls(
            rng=rng,
            x0=x0,
            y0=y0,
            x=x,
            y=y,
            across=np.abs(x),
            coarse=smooth_noise(rng, size, 6),
            fine=smooth_noise(rng, size, 24),
            soft=max(0.035, 2.0 / size),
            heart_size=[rng.uniform(0.88, 1.12), rng.uniform(0.9, 1.1)],
            # The liver holds the right dome a little higher.
            domes=[dome - rng.uniform(0.0, 0.06), dome],
            curvature=rng.uniform(0.7, 1.1),
            chest=(rng.uniform(0.29, 0.33), rng.uniform(0.80, 0.86)),
            blackness=rng.uniform(0.30, 0.40),
            rib_contrast=rng.uniform(0.05, 0.09),
            rib_phase=rng.uniform(0.0, 1.0),
        )

    @property
    def wall(self) -> Plane:
        """Signed distance to the chest wall, negative inside either half."""
        return ellipse(self.across, self.y, (0.43, 0.05), self.chest)

    @property
    def diaphragm(self) -> Plane:
        """Signed depth below the diaphragm, domed at the middle of each lung."""
        dome = np.where(
            self.x > 0, np.float32(self.domes[1]), np.float32(self.domes[0])
        )
        return self.y - dome - self.curvature * (self.across - 0.36) ** 2

    @property
    def heart(self) -> Plane:
        """The heart and the great vessels above it."""
        width, height = self.heart_size
        centre = (0.07 + 0.09 * width, 0.24)
        heart = ellipse(self.x, self.y, centre, (0.27 * width, 0.26 * height))
        knob = ellipse(self.x, self.y, (0.11, -0.30), (0.09, 0.10))
        column = self.across - 0.12
        return edge(np.minimum(np.minimum(heart, knob), column), self.soft)

    def lungs(self) -> Plane:
        """Where the lungs are, heart not yet taken out."""
        return edge(np.maximum(self.wall, self.diaphragm), self.soft)

    def air(self) -> Plane:
        """Where air lies in front of nothing denser."""
        return self.lungs() * (1.0 - self.heart)

    def side(self, sign: float) -> Plane:
        """1 on the patient's left (`sign` > 0) or right, 0 on the other; 0: both."""
        return np.ones_like(self.x) if sign == 0 else (self.x * sign > 0).astype("f4")

    def ribs(self) -> Plane:
        """Arches that slope down as they run outwards; a fracture steps one aside."""
        level = self.y - 0.55 * self.across + 0.25 * self.across**2
        if self.broken is not None:
            sign, bx, by = self.broken
            beyond = edge(bx - self.across, self.soft) * self.side(sign)
            level = level + 0.09 * beyond * edge(np.abs(self.y - by) - 0.22, self.soft)
        arches = np.cos(2 * np.pi * (level / 0.19 + self.rib_phase))
        return np.clip(arches, 0.0, 1.0) * edge(self.wall - 0.05, self.soft)
