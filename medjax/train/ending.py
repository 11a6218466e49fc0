"""How a command ends: bad input gives one sentence and status 1, never a traceback.

Readers, checks and the file system say in their errors what came and what was expected;
the person at the terminal needs that sentence and nothing of the calls that led to it.
What no reader and no check foresaw is a fault of the software and keeps its traceback,
and so does everything if ``MEDJAX_TRACEBACK`` is set. Flags that cannot be understood
end with status 2, which is tyro's doing.
"""

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

from medjax.train import watch
from medjax.train.nonfinite import NonFiniteError

P = ParamSpec("P")
EXPECTED = (ValueError, OSError, ImportError, NonFiniteError)
"""What readers, checks and the file system raise; `DataError` is a `ValueError`."""


def ends_in_words(
    main: Callable[P, object], *, also: tuple[type[Exception], ...] = ()
) -> Callable[P, int]:
    """Makes of an experiment's ``main`` one that returns its exit status.

    Args:
      main: runs the command; what it returns is its status, ``None`` is 0.
      also: further errors that its readers document.

    Returns:
      A function of the same arguments: 0 or what ``main`` returned, or 1 after one line
      on the error stream. For ``sys.exit(main())``.
    """

    @functools.wraps(main)
    def status(*arguments: P.args, **flags: P.kwargs) -> int:
        try:
            found = main(*arguments, **flags)
        except (*EXPECTED, *also) as error:
            if os.environ.get("MEDJAX_TRACEBACK"):
                raise
            # Of several processes the others are told; and where theirs is the fault,
            # this ends with them.
            watch.failed(error)
            print(f"error: {in_words(error)}", file=sys.stderr)
            return 1
        return found if isinstance(found, int) else 0

    return status


def in_words(error: Exception) -> str:
    """One line that says what went wrong, whoever raised it."""
    if isinstance(error, OSError) and error.strerror:
        # Python writes "[Errno 28] No space left on device: 'run/metrics.jsonl'".
        where = "" if error.filename is None else f"{error.filename}: "
        return f"{where}{error.strerror}"
    # A KeyError's own text is the repr of its argument.
    keyed = isinstance(error, KeyError) and error.args
    text = str(error.args[0] if keyed else error)
    return " ".join(text.split()) or type(error).__name__
