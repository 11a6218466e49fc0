"""Which process of a drill is killed, in which phase of the run, and when in it."""

import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Sequence

import numpy as np

PHASES = ("start", "join", "restore", "compile", "step", "evaluate", "save")
"""Where a process is killed; a save goes on in the background of later steps."""
MOMENTS = {"start": 0.0, "restore": 0.1}
"""Seconds of a phase in which a process is killed, if not half a second, which covers
a save's background. Who is killed at its start never comes; so small a state is soon
restored."""


@dataclasses.dataclass(frozen=True)
class Blow:
    """Where a process is killed."""

    process: int
    phase: str
    time: int
    """Which time it comes to the phase, from 1; steps count one by one."""
    after_s: float
    """Seconds from there."""

    def arm(self) -> Callable[[str], None]:
        """What is to be told of each phase that begins; it kills this process."""
        seen = 0

        def begins(phase: str) -> None:
            nonlocal seen
            seen += phase == self.phase
            if phase == self.phase and seen == self.time:
                told = (os.getpid(), signal.SIGKILL)
                if not self.after_s:
                    os.kill(*told)
                threading.Timer(self.after_s, os.kill, told).start()

        return begins


def draw(
    random: np.random.Generator, processes: int, phases: Sequence[str] = PHASES
) -> Blow:
    """Any process, any of some phases."""
    phase = str(random.choice(phases))
    time = int(random.integers(1, 40)) if phase == "step" else 1
    most = MOMENTS.get(phase, 0.5)
    after = random.uniform(0, most) if most else 0.0
    return Blow(int(random.integers(processes)), phase, time, after)


def due(known: Sequence[str]) -> list[str]:
    """Phases that have had the fewest kills, after kills in those that are known.

    Nothing is restored before there is a checkpoint, which is certain once the run has
    come to evaluate.
    """
    possible = [each for each in PHASES if each != "restore" or "evaluate" in known]
    fewest = min(map(known.count, possible))
    return [each for each in possible if known.count(each) == fewest]
