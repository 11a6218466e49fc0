"""Where the time of a run went, across all its starts: goodput, and what was lost.

Goodput is the share of all time since the first start that went into steps that count.
The rest is told by what it was lost to:

============  =====================================================================
class         seconds
============  =====================================================================
``down``      between the last row of a start that ended and the next start
``start``     from the start of the program to the loop, ``restore`` apart
``compile``   compiling the step
``restore``   reading a checkpoint
``input``     waiting for a batch
``save``      saving, as far as the loop waits for it
``evaluate``  hooks
``repeated``  steps taken a second time, since no checkpoint held them
============  =====================================================================

The account is ``time.json`` in the run's folder, written with every row of the log.
Process 0 keeps it, by its own clock.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from medjax.data.documents import fits
from medjax.data.whole import whole
from medjax.train.storage import Folder, is_remote

NAME = "time.json"
LOST = (
    "down",
    "start",
    "compile",
    "restore",
    "input",
    "save",
    "evaluate",
    "repeated",
)
"""What time can be lost to."""
STEPS = "steps"
"""What it is not lost to."""
ROW = ("goodput", *(f"lost/{name}" for name in LOST))
"""Names in a row of the log."""
_imported: float | None = time.time()
"""When this program came to import the loop, for its first training."""


class Goodput:
    """The account of a run, from a start on.

    Args:
      folder: Of the run.
      step: Updates that this start goes on from.
      began: When its program was started; None: when it imported this, or now, if it
        has trained something else since.
      clock: Seconds since some day, on which several starts agree.
    """

    def __init__(
        self,
        folder: Folder,
        *,
        step: int,
        began: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._clock = folder / NAME, clock
        self._charged = _beginning() if began is None else began
        self._now_in = "start"
        self.seconds: dict[str, float] = {name: 0.0 for name in (*LOST, STEPS)}
        self.starts = 1
        kept = self._kept()
        if kept is None:
            return
        self.starts = kept["starts"] + 1
        self.seconds |= kept["seconds"]
        self.seconds["down"] += max(0.0, self._charged - kept["at"])
        # Steps behind the checkpoint did not count after all.
        again = max(0, kept["step"] - step) / max(kept["step"], 1)
        moved = again * self.seconds[STEPS]
        self.seconds[STEPS] -= moved
        self.seconds["repeated"] += moved

    def begin_steps(self) -> None:
        """The loop begins: time not charged otherwise is that of steps from here on."""
        self._charge(self._now_in)
        self._now_in = STEPS

    @contextlib.contextmanager
    def spent(self, name: str) -> Iterator[None]:
        """Charges what runs inside to one of `LOST`."""
        self._charge(self._now_in)
        try:
            yield
        finally:
            self._charge(name)

    def read(self, step: int) -> dict[str, float]:
        """The account after a step; it is written down as well.

        Args:
          step: Updates done.

        Returns:
          ``goodput``, and the seconds of each class as ``lost/<class>``.
        """
        self._charge(self._now_in)
        if jax.process_index() == 0:
            self._keep(step)
        every = sum(self.seconds.values())
        share = self.seconds[STEPS] / every if every else 0.0
        values = (share, *(self.seconds[name] for name in LOST))
        return dict(zip(ROW, values, strict=True))

    def _charge(self, name: str) -> None:
        now = self._clock()
        self.seconds[name] += max(0.0, now - self._charged)
        self._charged = now

    def _keep(self, step: int) -> None:
        content = {
            "step": step,
            "at": self._charged,
            "starts": self.starts,
            "seconds": self.seconds,
        }
        text = json.dumps(content, indent=1) + "\n"
        if is_remote(self._path.parent):
            self._path.write_text(text)
            return
        with whole(self._path) as draft:
            draft.write_text(text)

    def _kept(self) -> dict[str, Any] | None:
        """What an earlier start wrote; None where there is none that can be read."""
        try:
            kept = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return None
        shape = {"step": int, "at": float, "starts": int, "seconds": dict[str, float]}
        ok = isinstance(kept, dict) and all(
            fits(kept.get(name), kind) for name, kind in shape.items()
        )
        return kept if ok else None


def _beginning() -> float:
    """When a training of this program began."""
    global _imported
    began, _imported = _imported, None
    return time.time() if began is None else began
