"""How often to save where machines are taken away, and what is left of the time there.

After Young (1974): of the intervals between checkpoints that of sqrt(2 save between)
seconds loses least, were failures rare and each to cost half an interval.
"""

import math

BETWEEN_FAILURES = 4 * 3600.0
"""Seconds between two failures of a run on spot machines; assumed."""
RESTART = 600.0
"""Seconds until a run that lost a machine steps again: noticed, another one found,
joined, restored, its program taken from the cache; assumed."""


def interval(save: float, between: float = BETWEEN_FAILURES) -> float:
    """Seconds of training between two checkpoints that lose least.

    Args:
      save: Seconds that one takes.
      between: Seconds between two failures.
    """
    return math.sqrt(2 * save * between)


def goodput(
    every: float,
    save: float,
    *,
    between: float = BETWEEN_FAILURES,
    restart: float = RESTART,
) -> float:
    """Share of the time that goes into steps which count.

    Of the time between two failures saving takes its share, half an interval is done
    again, and the restart is waited for. Saving is taken to hold up training, as it
    does at worst.

    Args:
      every: Seconds of training between two checkpoints.
      save: Seconds that one takes.
      between: Seconds between two failures.
      restart: Seconds from one to the next step.

    Returns:
      From 0, where nothing ever gets done, to 1.
    """
    kept = between * every / (every + save) - every / 2
    return max(kept, 0.0) / (between + restart)
