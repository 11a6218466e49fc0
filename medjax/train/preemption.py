"""Leaving when asked: SIGTERM and SIGINT end a run after a checkpoint, not before.

A cluster sends SIGTERM some time before it takes a machine away. The handler only
notes it; the loop looks after each step, saves and raises `Preempted`. In Google's
cloud the machine's own server is asked as well (:mod:`medjax.train.notice`), and its
word counts as SIGTERM.

With several processes the signal may reach only one, or each at another step, while a
checkpoint needs all of them at the same step. Whoever notices a signal at step n writes
"stop at n + 3" where all can read it, unless a stop is written already. Three are
enough: a process that asks at step m has waited for step m - 2, which every process has
taken part in and so has asked at m - 3. Nobody gets to n + 3 before the note is there.
Looking for a note is a question to process 0, so short steps ask only at every k-th of
them; the stop is then the first such step from n + 3 on.

JAX's own preemption service is not used: it can name a step that one of the processes
has passed, which then waits for the others for ever.
"""

import itertools
import logging
import os
import signal
import threading
from types import FrameType
from typing import Any

import jax

from medjax.train.agree import coordination_client
from medjax.train.notice import Notice

logger = logging.getLogger(__name__)

AHEAD = 3
"""Steps from noticing a signal to stopping, where there are several processes."""

_guards = itertools.count()
"""Numbers the guards of a process; all processes make them in the same order."""


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
    """Notes SIGTERM and SIGINT while it is entered, in the main thread, and what
    Google's cloud says.

    With several processes all must enter one, and ask it at every step.

    Args:
      every: Steps at whose multiples notes of other processes are looked for; the same
        for all.
    """

    def __init__(self, every: int = 1) -> None:
        self._every = every
        self._signum: int | None = None
        self._told = False
        self._previous: dict[int, Any] = {}
        self._board = _Board() if jax.process_count() > 1 else None
        self._notice = Notice(self._warned)

    def __enter__(self) -> "PreemptionGuard":
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                # None: a handler that is not Python's and cannot be put back.
                previous = signal.signal(signum, self._note)
                self._previous[signum] = previous or signal.SIG_DFL
        self._notice.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._notice.__exit__()
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        if kind is None and self._signum is not None:
            # Noted after the last step could act on it: now it acts at once.
            os.kill(os.getpid(), self._signum)

    def requested(self, step: int) -> int | None:
        """The signal after which to stop at this step, or None to go on.

        Args:
          step: Updates begun; steps before the one before it are waited for.
        """
        if self._board is None:
            return self._signum
        if self._signum is not None and not self._told:
            first = -(-(step + AHEAD) // self._every) * self._every
            self._board.write(first, self._signum)
            self._told = True
        if step % self._every:
            return None
        stop = self._board.read()
        return stop[1] if stop is not None and step >= stop[0] else None

    def _warned(self, what: str) -> None:
        logger.warning("this machine ends (%s): will save after a step and stop", what)
        self._signum = self._signum or signal.SIGTERM

    def _note(self, signum: int, frame: FrameType | None) -> None:
        del frame
        logger.warning("signal %d: will save after a step and stop", signum)
        self._signum = signum
        # A second signal acts at once, should the step never end.
        signal.signal(signum, self._previous[signum])


class _Board:
    """One note that all processes of a run can read: where to stop, and why."""

    def __init__(self) -> None:
        self._client = coordination_client()
        self._folder = f"medjax/stop/{next(_guards)}"

    def read(self) -> tuple[int, int] | None:
        """The step to stop at and the signal; None if nobody was asked to leave."""
        notes = self._client.key_value_dir_get(self._folder)
        if not notes:
            return None
        step, signum = notes[0][1].split()
        return int(step), int(signum)

    def write(self, step: int, signum: int) -> None:
        """Writes the note unless there is one."""
        try:
            self._client.key_value_set(f"{self._folder}/note", f"{step} {signum}")
        except jax.errors.JaxRuntimeError as error:
            if "ALREADY_EXISTS" not in str(error):
                raise
