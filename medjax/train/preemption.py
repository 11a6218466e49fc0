"""Leaving when asked: SIGTERM and SIGINT end a run after a checkpoint, not before.

A cluster sends SIGTERM some time before it takes a machine away. The handler only
notes it; the loop looks after each step, saves and raises `Preempted`.

With several processes the signal may reach only one, or each at another step, while a
checkpoint needs all of them at the same step. There JAX's preemption service is asked:
it has its own handler of SIGTERM, spreads the notice, and names a step that no process
has passed.
"""

import logging
import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

logger = logging.getLogger(__name__)


class Preempted(SystemExit):
    """The run was asked to stop and has saved; the same command resumes it.

    As a `SystemExit` it ends the program without a traceback, with the exit status a
    shell gives to a process ended by that signal (143 for SIGTERM, 130 for SIGINT), so
    that a scheduler does not take the run for finished.

    Attributes:
      step: Updates done and saved.
    """

    def __init__(self, step: int, signum: int) -> None:
        super().__init__(128 + signum)
        self.step = step


class PreemptionGuard:
    """Notes SIGTERM and SIGINT while it is entered, in the main thread."""

    def __init__(self) -> None:
        self._signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "PreemptionGuard":
        if threading.current_thread() is threading.main_thread():
            signals = [signal.SIGINT]
            if jax.process_count() == 1:
                signals.append(signal.SIGTERM)
            for signum in signals:
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def requested(self, step: int) -> int | None:
        """The signal after which to stop at this step, or None to go on.

        Args:
          step: Updates done; every process must ask at every step.
        """
        if jax.process_count() > 1:
            if multihost_utils.reached_preemption_sync_point(step):
                return self._signum or signal.SIGTERM
            return None
        return self._signum

    def _note(self, signum: int, frame: FrameType | None) -> None:
        del frame
        logger.warning("signal %d: will save after this step and stop", signum)
        self._signum = signum
        # A second signal acts at once, should the step never end.
        signal.signal(signum, self._previous[signum])
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
