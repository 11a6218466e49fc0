"""Reads damaged files in processes that may die: a program, and what the tests call.

``python -m tests.mutation.worker --files 1000 --seed 0`` damages and reads so many
files and prints a line of JSON for each kind of fault; ``--format nifti --number 17``
does one file alone, and ``--keep FOLDER`` leaves what is at fault to look at.

A process imports the readers once and forks; the child reads file after file under
limits that the operating system holds (processor time, wall time, address space), so
that a loop inside a C library ends the child, names the file, and costs no more than a
new fork.
"""

import argparse
import contextlib
import dataclasses
import importlib
import importlib.util
import json
import math
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from tests.mutation import formats
from tests.mutation.counts import Counts, page
from tests.mutation.mutators import mutate

MEMORY = 2 << 30
"""Bytes that reading may ask for."""
LONGEST = 2000
"""Characters of a message: a sentence, and not a list of all that a file holds."""
PER_CHILD = 250
"""Files that one child reads."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of all readers of one damaged file together.

    Attributes:
        work: Seconds of processor time.
        wait: Seconds of wall time, for a reader that sleeps; a busy machine is slow.
    """

    work: float = 10.0
    wait: float = 120.0

    def start(self) -> None:
        """Begins to count: the kernel ends this process, whatever code it is in, and
        whatever whoever started it did to its signals."""
        ends = (signal.SIGPROF, signal.SIGALRM)
        for each in ends:
            signal.signal(each, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ends)
        signal.setitimer(signal.ITIMER_PROF, self.work)
        signal.setitimer(signal.ITIMER_REAL, self.wait)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one reader did with one damaged file.

    Attributes:
        format: Name in :mod:`tests.mutation.formats`.
        number: Of the damaged file; with the seed it says which damage.
        file: Which file was damaged.
        damage: What was done.
        reader: Name of the reader.
        fault: What was wrong; empty for success and documented errors.
        told: The error's type and text; empty for success.
        where: The innermost line of the project that the error passed.
    """

    format: str
    number: int
    file: str
    damage: str
    reader: str
    fault: str = ""
    told: str = ""
    where: str = ""


def damaged(
    name: str, intact: Path, folder: Path, seed: int, number: int
) -> tuple[Path, str]:
    """A copy of a format's intact files with one of them damaged.

    Returns:
        The damaged file, and what was done to it.
    """
    format = formats.load(name)
    rng = np.random.default_rng([seed, number, zlib.crc32(name.encode())])
    shutil.copytree(intact, folder)
    patterns = list(format.damage)
    pattern = patterns[int(rng.integers(len(patterns)))]
    files = sorted(p for p in folder.rglob(pattern) if p.is_file())
    file = files[int(rng.integers(len(files)))]
    content, what = mutate(file.read_bytes(), format.damage[pattern], rng)
    file.write_bytes(content)
    return file, what


def not_finite(value: Any, at: str = "value") -> str:
    """Where a NaN or an infinity is in what a reader returned; empty if nowhere."""
    if isinstance(value, np.ndarray | np.generic | float | complex):
        array = np.asarray(value)
        fine = array.dtype.kind not in "fc" or bool(np.isfinite(array).all())
        return "" if fine else at
    if dataclasses.is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        parts: Any = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    else:
        return ""
    return next((bad for k, v in parts if (bad := not_finite(v, f"{at}.{k}"))), "")


def judge(format: formats.Format, file: Path, error: BaseException) -> str:
    """Why an error is not a documented one; empty if it is."""
    told = str(error)
    if not isinstance(error, format.errors):
        return f"{type(error).__name__} is not documented"
    if not any(name in told for name in (file.name, *format.also)):
        return "the message does not name the file"
    if format.secret and format.secret in told:
        return "the message repeats what the file says"
    if len(told) > LONGEST:
        return "the message is too long"
    return ""


def read_damaged(
    name: str, format: formats.Format, folder: Path, file: Path, number: int, what: str
) -> list[Outcome]:
    """What every reader of a format does with one damaged file."""
    shown, outcomes = str(file.relative_to(folder)), []
    for reader, read in format.reads.items():
        fault = told = where = ""
        try:
            bad = not_finite(read(folder))
            fault = f"not finite: {bad}" if bad else ""
        except BaseException as error:  # a panic of a Rust library is no Exception
            fault = judge(format, file, error)
            told = f"{type(error).__name__}: {str(error)[:300]}"
            where = _innermost(error)
        outcomes.append(Outcome(name, number, shown, what, reader, fault, told, where))
    return outcomes


def _innermost(error: BaseException) -> str:
    """File and line of the project where an error came from."""
    frames = traceback.extract_tb(error.__traceback__)
    while error.__context__ is not None:
        error = error.__context__
        frames = [*frames, *traceback.extract_tb(error.__traceback__)]
    own = [
        f for f in frames if "medjax/" in f.filename or "/experiments/" in f.filename
    ]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""


def _limited(task: Any, output: int) -> None:
    """Runs a task in this forked child, which ends with it."""
    quiet = os.open(os.devnull, os.O_RDWR)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    warnings.simplefilter("ignore")
    lines = os.fdopen(output, "w", buffering=1)

    def say(row: Mapping[str, Any]) -> None:
        lines.write(json.dumps(row) + "\n")

    try:
        task(say)
    except BaseException as error:
        # Of this program, not of a reader: those errors are outcomes.
        say({"broken": "".join(traceback.format_exception(error))})
    finally:
        os._exit(0)


def _forked(task: Any) -> tuple[list[Any], int]:
    """What a task said in a forked child, line by line, and how the child ended."""
    source, output = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(source)
        _limited(task, output)
    os.close(output)
    with os.fdopen(source) as lines:
        said = [json.loads(line) for line in lines if line.endswith("\n")]
    status = os.waitpid(child, 0)[1]
    if said and "broken" in said[-1]:
        raise RuntimeError(said[-1]["broken"])
    return said, status


def _limit_memory() -> None:
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def run(
    name: str, count: int, seed: int, folder: Path, limits: Limits
) -> Iterator[Outcome]:
    """Damages and reads files of one format.

    Args:
        name: Of the format.
        count: How many damaged files.
        seed: Of the damage.
        folder: An empty folder for the files; those at fault stay there.
        limits: Of one file.

    Yields:
        One outcome per file and reader.
    """
    # The tokenizers' library takes PyTorch in where it is installed. What its libraries
    # map (of a build for GPUs, gigabytes) is not what a file asks for.
    if importlib.util.find_spec("torch") is not None:
        importlib.import_module("torch")
    format = formats.load(name)
    intact = folder / "intact"
    intact.mkdir(parents=True)

    def build(say: Any) -> None:
        format.build(intact)
        for reader, read in format.reads.items():
            bad = not_finite(read(intact))
            say({"reader": reader, "bad": bad})

    said, status = _forked(build)
    if status or len(said) < len(format.reads) or any(one["bad"] for one in said):
        raise RuntimeError(f"{name}: the intact files are not read: {said} {status}")

    number = 0
    while number < count:

        def batch(say: Any, first: int = number) -> None:
            _limit_memory()
            for one in range(first, min(count, first + PER_CHILD)):
                place = folder / str(one)
                file, what = damaged(name, intact, place, seed, one)
                say({"begun": one, "file": str(file.relative_to(place)), "what": what})
                limits.start()
                outcomes = read_damaged(name, format, place, file, one, what)
                for outcome in outcomes:
                    say(dataclasses.asdict(outcome))
                say({"ended": one})
                if not any(outcome.fault for outcome in outcomes):
                    shutil.rmtree(place)

        said, status = _forked(batch)
        begun: dict[str, Any] = {}
        for one in said:
            if "begun" in one:
                begun = one
            elif "ended" in one:
                begun, number = {}, one["ended"] + 1
            else:
                yield Outcome(**one)
        if status:
            yield _death(name, begun, status)
            number = begun.get("begun", number) + 1


def _death(name: str, begun: Mapping[str, Any], status: int) -> Outcome:
    """The fault of a reader that did not come back."""
    code = os.waitstatus_to_exitcode(status)
    told = signal.Signals(-code).name if code < 0 else f"status {code}"
    limits = {"SIGPROF": "too slow", "SIGALRM": "hangs"}
    return Outcome(
        format=name,
        number=begun.get("begun", -1),
        file=begun.get("file", ""),
        damage=begun.get("what", ""),
        reader="any",
        fault=f"{limits.get(told, 'the process died')}: {told}",
    )


def shares(names: Sequence[str], files: int) -> dict[str, int]:
    """So many files in all, spread over formats by their shares."""
    weights = {name: formats.load(name).share for name in names}
    total = sum(weights.values())
    return {k: max(1, math.ceil(files * v / total)) for k, v in weights.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; status 3 if a reader was at fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    names = (*formats.NAMES, *formats.PLANTED)
    add("--format", action="append", choices=names, help="again for several; all")
    add("--files", type=int, default=1000, help="damaged files in all")
    add("--seed", type=int, default=0, help="of the damage")
    add("--number", type=int, help="one file of one format, and errors in full")
    add("--keep", type=Path, help="leave the files at fault here")
    add("--out", type=Path, help="write every outcome as a line of JSON")
    add("--page", type=Path, help="write the counts as a page")
    add("--work", type=float, default=Limits.work, help="seconds of processor time")
    add("--wait", type=float, default=Limits.wait, help="seconds of wall time")
    options = parser.parse_args(arguments)
    options.limits = Limits(options.work, options.wait)
    with contextlib.ExitStack() as stack:
        folder = options.keep or stack.enter_context(tempfile.TemporaryDirectory())
        if options.number is not None:
            return _one(options, Path(folder))
        out = stack.enter_context(options.out.open("w")) if options.out else None
        chosen = options.format or formats.NAMES
        counts = {}
        for name, count in shares(chosen, options.files).items():
            place = Path(folder) / name
            outcomes = run(name, count, options.seed, place, options.limits)
            counts[name] = _tell(name, outcomes, out)
    if options.page:
        options.page.write_text(page(counts, options.files, options.seed))
    return 3 if any(count.faults for count in counts.values()) else 0


def _tell(name: str, outcomes: Iterator[Outcome], out: IO[str] | None) -> Counts:
    """Writes all outcomes, prints one of each kind of fault and a line of counts."""
    files: dict[int, bool] = {}
    refused: set[int] = set()
    kinds: set[tuple[str, str, str]] = set()
    for outcome in outcomes:
        bad, row = bool(outcome.fault), json.dumps(dataclasses.asdict(outcome))
        files[outcome.number] = files.get(outcome.number, False) or bad
        if outcome.told and not bad:
            refused.add(outcome.number)
        kind = (outcome.reader, outcome.fault.split(": value")[0], outcome.where)
        if out:
            out.write(row + "\n")
        if bad and kind not in kinds:
            kinds.add(kind)
            print(row, flush=True)
    faults = sum(files.values())
    print(f"{name}: {faults} faults of {len(kinds)} kinds in {len(files)} files")
    refused -= {number for number, bad in files.items() if bad}
    return Counts(len(files), len(refused), faults)


def _one(options: argparse.Namespace, folder: Path) -> int:
    """Reads one damaged file in this process; errors come with their whole way."""
    (name,), number = options.format, options.number
    format = formats.load(name)
    intact, place = folder / "intact", folder / str(number)
    intact.mkdir(parents=True)
    format.build(intact)
    file, what = damaged(name, intact, place, options.seed, number)
    print(f"{file}: {what}", flush=True)
    _limit_memory()
    options.limits.start()
    for reader, read in format.reads.items():
        try:
            print(f"{reader}: read; not finite: {not_finite(read(place)) or 'nothing'}")
        except BaseException as error:
            print(f"{reader}: {judge(format, file, error) or 'documented'}")
            traceback.print_exception(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
