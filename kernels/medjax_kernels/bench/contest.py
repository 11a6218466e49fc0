"""Contestants made ready, and the clock that they take turns at."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from medjax_kernels.bench.case import Contestant

ROTATED_BYTES = 256 << 20
"""All input sets together: several times the L2 of a GPU."""
MOST_SETS = 32
TURN_SECONDS = 0.05
MOST_CALLS = 1000


@runtime_checkable
class Run(Protocol):
    """A compiled contestant with its input sets on the device."""

    temporary_bytes: int | None

    def start(self, turn: int) -> Any:
        """Queue one call; do not wait."""
        ...

    def wait(self, handle: Any) -> None:
        """Return when the queued call, and all before it, are done."""
        ...

    def outputs(self, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The result for these inputs, on the host."""
        ...


class JaxRun:
    """A function of jax arrays, compiled once.

    Args:
        function: arrays to named arrays.
        sets: input sets, of equal shapes.
    """

    def __init__(
        self,
        function: Callable[..., Mapping[str, Any]],
        sets: Sequence[Sequence[np.ndarray]],
    ) -> None:
        self.sets = [jax.block_until_ready(jax.device_put(tuple(s))) for s in sets]
        self.call = jax.jit(function)
        compiled = self.call.lower(*self.sets[0]).compile()
        memory = compiled.memory_analysis()
        self.temporary_bytes = None if memory is None else memory.temp_size_in_bytes

    def start(self, turn: int) -> Any:
        """Queue one call; do not wait."""
        return self.call(*self.sets[turn % len(self.sets)])

    def wait(self, handle: Any) -> None:
        """Return when the queued call, and all before it, are done."""
        jax.block_until_ready(handle)

    def outputs(self, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The result for these inputs, on the host."""
        result = self.call(*jax.device_put(tuple(arrays)))
        return {name: np.asarray(value) for name, value in result.items()}


def make_run(
    contestant: Contestant, sets: Sequence[Sequence[np.ndarray]], platform: str
) -> Run:
    """The contestant, compiled and called once."""
    function = contestant.make()
    if contestant.torch:
        from medjax_kernels.bench.torch_run import TorchRun

        run: Run = TorchRun(function, sets, platform)
    else:
        run = JaxRun(function, sets)
    run.wait(run.start(0))
    return run


def count_sets(bytes_per_set: int) -> int:
    """How many input sets a contest rotates through."""
    return max(2, min(MOST_SETS, math.ceil(ROTATED_BYTES / max(bytes_per_set, 1))))


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds per call of every turn of one contestant, in order.

    Attributes:
        seconds: on the wall.
        cpu_seconds: of all threads of this process; on a CPU that others use too, what
            they change least.
        calls: in one turn.
    """

    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]
    calls: int

    @property
    def median(self) -> float:
        """Seconds per call; half of the turns took less."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """The 10th and the 90th percentile."""
        low, high = np.percentile(self.seconds, [10, 90])
        return float(low), float(high)

    def times_faster(self, other: "Timing", *, cpu: bool = False) -> float:
        """The median over turns of the other's time over this one's."""
        name = "cpu_seconds" if cpu else "seconds"
        pairs = zip(getattr(other, name), getattr(self, name), strict=True)
        return statistics.median(theirs / ours for theirs, ours in pairs)


def calls_per_turn(run: Run) -> int:
    """As many as fill a turn, by the fastest of three calls."""
    taken = []
    for turn in range(3):
        began = time.perf_counter()
        run.wait(run.start(turn))
        taken.append(time.perf_counter() - began)
    return max(1, min(MOST_CALLS, math.ceil(TURN_SECONDS / min(taken))))


def take_turns(runs: Mapping[str, Run], repeat: int) -> dict[str, Timing]:
    """Every contestant ``repeat`` times, in rotation.

    Each turn begins one contestant later, so that nobody always follows the same one,
    and with a call that is not timed: what the last one left in the caches is gone.

    Args:
        runs: by name, compiled.
        repeat: turns of each.

    Returns:
        Their timings.
    """
    calls = {name: calls_per_turn(run) for name, run in runs.items()}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(repeat):
        begin = turn % len(names)
        for name in names[begin:] + names[:begin]:
            seconds[name].append(_one_turn(runs[name], turn, calls[name]))
    timings = {}
    for name, taken in seconds.items():
        wall, cpu = zip(*taken, strict=True)
        timings[name] = Timing(wall, cpu, calls[name])
    return timings


def _one_turn(run: Run, turn: int, calls: int) -> tuple[float, float]:
    """Seconds per call, on the wall and of the processor."""
    first = turn * calls
    handle = run.start(first)
    run.wait(handle)
    began, cpu_began = time.perf_counter(), time.process_time()
    for i in range(1, calls + 1):
        handle = run.start(first + i)
    run.wait(handle)
    cpu, wall = time.process_time() - cpu_began, time.perf_counter() - began
    return wall / calls, cpu / calls
