"""A profile of some steps of a run, in its folder."""

import jax

from medjax.train.storage import Folder, Growing


class Trace:
    """Profiles the steps from the first to the last, both included."""

    def __init__(self, steps: tuple[int, int] | None, folder: Folder) -> None:
        self._first, self._last = steps or (0, 0)
        self._folder = folder
        self._on = False

    def before(self, n: int) -> None:
        """Starts at the first step."""
        if n == self._first:
            self._written = Growing(self._folder)
            jax.profiler.start_trace(str(self._written.local))
            self._on = True

    def ends(self, n: int) -> bool:
        """Whether step n is the last to trace, and is to be waited for."""
        return self._on and n == self._last

    def after(self, n: int) -> None:
        """Stops after the last step."""
        if self.ends(n):
            self._stop()

    def _stop(self) -> None:
        if self._on:
            self._on = False
            jax.profiler.stop_trace()
            self._written.close()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exception: object) -> None:
        self._stop()
