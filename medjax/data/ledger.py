"""What was kept, what was dropped and why: no row of a data set goes silently.

A filter is a choice (only frontal views) and is counted. A fault is an accident (a file
that cannot be read) and is either raised at once or listed by name, as the user chose.
"""

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from medjax.data.boundary import DataError
from medjax.data.whole import whole
from medjax.progress import say

Item = TypeVar("Item")
OnError = Literal["raise", "skip"]


@dataclass(frozen=True)
class Skip:
    """One thing left out because it is at fault."""

    id: str
    reason: str


@dataclass
class Ledger:
    """Counts filters and collects faults while a data set is read.

    Attributes:
        on_error: ``raise`` stops at the first fault, ``skip`` lists it and goes on.
        log: Gets one line per filter; by default it is said on stdout.
        filters: (name, kept, dropped) in the order applied.
        skipped: The faults so far.
    """

    on_error: OnError = "raise"
    log: Callable[[str], object] = say
    filters: list[tuple[str, int, int]] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)

    def keep(
        self, name: str, items: Iterable[Item], wanted: Callable[[Item], bool]
    ) -> list[Item]:
        """Apply a filter and write its line."""
        items = list(items)
        kept = [item for item in items if wanted(item)]
        self.count(name, len(kept), len(items) - len(kept))
        return kept

    def count(self, name: str, kept: int, dropped: int = 0) -> None:
        """Write the line of a filter that was applied elsewhere."""
        self.filters.append((name, kept, dropped))
        self.log(f"{name}: kept {kept} (dropped {dropped})")

    def fault(self, id: str, reason: str) -> None:
        """Report a fault.

        Args:
            id: What is at fault: a study, a row, a file.
            reason: What is wrong with it.

        Raises:
            DataError: If ``on_error`` is ``raise``.
        """
        if self.on_error == "raise":
            hint = "on_error=skip lists such faults and goes on"
            raise DataError(f"{id}: {reason} ({hint})")
        self.skipped.append(Skip(id, reason))

    def write_skipped(self, path: str | Path) -> None:
        """Save the faults as a table with columns ``id,reason``."""
        with whole(path) as draft, draft.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("id", "reason"))
            table.writerows((skip.id, skip.reason) for skip in self.skipped)

    def summary(self, most: int = 10) -> str:
        """The faults in a few lines, for the end of a run."""
        if not self.skipped:
            return "skipped: none"
        lines = [f"skipped: {len(self.skipped)}"]
        lines += [f"  {s.id}: {s.reason}" for s in self.skipped[:most]]
        if len(self.skipped) > most:
            lines.append(f"  ... and {len(self.skipped) - most} more")
        return "\n".join(lines)
