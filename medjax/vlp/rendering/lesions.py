"""How each finding looks, one function per finding.

Those in `SHAPES` change the chest before it is drawn; those in `LESIONS` add to or take
from its density. Every one honours side, zone and severity where the report gives them
and draws them from the film's own randomness where it does not.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from medjax.vlp.rendering.film import Film, band, disc, edge, ellipse, segment
from medjax.vlp.rendering.graph import DEVICES, SEVERITIES, ZONES, Finding

Plane = Float[np.ndarray, "h w"]

ZONE_Y = {"upper": -0.42, "mid": -0.02, "lower": 0.32}


def _grade(film: Film, finding: Finding) -> float:
    """Severity on a scale that starts at 1, 2, 3 and varies by a quarter within."""
    severity = finding.severity or SEVERITIES[film.rng.integers(3)]
    return SEVERITIES.index(severity) + 1 + film.rng.uniform(-0.25, 0.25)


def _signs(film: Film, finding: Finding) -> tuple[float, ...]:
    """The sides to draw on: +1 for the patient's left, -1 for the right."""
    stated = {"left": (1.0,), "right": (-1.0,), "both": (1.0, -1.0)}
    return stated.get(finding.side) or ((1.0,), (-1.0,))[film.rng.integers(2)]


def _spot(film: Film, finding: Finding, spread: float) -> tuple[float, float]:
    """A place (distance from the midline, y) in the zone."""
    zone = finding.zone or ZONES[film.rng.integers(3)]
    # The lung narrows towards its apex.
    middle = 0.40 if zone == "upper" else 0.46
    jitter = film.rng.uniform(-spread, spread, 2)
    return middle + jitter[0], ZONE_Y[zone] + jitter[1]


def cardiomegaly(film: Film, finding: Finding) -> None:
    """A wider heart: cardiothoracic ratio above one half."""
    grade = _grade(film, finding)
    film.heart_size[0] *= 1.08 + 0.16 * grade
    film.heart_size[1] *= 1.03 + 0.04 * grade


def emphysema(film: Film, finding: Finding) -> None:
    """Long dark lungs over low flat domes, and a narrow heart."""
    grade = _grade(film, finding)
    film.domes = [dome + 0.04 + 0.04 * grade for dome in film.domes]
    film.curvature *= 0.9 - 0.25 * grade
    film.blackness *= 1.02 + 0.05 * grade
    film.heart_size[0] *= 0.95 - 0.05 * grade


def atelectasis_volume(film: Film, finding: Finding) -> None:
    """Collapsed lung lets its hemidiaphragm rise."""
    for sign in _signs(film, finding):
        film.domes[int(sign > 0)] -= film.rng.uniform(0.02, 0.09)


def fracture(film: Film, finding: Finding) -> None:
    """A step in the ribs of one side, out towards the chest wall."""
    sign = _signs(film, finding)[0]
    film.broken = (sign, film.rng.uniform(0.46, 0.58), film.rng.uniform(-0.4, 0.25))


def callus(film: Film, density: Plane, finding: Finding) -> Plane:
    """The bright cuff and dark gap where the rib is broken."""
    if film.broken is None:
        return density
    sign, x, y = film.broken
    half = film.side(sign)
    cuff = disc(film.across, film.y, (x, y), (0.085, 0.085)) * half
    gap = band(segment(film.across, film.y, (x, y - 0.07), (x, y + 0.07)), 0.012, 0.035)
    return density + 0.22 * cuff - 0.12 * gap * half


def effusion(film: Film, density: Plane, finding: Finding) -> Plane:
    """Fluid over the diaphragm whose upper border climbs towards the chest wall."""
    grade = _grade(film, finding)
    for sign in _signs(film, finding):
        dome = film.domes[int(sign > 0)]
        top = dome + 0.10 - (0.04 + 0.16 * grade) * (0.45 + 1.1 * (film.across - 0.25))
        fluid = edge(top - film.y, 2 * film.soft) * film.side(sign)
        density = density + (0.9 * film.blackness + 0.03) * fluid * film.air()
    return density


def pneumothorax(film: Film, density: Plane, finding: Finding) -> Plane:
    """Black, vessel-less air round a lung whose pleura shows as a thin line."""
    thickness = 0.03 + 0.055 * _grade(film, finding)
    for sign in _signs(film, finding):
        # Air rises: the gap is widest over the apex.
        gap = thickness * (1.0 - 0.8 * film.y)
        pleura = film.wall + gap
        lung = film.air() * film.side(sign)
        density = density - 0.13 * lung * edge(-pleura, film.soft)
        density = density + 0.15 * lung * band(pleura, 0.010, film.soft)
    return density


def consolidation(film: Film, density: Plane, finding: Finding) -> Plane:
    """A ragged patch of filled alveoli."""
    for sign in _signs(film, finding):
        radius = 0.07 + 0.055 * _grade(film, finding)
        spot = _spot(film, finding, 0.07)
        shape = ellipse(film.across, film.y, spot, (radius, 1.15 * radius))
        patch = edge(shape + 0.05 * film.fine, 0.12) * film.side(sign)
        strength = film.rng.uniform(0.16, 0.26) * (1.0 + 0.2 * film.fine)
        density = density + strength * patch * film.air()
    return density


def edema(film: Film, density: Plane, finding: Finding) -> Plane:
    """Haze that spreads from both hila like wings, with coarser markings."""
    grade = _grade(film, finding)
    wings = disc(film.across, film.y, (0.28, 0.06), (0.36, 0.58))
    haze = (0.04 + 0.05 * grade) * wings * (1.0 + 0.5 * film.fine)
    return density + film.air() * haze


def atelectasis(film: Film, density: Plane, finding: Finding) -> Plane:
    """Plate-like bands, nearly level."""
    bands = round(_grade(film, finding))
    for sign in _signs(film, finding):
        x, y = _spot(film, finding, 0.06)
        for _ in range(bands):
            tilt, half = film.rng.uniform(-0.10, 0.10), film.rng.uniform(0.12, 0.2)
            line = segment(
                film.across, film.y, (x - half, y - tilt), (x + half, y + tilt)
            )
            plate = band(line, 0.016, film.soft) * film.side(sign)
            density = density + 0.17 * plate * film.air()
            y += film.rng.choice((-1, 1)) * film.rng.uniform(0.09, 0.14)
    return density


def nodule(film: Film, density: Plane, finding: Finding) -> Plane:
    """A round, sharp opacity."""
    for sign in _signs(film, finding):
        radius = 0.035 + 0.02 * _grade(film, finding)
        shape = ellipse(
            film.across, film.y, _spot(film, finding, 0.1), (radius, radius)
        )
        density = density + 0.24 * edge(shape, film.soft) * film.side(sign)
    return density


def devices(film: Film, density: Plane, finding: Finding) -> Plane:
    """Metal and plastic: whiter than any tissue."""
    x, y, rng = film.x, film.y, film.rng
    kind = finding.kind or DEVICES[rng.integers(len(DEVICES))]
    if kind == "endotracheal tube":
        end = rng.uniform(-0.45, -0.25)
        tube = segment(x, y, (rng.uniform(-0.03, 0.03), -1.2), (0.0, end))
        return density + 0.20 * band(tube, 0.020, film.soft)
    sign = _signs(film, finding)[0]
    port = (sign * rng.uniform(0.45, 0.6), rng.uniform(-0.72, -0.58))
    # Both enter by the subclavian vein and turn down the superior vena cava.
    turn, tip = (-0.09, -0.48), (-0.09, rng.uniform(-0.1, 0.05))
    if kind == "pacemaker":
        tip = (rng.uniform(0.1, 0.2), rng.uniform(0.3, 0.4))
        box = ellipse(x, y, (port[0], port[1] + 0.08), (0.11, 0.09))
        density = density + 0.38 * edge(box, film.soft)
    wire = np.minimum(segment(x, y, port, turn), segment(x, y, turn, tip))
    return density + 0.17 * band(wire, 0.010, film.soft)


SHAPES: dict[str, Callable[[Film, Finding], None]] = {
    "Cardiomegaly": cardiomegaly,
    "Emphysema": emphysema,
    "Atelectasis": atelectasis_volume,
    "Fracture": fracture,
}
LESIONS: dict[str, Callable[[Film, Plane, Finding], Plane]] = {
    "Edema": edema,
    "Consolidation": consolidation,
    "Atelectasis": atelectasis,
    "Nodule": nodule,
    "Pneumothorax": pneumothorax,
    "Pleural Effusion": effusion,
    "Fracture": callus,
    "Support Devices": devices,
}
"""In the order they are laid down: fluid covers patches, metal covers all."""
