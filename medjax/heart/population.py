"""People with phantom hearts, and how hearts depend on who they are.

Means of volume and mass by sex and ejection fractions are those of healthy people in
the UK Biobank (Petersen et al. 2017, J Cardiovasc Magn Reson 19:18): 53 and 42 g/m^2 of
myocardium, ejection fractions of 58 and 61 %. How they change with age and blood
pressure, and all deviations, are ours, so they are the truth that generated anatomy is
judged by. The ejection fraction is drawn by the sex alone, with a deviation of
:data:`EJECTION_DEVIATION`, so one frame tells hardly more of it than that. Not nothing:
a right ventricle that could not hold the stroke volume is made larger
(:data:`LARGEST_RV_EJECTION`), in some 3 % of men and 9 % of women, and then the sizes
of both ventricles tell how much is ejected. Over some tens of people an error may lie
below the deviation by chance as well.
"""

import math
from typing import NamedTuple

import numpy as np

from medjax.heart.phantom import Heart, make_heart

CONDITIONS = ("age", "sex", "height", "weight", "blood_pressure")
"""What a generator is told of a person; sex is 1 for men."""
EJECTION_DEVIATION = 4.0
"""Standard deviation of the ejection fraction given the sex, percentage points."""
LARGEST_RV_EJECTION = 0.7
"""Share of its volume that the right ventricle ejects at most."""


class Person(NamedTuple):
    """A person and their heart.

    Attributes:
        age: years.
        sex: 1 for men, 0 for women.
        height: cm.
        weight: kg.
        blood_pressure: systolic, mmHg.
        heart_rate: beats a minute.
        heart: the heart.
    """

    age: float
    sex: float
    height: float
    weight: float
    blood_pressure: float
    heart_rate: float
    heart: Heart

    @property
    def conditions(self) -> tuple[float, ...]:
        """The values of :data:`CONDITIONS`."""
        return tuple(getattr(self, name) for name in CONDITIONS)


def surface_area(height: float, weight: float) -> float:
    """Of the body by Mosteller's formula, m^2, from cm and kg."""
    return math.sqrt(height * weight / 3600)


def person(seed: int, number: int, *, infarcts: float = 0.2) -> Person:
    """One person of a population.

    Args:
        seed: of the population.
        number: of the person; they do not depend on how many there are.
        infarcts: share of people with an infarct.

    Returns:
        The same person for the same numbers.

    Raises:
        ValueError: for a negative number.
    """
    told, measures = measures_of(seed, number, infarcts=infarcts)
    age, sex, height, weight, pressure, rate = told
    heart = make_heart(**measures)
    return Person(age, sex, height, weight, pressure, rate, heart)


def measures_of(
    seed: int, number: int, *, infarcts: float = 0.2
) -> tuple[tuple[float, ...], dict[str, float]]:
    """What a person is made of, without the heart's shape, which takes longer.

    Args:
        seed: of the population.
        number: of the person.
        infarcts: share of people with an infarct.

    Returns:
        The first fields of :class:`Person`, and the measures that
        :func:`medjax.heart.phantom.make_heart` makes their heart of.

    Raises:
        ValueError: for a negative number.
    """
    if min(seed, number) < 0:
        raise ValueError(f"seed {seed} and number {number}: expected none negative")
    rng = np.random.default_rng([seed, number])
    male = float(rng.random() < 0.5)

    def normal(
        mean: float, sd: float, low: float = -np.inf, high: float = np.inf
    ) -> float:
        return float(np.clip(rng.normal(mean, sd), low, high))

    age = normal(62, 8, 40, 80)
    height = normal(176, 6.7) if male else normal(163, 6.2)
    weight = normal(27, 4, 18, 42) * (height / 100) ** 2
    pressure = 120 + 0.45 * (age - 50) + 3 * male + normal(0, 14)
    rate = normal(62, 9, 40, 110)
    area = surface_area(height, weight)
    volume = area * ((84 if male else 74) - 0.30 * (age - 60)) * _factor(rng, 0.10)
    muscle = (53 if male else 42) + 0.15 * (pressure - 135)
    mass = area * max(muscle, 20.0) * _factor(rng, 0.09)
    ejection = normal(58 if male else 61, EJECTION_DEVIATION, 40, 75) / 100
    right = area * ((93 if male else 79) - 0.35 * (age - 60)) * _factor(rng, 0.10)
    measures = dict(
        volume=volume,
        mass=mass,
        length=94 * height / 170 * _factor(rng, 0.03),
        ejection_fraction=ejection,
        shortening=normal(0.16 if male else 0.175, 0.012),
        rv_volume=max(right, ejection * volume / LARGEST_RV_EJECTION),
        twist_apex=math.radians(10 + 0.1 * (age - 60) + normal(0, 2)),
        systole=normal(0.35, 0.02, 0.28, 0.42),
        atrial=float(np.clip(0.2 + 0.004 * (age - 60), 0.1, 0.4)),
        infarct=float(rng.uniform(0.5, 1.0) * (rng.random() < infarcts)),
        infarct_angle=float(rng.uniform(0, 2 * np.pi)),
        infarct_z=float(rng.uniform(25, 75)),
    )
    return (age, male, height, weight, pressure, rate), measures


def _factor(rng: np.random.Generator, sigma: float) -> float:
    """A log-normal factor around 1."""
    return math.exp(sigma * rng.standard_normal())
