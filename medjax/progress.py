"""One line of progress: which phase, how far, how fast, how long still.

On a terminal the line is redrawn in place, on the error stream; in a file it is a plain
line, seldom, so that a log can be read. There is one at a time: a phase that begins
inside another takes its place and gives it back at the end, and its time does not count
as the other's. Process 0 alone shows it. What else a program says while a phase lasts
goes through `say` (or `Lines`, for a logger), which does not tear the line.
"""

import collections
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

REDRAW = 0.2
"""Seconds between two pictures of the line on a terminal."""
SELDOM = 30.0
"""Seconds between two lines in a file."""
WINDOW = 60.0
"""The rate is that of so many last seconds."""
WORTH_A_LINE = 2.0
"""A phase of so many seconds is told when it has ended."""
BAR = 16
"""Characters of the bar."""

_open: list["Progress"] = []
"""Phases that last, the outermost first; only the last one shows."""


def is_first() -> bool:
    """Whether this is process 0, asked without touching a device."""
    # Here: files are read, and faults in them told, without waiting for JAX.
    from jax._src import distributed

    return distributed.global_state.process_id == 0


class Progress:
    """A phase of work, to be entered.

    Args:
      phase: Its name: what is being done.
      total: Pieces of work.
      unit: What a piece is, in the plural: steps, films.
      done: How many were done before.
    """

    def __init__(self, phase: str, total: int, unit: str, *, done: int = 0) -> None:
        self.phase, self.total, self.unit, self.done = phase, total, unit, done
        self.remark = ""
        self._shown = is_first()
        self._first = done
        self._start()

    def _start(self) -> None:
        self._began = self._last = time.monotonic()
        self._paused = 0.0
        self._marks = collections.deque([(self._began, self.done)])

    def advance(self, count: int = 1, *, remark: str | None = None) -> None:
        """Counts pieces that are done.

        Args:
          count: How many more.
          remark: What stands behind the numbers; None leaves it as it is.
        """
        self.done += count
        if remark is not None:
            self.remark = remark
        now = time.monotonic()
        if not self._shown or now - self._last < (REDRAW if _on_terminal() else SELDOM):
            return
        self._last = now
        self._marks.append((now, self.done))
        while len(self._marks) > 2 and self._marks[1][0] < now - WINDOW:
            self._marks.popleft()
        if _on_terminal():
            self.draw()
        else:
            print(self.line(), file=sys.stderr, flush=True)

    def rate(self) -> float:
        """Pieces per second, of late."""
        (then, before), now = self._marks[0], time.monotonic()
        return (self.done - before) / max(now - then, 1e-9)

    def line(self) -> str:
        """The state in words: ``train: 64 of 150 steps, 3.41 steps/s, 0:25 left``."""
        rate = self.rate()
        parts = [f"{self.phase}: {self.done:,} of {self.total:,} {self.unit}"]
        if rate > 0:
            left = (self.total - self.done) / rate
            parts += [speed(rate, self.unit), f"{duration(left)} left"]
        return ", ".join([*parts, *filter(None, [self.remark])])

    def draw(self) -> None:
        """Draws the line in place, as much of it as the terminal is wide."""
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r{self.picture()[:width]}\x1b[K")
        sys.stderr.flush()

    def picture(self) -> str:
        """What stands in the line: a bar and the state in words."""
        share = min(self.done / self.total, 1.0) if self.total else 1.0
        full, rest = _letters()
        bar = full * round(share * BAR) + rest * (BAR - round(share * BAR))
        return f"{bar} {self.line()}"

    def told(self, seconds: float) -> str | None:
        """What is said when it has ended well after so long; None: nothing."""
        count = self.done - self._first
        if not count:
            return None
        rate = speed(count / seconds, self.unit)
        return f"{self.phase}: {count:,} {self.unit} in {duration(seconds)}, {rate}"

    def __enter__(self) -> "Progress":
        self._start()
        if self._shown:
            _wipe()
            _open.append(self)
            if _on_terminal():
                self.draw()
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._shown:
            return
        _wipe()
        _open.remove(self)
        spent = time.monotonic() - self._began
        seconds = spent - self._paused
        if exception == (None, None, None) and seconds >= WORTH_A_LINE:
            if (told := self.told(seconds)) is not None:
                print(told, file=sys.stderr, flush=True)
        if _open:
            _open[-1]._go_on(spent)

    def _go_on(self, pause: float) -> None:
        """Shows again after an inner phase, whose time was not its own."""
        self._paused += pause
        self._last += pause
        self._marks = collections.deque((t + pause, n) for t, n in self._marks)
        if _on_terminal():
            self.draw()


class Waiting(Progress):
    """A phase that is one piece, such as a compilation: the time it has taken so far.

    The line is redrawn beside the work, which may well hold this thread for minutes.

    Args:
      phase: Its name: what is waited for.
    """

    def __init__(self, phase: str) -> None:
        super().__init__(phase, 1, "")
        self._over = threading.Event()
        self._beside: threading.Thread | None = None

    def line(self) -> str:
        """The state in words: ``compile for v6e-256: 3:10``."""
        return f"{self.phase}: {duration(time.monotonic() - self._began)}"

    def picture(self) -> str:
        """The same: there is no share that a bar could show."""
        return self.line()

    def told(self, seconds: float) -> str:
        """How long it took."""
        return f"{self.phase}: {duration(seconds)}"

    def __enter__(self) -> "Waiting":
        super().__enter__()
        if self._shown:
            self._beside = threading.Thread(target=self._show, daemon=True)
            self._beside.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        if self._beside is not None:
            self._beside.join()  # or it may draw what was wiped already
        super().__exit__(*exception)

    def _show(self) -> None:
        while not self._over.wait(1.0 if _on_terminal() else SELDOM):
            if _open and _open[-1] is self:
                if _on_terminal():
                    self.draw()
                else:
                    print(self.line(), file=sys.stderr, flush=True)


def track(items: Iterable[T], phase: str, total: int, unit: str) -> Iterator[T]:
    """The items, counted as they are done with.

    Args:
      items: Pieces of work.
      phase: What is being done.
      total: How many items there are.
      unit: What one is, in the plural.

    Yields:
      Each of them.
    """
    with Progress(phase, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()


def say(text: str, *, error: bool = False) -> None:
    """Prints a line above the progress, on stdout or on the error stream."""
    _wipe()
    print(text, file=sys.stderr if error else sys.stdout, flush=True)
    if _open and _on_terminal():
        _open[-1].draw()


class Lines(logging.Handler):
    """What a logger says, above the progress, on the error stream."""

    def emit(self, record: logging.LogRecord) -> None:
        """Says one record."""
        say(self.format(record), error=True)


def speed(rate: float, unit: str) -> str:
    """A rate in three figures: ``217 films/s``."""
    digits = max(0, 3 - len(f"{int(rate)}"))
    figures = f"{rate:,.{digits}f}" if rate >= 1 else f"{rate:.3g}"
    return f"{figures} {unit}/s"


def duration(seconds: float) -> str:
    """A time as ``0:07``, ``12:30`` or ``3:05:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _on_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _wipe() -> None:
    """Takes the line away that a terminal shows."""
    if _open and _on_terminal():
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def _letters() -> tuple[str, str]:
    """A full and an empty piece of the bar, in what the terminal can write."""
    unicode = (sys.stderr.encoding or "").lower().startswith("utf")
    return ("━", "─") if unicode else ("#", "-")
