"""T1 and T2 maps, ours against ``scipy.optimize.curve_fit`` voxel by voxel.

Series at matrix and times of CMRxRecon, every voxel with time constants of its own and
noise. scipy fits a sample of voxels, drawn over the whole map, and its time for the map
is extrapolated from that of the sample. Each task is the same for both:

* ``t1 signed``: one fit of the signed series;
* ``t1 polarity``: of magnitudes, the first 0, 1, ... 5 frames negated, the best kept;
* ``t2``: amplitude and time constant of the decay.

scipy starts from the published starting values. That both find the same maps is shown
by the share of sampled voxels whose constants agree within one percent; where they do
not, the lower sum of squares tells which one fitted better.
"""

import dataclasses
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.optimize import OptimizeWarning, curve_fit

from experiments.bench import measure
from medjax.mri.relaxometry import T1Mode, fit_t1, fit_t2

TARGET_RATIO, TARGET_SECONDS = 200, 1.0
INVERSION_TIMES = np.array(
    [100, 180, 260, 1245, 1323, 1340, 2395, 2450, 3550], np.float32
)
ECHO_TIMES = np.array([0, 35, 55], np.float32)
"""ms; those of CMRxRecon."""
Fit = Callable[[], tuple[jax.Array, jax.Array]]
FLIPS = 6
"""Polarities that the published T1 search tries."""


@dataclasses.dataclass(frozen=True)
class MapsConfig:
    """Sizes of the maps, and how many voxels scipy fits."""

    t1_size: tuple[int, int] = (144, 512)
    """Of the T1 series, nine frames."""
    t2_size: tuple[int, int] = (116, 384)
    """Of the T2 series, three frames."""
    noise: float = 2e-2
    """Standard deviation, relative to the signal at rest."""
    voxels: int = 200
    """That scipy fits."""
    turns: int = 5
    """Timed fits of the whole map."""
    seed: int = 0
    """Of constants, noise and sample."""
    out: Path = Path("runs/bench")
    """Folder of the JSON file."""


class Task(NamedTuple):
    """One kind of map.

    Attributes:
      series: ``[t, h, w]``.
      times: ms.
      ours: Fits all of it: time constants, and root of the mean squared residual.
      scipy: Fits one voxel: the same two.
    """

    series: Float[np.ndarray, "t h w"]
    times: Float[np.ndarray, " t"]
    ours: Fit
    scipy: Callable[[Any, Any], tuple[float, float]]


def run(config: MapsConfig) -> dict[str, Any]:
    """Fits, compares, times, prints and writes.

    Args:
      config: Sizes.

    Returns:
      What the JSON file holds.
    """
    found = {name: _measure(config, t) for name, t in _tasks(config).items()}
    result = {
        "benchmark": "maps",
        "config": measure.settings(config),
        "facts": measure.facts(),
        "tasks": found,
    }
    _print(result)
    measure.write(config.out, "maps", result)
    return result


def recovery(t: Any, a: float, b: float, c: float) -> Any:
    """``a (1 - exp(-b t)) + c``: the published T1 model."""
    return a * (1 - np.exp(-b * t)) + c


def scipy_t1(times: Any, values: Any) -> tuple[float, float]:
    """Look-Locker T1 of one signed series, and the residual's root mean square."""
    scale = np.abs(values).max()
    (a, b, c), error = _curve_fit(recovery, times, values / scale, (0.8, 0.005, -0.6))
    return 1 / b * (a / (a + c) - 1), error * scale


def scipy_t1_polarity(times: Any, values: Any) -> tuple[float, float]:
    """The best of the polarities."""
    signs = np.where(np.arange(len(times)) < np.arange(FLIPS)[:, None], -1, 1)
    return min((scipy_t1(times, s * values) for s in signs), key=lambda fit: fit[1])


def scipy_t2(times: Any, values: Any) -> tuple[float, float]:
    """T2 of one series, and the residual's root mean square."""

    def decay(t: Any, m0: float, t2: float) -> Any:
        return m0 * np.exp(-t / t2)

    scale = np.abs(values).max()
    (_, t2), error = _curve_fit(decay, times, values / scale, (1.0, 50.0))
    return t2, error * scale


def _curve_fit(model: Any, times: Any, values: Any, p0: Any) -> tuple[Any, float]:
    """Parameters and residual; infinite residual where scipy gives up."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", OptimizeWarning)
        try:
            found, _ = curve_fit(model, times, values, p0, maxfev=2000)
        except RuntimeError:
            return np.full(len(p0), np.nan), np.inf
        error = np.sqrt(np.mean((model(times, *found) - values) ** 2))
    return found, float(error)


def _tasks(config: MapsConfig) -> dict[str, Task]:
    series = _series(config)
    signed, decay = series["t1"], series["t2"]
    magnitude = np.abs(signed)

    def t1(series: np.ndarray, mode: T1Mode) -> Fit:
        on_device, times = jnp.asarray(series), jnp.asarray(INVERSION_TIMES)

        def fit() -> tuple[jax.Array, jax.Array]:
            maps = fit_t1(on_device, times, mode=mode)
            return maps.t1, maps.residual

        return fit

    def t2(series: np.ndarray) -> Fit:
        on_device, times = jnp.asarray(series), jnp.asarray(ECHO_TIMES)

        def fit() -> tuple[jax.Array, jax.Array]:
            maps = fit_t2(on_device, times)
            return maps.t2, maps.residual

        return fit

    ti, te = INVERSION_TIMES, ECHO_TIMES
    return {
        "t1 signed": Task(signed, ti, t1(signed, "signed"), scipy_t1),
        "t1 polarity": Task(magnitude, ti, t1(magnitude, "correct"), scipy_t1_polarity),
        "t2": Task(decay, te, t2(decay), scipy_t2),
    }


def _series(config: MapsConfig) -> dict[str, np.ndarray]:
    """A signed T1 and a T2 series, every voxel with constants of its own, and noise."""
    rng = np.random.default_rng(config.seed)

    def noisy(signal: np.ndarray) -> np.ndarray:
        return (signal + config.noise * rng.normal(size=signal.shape)).astype(
            np.float32
        )

    t1_star = rng.uniform(300, 1800, config.t1_size)
    effect = rng.uniform(1.6, 2.0, config.t1_size)
    recovered = 1 - effect * np.exp(-INVERSION_TIMES[:, None, None] / t1_star)
    t2 = rng.uniform(20, 200, config.t2_size)
    return {
        "t1": noisy(recovered),
        "t2": np.abs(noisy(np.exp(-ECHO_TIMES[:, None, None] / t2))),
    }


def _measure(config: MapsConfig, task: Task) -> dict[str, Any]:
    work = {"ours": lambda: jax.block_until_ready(task.ours())}
    ours = measure.take_turns(work, turns=config.turns, warmup=1)["ours"]
    constants, residual = (np.asarray(x).reshape(-1) for x in task.ours())
    voxels = constants.size
    rng = np.random.default_rng(config.seed)
    chosen = rng.choice(voxels, min(config.voxels, voxels), replace=False)
    flat = task.series.reshape(len(task.times), -1)
    began, cpu_began = time.perf_counter(), time.process_time()
    fits = np.array([task.scipy(task.times, flat[:, i]) for i in chosen])
    took, cpu_took = time.perf_counter() - began, time.process_time() - cpu_began
    near = np.abs(constants[chosen] - fits[:, 0]) <= 0.01 * np.abs(fits[:, 0])
    better = residual[chosen] <= fits[:, 1] * (1 + 1e-4)
    whole, cpu_whole = (s / len(chosen) * voxels for s in (took, cpu_took))
    return {
        "shape": list(task.series.shape),
        "ours_s": ours.median,
        "ours_s_spread": list(ours.spread),
        "ours_cpu_s": statistics.median(ours.cpu_seconds),
        "scipy_voxels": len(chosen),
        "scipy_s_extrapolated": whole,
        "times_faster": whole / ours.median,
        "times_fewer_cpu_s": cpu_whole / statistics.median(ours.cpu_seconds),
        "within_one_percent": float(np.mean(near)),
        "ours_fits_no_worse": float(np.mean(better)),
    }


def _print(result: dict[str, Any]) -> None:
    print("\nmaps\n" + measure.describe(result["facts"]) + "\n")
    rows = []
    for name, t in result["tasks"].items():
        low, high = t["ours_s_spread"]
        rows.append(
            [
                f"{name} {'x'.join(map(str, t['shape']))}",
                f"{t['ours_s']:.3f} ({low:.3f}-{high:.3f})",
                f"{t['ours_cpu_s']:.3f}",
                f"{t['scipy_s_extrapolated']:.1f}",
                f"{t['times_faster']:.0f}",
                f"{t['times_fewer_cpu_s']:.0f}",
                f"{100 * t['within_one_percent']:.0f} %",
                f"{100 * t['ours_fits_no_worse']:.0f} %",
            ]
        )
    head = ["", "ours, s", "ours, CPU s", "scipy, s (extrapolated)", "times faster"]
    head += ["times fewer CPU s", "within 1 %", "ours fits no worse"]
    print(measure.table(head, rows))
    for name, t in result["tasks"].items():
        fast, cheap = t["ours_s"] < TARGET_SECONDS, t["times_faster"] >= TARGET_RATIO
        print(
            f"target {TARGET_RATIO}x and below {TARGET_SECONDS:g} s, {name}: "
            f"{'met' if fast and cheap else 'NOT met'}"
        )
