"""A beating heart in closed form: volumes, displacement and strain known exactly.

Walls are ellipsoids cut at the base. A material point is (R, Theta, Z): mm from the
long axis, an angle that is 0 at the lateral wall, pi/2 in front and pi at the septum,
and mm above the epicardium's apex at end-diastole. At activation a it goes to

    z = lambda Z,  theta = Theta + phi(Z),  r^2 = R^2 / lambda - g(Z, Theta)

with lambda = 1 - s a (shortening), phi linear in Z (twist) and g proportional to the
squared radius of the cavity, less where the wall is infarcted. The determinant of the
deformation gradient is (r/R)(dr/dR)(dz/dZ) = 1 for any g and phi: muscle is
incompressible. The constant in g is chosen so that the cavity's volume is exactly
``V_ED (1 - EF a)``. The map is inverted in closed form too, so images and label maps
need no mesh and can judge one.

The right ventricle lies against the septum; it is a region between two formulas, not
material, and its volume is exact as well.

In space, the heart's own frame has x to the patient's right (the septum), y to the
front and z from apex to base: right-handed, so that a heart is not its mirror image.
Functions take NumPy arrays, in float64 for tests and meshes, or JAX arrays inside
``jit``.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

DENSITY = 1.05
"""Of myocardium, g/mL."""
RV_HALF_ANGLE = math.radians(75.0)
"""Where the right ventricle's walls meet the left's, from the middle of the septum."""
INFARCT_HALF_ANGLE = math.radians(60.0)
INFARCT_HEIGHT = 12.0
"""Standard deviation of an infarct along the long axis, mm."""
NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)
"""Of Gauss-Legendre quadrature on [-1, 1]."""


class Heart(NamedTuple):
    """One heart; lengths in mm, volumes in mm^3, angles in radians, fractions below 1.

    Attributes:
        radius: a, of the cavity where it is widest.
        wall: w, thickness of the wall there.
        depth: c, from there to the cavity's apex.
        height: h, from there to the base.
        ejection_fraction: of the left ventricle.
        shortening: s, of the long axis.
        twist_apex: turn of the apex at full activation; positive is counterclockwise
            seen from the apex.
        twist_base: turn of the base.
        systole: t_s, share of the cycle until full activation.
        atrial: f_A, share of filling that comes late, by the atrium.
        rv_volume: of the right ventricle at end-diastole.
        rv_ejection_fraction: of the right ventricle.
        infarct: delta, loss of contraction at its centre, 0 to 1.
        infarct_angle: Theta of its centre.
        infarct_z: Z of its centre.
        infarct_mean: mean over the cavity of the infarct's shape m.
    """

    radius: Any
    wall: Any
    depth: Any
    height: Any
    ejection_fraction: Any
    shortening: Any
    twist_apex: Any
    twist_base: Any
    systole: Any
    atrial: Any
    rv_volume: Any
    rv_ejection_fraction: Any
    infarct: Any
    infarct_angle: Any
    infarct_z: Any
    infarct_mean: Any

    @property
    def tip(self) -> Any:
        """Z of the cavity's apex."""
        return 0.6 * self.wall

    @property
    def equator(self) -> Any:
        """Z_c, where the cavity is widest."""
        return self.depth + self.tip

    @property
    def base(self) -> Any:
        """Z_b, where both walls end."""
        return self.equator + self.height

    @property
    def volume(self) -> Any:
        """Of the left ventricle at end-diastole."""
        return cut_ellipsoid(self.radius, self.depth, self.height)

    @property
    def muscle(self) -> Any:
        """Volume of the left ventricle's wall, at any time."""
        outer = cut_ellipsoid(self.radius + self.wall, self.equator, self.height)
        return outer - self.volume


def cut_ellipsoid(radius: Any, depth: Any, height: Any) -> Any:
    """Volume of an ellipsoid of revolution from its tip to ``height`` above its middle.

    pi a^2 (2c/3 + h - h^3 / (3 c^2)).
    """
    return math.pi * radius**2 * (2 * depth / 3 + height - height**3 / (3 * depth**2))


def make_heart(
    *,
    volume: float,
    mass: float,
    length: float,
    ejection_fraction: float,
    shortening: float,
    rv_volume: float,
    twist_apex: float = math.radians(10.0),
    twist_base: float = math.radians(-4.0),
    systole: float = 0.35,
    atrial: float = 0.2,
    infarct: float = 0.0,
    infarct_angle: float = 0.0,
    infarct_z: float = 45.0,
) -> Heart:
    """A heart from what clinics measure.

    The right ventricle ejects as much as the left.

    Args:
        volume: of the left ventricle at end-diastole, mL.
        mass: of its wall, g.
        length: of its cavity, mm.
        ejection_fraction: of it, as a fraction.
        shortening: of the long axis at full activation, as a fraction.
        rv_volume: of the right ventricle at end-diastole, mL.
        twist_apex: radians.
        twist_base: radians.
        systole: share of the cycle until full activation.
        atrial: share of filling by the atrium.
        infarct: loss of contraction at its centre, 0 to 1.
        infarct_angle: Theta of its centre, radians.
        infarct_z: Z of its centre, mm.

    Raises:
        ValueError: where a measure is impossible, or the left ventricle would eject
            more than the right one holds.
    """
    checks = {"volume": volume, "mass": mass, "length": length, "rv_volume": rv_volume}
    wrong = {name: v for name, v in checks.items() if not 0 < v < math.inf}
    shares = {"ejection_fraction": ejection_fraction, "shortening": shortening}
    wrong |= {name: v for name, v in shares.items() if not 0 <= v < 1}
    if wrong:
        raise ValueError(
            f"heart: {wrong}: expected positive mL, g and mm, and fractions in [0, 1)"
        )
    rv_ejection = ejection_fraction * volume / rv_volume
    if rv_ejection >= 1:
        raise ValueError(
            f"rv_volume is {rv_volume:g} mL, expected more than the left ventricle's "
            f"stroke volume of {ejection_fraction * volume:g} mL"
        )
    height, depth = 0.3 * length, 0.7 * length
    radius = math.sqrt(1e3 * volume / cut_ellipsoid(1.0, depth, height))
    found = Heart(
        radius=radius,
        wall=_wall(radius, depth, height, 1e3 * mass / DENSITY),
        depth=depth,
        height=height,
        ejection_fraction=ejection_fraction,
        shortening=shortening,
        twist_apex=twist_apex,
        twist_base=twist_base,
        systole=systole,
        atrial=atrial,
        rv_volume=1e3 * rv_volume,
        rv_ejection_fraction=rv_ejection,
        infarct=infarct,
        infarct_angle=infarct_angle,
        infarct_z=infarct_z,
        infarct_mean=0.0,
    )
    return found._replace(infarct_mean=_infarct_mean(found))


def _wall(radius: float, depth: float, height: float, muscle: float) -> float:
    """The thickness that makes a wall of so many mm^3; bisection of a rising curve."""
    inner, low, high = cut_ellipsoid(radius, depth, height), 0.0, 4.0 * radius
    for _ in range(60):
        w = 0.5 * (low + high)
        more = cut_ellipsoid(radius + w, depth + 0.6 * w, height) - inner
        low, high = (w, high) if more < muscle else (low, w)
    return 0.5 * (low + high)


def _infarct_mean(heart: Heart) -> float:
    """Mean of the infarct's shape over the cavity, weighted by squared radius."""
    z = heart.tip + 0.5 * (NODES + 1) * (heart.base - heart.tip)
    weight = WEIGHTS * radius_squared(heart, z)
    along = np.exp(-0.5 * ((z - heart.infarct_z) / INFARCT_HEIGHT) ** 2)
    around = INFARCT_HALF_ANGLE / (2 * math.pi)
    return around * float((weight * along).sum() / weight.sum())


def activation(heart: Heart, t: Any) -> Any:
    """How far contracted, 0 to 1: rises until ``systole``, falls twice, periodic.

    Args:
        heart: with ``systole`` and ``atrial``.
        t: share of the cycle, an array; whole numbers are end-diastole.
    """
    xp = t.__array_namespace__()
    t = t - xp.floor(t)

    def rise(start: Any, duration: Any) -> Any:
        x = xp.clip((t - start) / duration, 0.0, 1.0)
        return x * x * (3.0 - 2.0 * x)

    early = (1.0 - heart.atrial) * rise(heart.systole, 0.25)
    return rise(0.0, heart.systole) - early - heart.atrial * rise(0.82, 0.15)


def radius_squared(heart: Heart, z: Any) -> Any:
    """R_n^2 of the cavity's wall at material heights; 0 below its apex."""
    return _ellipse(z, heart.equator, heart.radius, heart.depth)


def epicardium_squared(heart: Heart, z: Any) -> Any:
    """R^2 of the outer wall at material heights; 0 below the apex."""
    return _ellipse(z, heart.equator, heart.radius + heart.wall, heart.equator)


def _ellipse(z: Any, middle: Any, radius: Any, depth: Any) -> Any:
    xp = z.__array_namespace__()
    return radius**2 * xp.maximum(1.0 - ((z - middle) / depth) ** 2, 0.0)


def infarct_shape(heart: Heart, angle: Any, z: Any) -> tuple[Any, Any, Any]:
    """m of an infarct, 1 at its centre, and its derivatives by Theta and Z."""
    xp = z.__array_namespace__()
    turn = angle - heart.infarct_angle + math.pi
    turn = turn - 2 * math.pi * xp.floor(turn / (2 * math.pi)) - math.pi
    phase = math.pi * xp.clip(turn / INFARCT_HALF_ANGLE, -1.0, 1.0)
    along = (z - heart.infarct_z) / INFARCT_HEIGHT
    bell = xp.exp(-0.5 * along * along)
    m = 0.5 * (1.0 + xp.cos(phase)) * bell
    by_angle = -0.5 * math.pi / INFARCT_HALF_ANGLE * xp.sin(phase) * bell
    return m, by_angle, -m * along / INFARCT_HEIGHT


def stretch(heart: Heart, a: Any) -> Any:
    """lambda: length of the long axis over its length at end-diastole."""
    return 1.0 - heart.shortening * a


def _gain(heart: Heart, a: Any) -> Any:
    """kappa, which makes the ejection fraction exact."""
    whole = stretch(heart, a) * (1.0 - heart.infarct * heart.infarct_mean)
    return heart.ejection_fraction * a / whole


def inward(heart: Heart, a: Any, angle: Any, z: Any) -> Any:
    """g: by how much contraction lowers the squared radius, mm^2."""
    m, _, _ = infarct_shape(heart, angle, z)
    return _gain(heart, a) * radius_squared(heart, z) * (1.0 - heart.infarct * m)


def twist(heart: Heart, a: Any, z: Any) -> Any:
    """phi: how far a short-axis slice has turned, radians."""
    share = 1.0 - z / heart.base
    return a * (heart.twist_base + (heart.twist_apex - heart.twist_base) * share)


def deform(heart: Heart, a: Any, r: Any, angle: Any, z: Any) -> tuple[Any, Any, Any]:
    """Where material points are at an activation.

    Args:
        heart: whose.
        a: activation.
        r: R, mm.
        angle: Theta, radians.
        z: Z, mm.

    Returns:
        r, theta and z in space.
    """
    xp = z.__array_namespace__()
    squared = r * r / stretch(heart, a) - inward(heart, a, angle, z)
    turned = angle + twist(heart, a, z)
    return xp.sqrt(xp.maximum(squared, 0.0)), turned, stretch(heart, a) * z


def undeform(heart: Heart, a: Any, r: Any, angle: Any, z: Any) -> tuple[Any, Any, Any]:
    """Which material point is at a place: the inverse of :func:`deform`.

    Args:
        heart: whose.
        a: activation.
        r: mm.
        angle: radians.
        z: mm.

    Returns:
        R, Theta and Z.
    """
    xp = z.__array_namespace__()
    z = z / stretch(heart, a)
    angle = angle - twist(heart, a, z)
    squared = stretch(heart, a) * (r * r + inward(heart, a, angle, z))
    return xp.sqrt(squared), angle, z


def cartesian(r: Any, angle: Any, z: Any) -> Any:
    """Cylindrical coordinates in the heart's own frame, mm, on a last axis."""
    xp = z.__array_namespace__()
    return xp.stack(
        xp.broadcast_arrays(-r * xp.cos(angle), r * xp.sin(angle), z), axis=-1
    )


def cylindrical(points: Any) -> tuple[Any, Any, Any]:
    """r, theta and z of points in the heart's own frame."""
    xp = points.__array_namespace__()
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    return xp.sqrt(x * x + y * y), xp.arctan2(y, -x), z


def gradient(
    heart: Heart, a: float, r: np.ndarray, angle: np.ndarray, z: np.ndarray
) -> Float[np.ndarray, "*points 3 3"]:
    """F, the deformation gradient, from (R, Theta, Z) to (r, theta, z) directions.

    Args:
        heart: whose.
        a: activation.
        r: R, mm, positive.
        angle: Theta, radians.
        z: Z, mm.

    Returns:
        F with determinant 1; the true strain is ``(F^T F - 1) / 2``.
    """
    now, _, _ = deform(heart, a, r, angle, z)
    m, m_angle, m_z = infarct_shape(heart, angle, z)
    squared = radius_squared(heart, z)
    slope = -2 * heart.radius**2 * (z - heart.equator) / heart.depth**2
    slope = np.where(squared > 0, slope, 0.0)
    gain, long = _gain(heart, a), stretch(heart, a)
    g_angle = -gain * squared * heart.infarct * m_angle
    g_z = gain * (slope * (1 - heart.infarct * m) - squared * heart.infarct * m_z)
    turn = -a * (heart.twist_apex - heart.twist_base) / heart.base
    zero = np.zeros_like(now)
    rows = [
        [r / (long * now), -g_angle / (2 * r * now), -g_z / (2 * now)],
        [zero, now / r, now * turn],
        [zero, zero, zero + long],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def lv_volume(heart: Heart, a: Any) -> Any:
    """Of the left ventricle, mm^3, exactly."""
    return heart.volume * (1.0 - heart.ejection_fraction * a)


def rv_volume(heart: Heart, a: Any) -> Any:
    """Of the right ventricle, mm^3, exactly."""
    return heart.rv_volume * (1.0 - heart.rv_ejection_fraction * a)


def rv_reach(heart: Heart, a: Any, angle: Any, z: Any) -> Any:
    """q cos^2: squared radius of the right ventricle's free wall over the epicardium's.

    Args:
        heart: whose.
        a: activation.
        angle: Theta, radians.
        z: Z, mm.

    Returns:
        mm^2; 0 where there is no right ventricle.
    """
    xp = z.__array_namespace__()
    at = xp.clip((z / heart.base - 0.15) / 0.35, 0.0, 1.0)
    widest = heart.rv_volume / (0.3375 * RV_HALF_ANGLE * heart.base)
    size = widest * (1.0 - heart.rv_ejection_fraction * a) / stretch(heart, a)
    turn = angle - 2 * math.pi * xp.floor(angle / (2 * math.pi)) - math.pi
    across = xp.cos(0.5 * math.pi * xp.clip(turn / RV_HALF_ANGLE, -1.0, 1.0))
    return size * at * at * (3.0 - 2.0 * at) * across * across
