"""What became of damaged files, counted by format, as a page."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Counts:
    """What became of the damaged files of a format.

    Attributes:
        files: All.
        refused: By a reader's documented error; the others were read by all readers.
        faults: Neither read nor refused as documented.
    """

    files: int
    refused: int
    faults: int


def page(counts: Mapping[str, Counts], asked: int, seed: int) -> str:
    """The counts as a table in Markdown, with the command that makes them again."""
    files = sum(count.files for count in counts.values())
    rows = [
        f"| {name} | {c.files} | {c.files - c.refused - c.faults} | {c.refused} "
        f"| {c.faults} |"
        for name, c in counts.items()
    ]
    refused = sum(count.refused for count in counts.values())
    faults = sum(count.faults for count in counts.values())
    return "\n".join(
        [
            "# Damaged files",
            "",
            f"`python -m tests.mutation.worker --files {asked} --seed {seed} --page "
            "FILE` damages",
            "small intact files of every format and reads them. A file is read by all",
            "its readers (into finite numbers alone), or refused by a documented error",
            "that names it, within ten seconds and 2 GB; anything else is a fault.",
            "",
            "| format | files | read | refused | faults |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            f"| all | {files} | {files - refused - faults} | {refused} | {faults} |",
            "",
        ]
    )
