"""Who holds up the others: a process whose own part of a step takes far longer.

All processes end a step together, so that its length is the same for all. What differs
is what each does by itself meanwhile: reading and placing its rows, asking, logging.
Whoever takes long for that is waited for, and does not wait. The rest of a step belongs
to the devices, which is why a chip that computes slowly is not found here: while it
does, all processes wait alike.

Numbers are those that the watch sends around anyway (:mod:`medjax.train.watch`).
"""

import contextlib
import logging
import statistics
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

logger = logging.getLogger(__name__)

SLOW = 1.3
"""Times the median of all processes that one's own part of a step may take."""
FELT = 0.1
"""Share of a step by which it has to be longer for anybody to notice."""
LOOKS = 3
"""Looks at new steps, one after another, at which a process has to be slow."""
DEVICE, INPUT = "device", "input"
"""What time is spent on: waiting for devices, and for the next batch."""


class Pace(NamedTuple):
    """Seconds of a usual step of a process; zero before it has taken one."""

    took: float = 0.0
    """From its begin to that of the next."""
    own: float = 0.0
    """Of that, not spent waiting for devices."""
    fed: float = 0.0
    """Of that, waiting for the next batch."""


class Meter:
    """How long the steps of this process take, and what for."""

    def __init__(self) -> None:
        self._steps: deque[Pace] = deque(maxlen=20)
        self._spent = {DEVICE: 0.0, INPUT: 0.0}

    @contextlib.contextmanager
    def spent(self, name: str) -> Iterator[None]:
        """Charges what runs inside to `DEVICE` or `INPUT`."""
        began = time.perf_counter()
        yield
        self._spent[name] += time.perf_counter() - began

    def ended(self, took: float | None) -> None:
        """A step is over, after so many seconds; None: something else was done."""
        device, fed = self._spent[DEVICE], self._spent[INPUT]
        self._spent = dict.fromkeys(self._spent, 0.0)
        if took is not None:
            self._steps.append(Pace(took, max(0.0, took - device), fed))

    @property
    def pace(self) -> Pace:
        """Of the last steps, each number the median."""
        steps = list(self._steps)
        if not steps:
            return Pace()
        return Pace(*(statistics.median(each) for each in zip(*steps, strict=True)))


def behind(paces: Mapping[int, Pace]) -> set[int]:
    """Processes whose own part of a step is longer than others wait without noticing.

    Args:
      paces: Of all processes.
    """
    # Of two the faster one is what is usual.
    usual = statistics.median_low(pace.own for pace in paces.values())
    return {
        process
        for process, pace in paces.items()
        if pace.own > SLOW * usual and pace.own - usual > FELT * pace.took > 0
    }


@runtime_checkable
class Process(Protocol):
    """What the watch knows of a process."""

    phase: str
    step: int
    pace: Pace

    def named(self, process: int, processes: int) -> str:
        """With its host."""
        ...


class Stragglers:
    """Looks at all processes again and again, and logs each that stays behind, once.

    One that has caught up may be named again.
    """

    def __init__(self) -> None:
        self._looks: dict[int, int] = {}
        self._at: dict[int, int] = {}

    def look(self, processes: Mapping[int, Process]) -> None:
        """Looks once more, if all are stepping and have got on since.

        Args:
          processes: All of them.
        """
        steps = {number: one.step for number, one in processes.items()}
        stand = any(step == self._at.get(number) for number, step in steps.items())
        if stand or any(one.phase != "step" for one in processes.values()):
            return
        self._at = steps
        paces = {number: one.pace for number, one in processes.items()}
        slow = behind(paces)
        self._looks = {number: self._looks.get(number, 0) + 1 for number in slow}
        usual = statistics.median_low(pace.own for pace in paces.values())
        for number in sorted(n for n, looks in self._looks.items() if looks == LOOKS):
            pace = paces[number]
            logger.warning(
                "%s holds up the others: of a step of %.3g s its own part takes %.3g s "
                "(%.3g s of it waiting for its batch), where %.3g s is usual",
                processes[number].named(number, len(processes)),
                *(pace.took, pace.own, pace.fed, usual),
            )
