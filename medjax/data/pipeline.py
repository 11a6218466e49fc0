"""From rows to batches: shuffled by seed, split over processes, checkpointable.

Built on grain's ``MapDataset``, in this order::

    source -> shuffle(seed) -> random map -> batch -> [process] -> repeat -> iterator

Every process shuffles the *whole* index with the same seed, and takes its slice of each
global batch: local batch ``j`` of process ``p`` of ``P`` is block ``j P + p`` of the
epoch. So the concatenation of the processes' batches is the batch that one process
alone would have read, step by step; the number of processes changes neither the
curve nor the meaning of a saved iterator state (a count of steps). Slicing the source
by process first, as is often shown, has neither property.

Batches never straddle two epochs (a contrastive batch would hold the same pair twice,
a false negative), and each epoch is shuffled anew.

Nor do they straddle the sources of a `JoinedSource`, whose rows differ in shape: each
makes batches of its own, and the batches of all are shuffled together, by the seed
alone. So every process has a batch of the same shapes in the same step.

Sequences may be cut to what each batch needs (:mod:`medjax.data.lengths`).
"""

import bisect
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, SupportsIndex, runtime_checkable

import grain
import numpy as np

from medjax.data.lengths import Cut, Grouped, Grouping, Lengths

Example = Mapping[str, Any]


@runtime_checkable
class Source(Protocol):
    """Rows by number: what ``RecordSource`` and ``ArraySource`` are."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: SupportsIndex, /) -> Any: ...


class ArraySource:
    """Arrays in memory as a source: the embedded data use the same pipeline."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Wrap columns.

        Args:
            arrays: Name to array; the leading axis counts rows.

        Raises:
            ValueError: If there is no array or the leading axes differ.
        """
        lengths = {k: len(v) for k, v in arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"arrays: leading axes must be equal, got {lengths}")
        self.arrays = dict(arrays)
        self._length = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: SupportsIndex) -> dict[str, Any]:
        return {k: v[row] for k, v in self.arrays.items()}


class JoinedSource:
    """The rows of several sources, one source after another.

    Attributes:
        sources: What is joined. Rows of one have equal shapes, those of two need not.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        """Join sources.

        Args:
            sources: One at least.

        Raises:
            ValueError: If there is none.
        """
        if not sources:
            raise ValueError("sources: expected one at least, got none")
        self.sources = tuple(sources)
        self._ends = np.cumsum([len(source) for source in sources]).tolist()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, row: SupportsIndex) -> Any:
        index = range(len(self))[row]
        which = bisect.bisect_right(self._ends, index)
        source = self.sources[which]
        return source[index - self._ends[which] + len(source)]


def parts_of(source: Source) -> tuple[Source, ...]:
    """The sources of a joined one; else the source alone."""
    return source.sources if isinstance(source, JoinedSource) else (source,)


@dataclass(frozen=True)
class PipelineConfig:
    """How rows become batches.

    Attributes:
        batch_size: Of the global batch, over all processes.
        seed: Of the shuffle and of the random maps; below 2**32.
        shuffle: Whether to shuffle, anew each epoch.
        epochs: How many; ``None`` repeats for ever.
        remainder: What becomes of a last batch that is not full: ``drop`` it (train),
            or ``pad`` it with copies of the last row whose ``index`` is -1, so that
            shapes stay fixed and every row is seen (evaluate).
        threads: Batches prepared ahead at the same time, per process. Rows of prepared
            sets cost little but Python, which more threads fight over
            (``experiments.bench input --threads``); they help where reading waits.
        prefetch: How many batches may wait.
        workers: Extra interpreters per process; 0 reads in threads, which is enough
            for prepared sets (reading is mostly copying).
    """

    batch_size: int = 128
    seed: int = 0
    shuffle: bool = True
    epochs: int | None = None
    remainder: Literal["drop", "pad"] = "drop"
    threads: int = 1
    prefetch: int = 8
    workers: int = 0


HANDS = ("threads", "prefetch", "workers")
"""Settings of a pipeline that change how it works, and not a batch."""


class _Indexed:
    """A source whose rows know their number, padded to a whole number of batches."""

    def __init__(self, source: Source, length: int, begin: int) -> None:
        self.source, self.length, self.begin = source, length, begin

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        row, last = index.__index__(), len(self.source) - 1
        return {
            **self.source[min(row, last)],
            "index": np.int32(self.begin + row if row <= last else -1),
        }


class Share(grain.IterDataset):
    """A process's share of what all read together, which can say what that is."""

    def __init__(
        self, stream: grain.IterDataset, source: Source, settings: Mapping[str, Any]
    ) -> None:
        """Names what a stream reads; its batches and their places stay as they are.

        Args:
            stream: This process's batches.
            source: The rows, of all processes.
            settings: What decides which rows a batch holds.
        """
        super().__init__(stream)
        self.source, self.settings = source, dict(settings)

    def __iter__(self) -> Any:
        return self._parent.__iter__()

    def identity(self) -> dict[str, Any]:
        """What the shares of all processes have in common; JSON holds it.

        Reads the first and the last row. Their floating-point numbers are left out:
        those that a source computes are rounded otherwise on another processor.
        """
        rows = len(self.source)
        ends = [self.source[0], self.source[rows - 1]]
        columns = {name: _glimpse([row[name] for row in ends]) for name in ends[0]}
        return {**self.settings, "rows": rows, "columns": columns}


def _glimpse(values: Sequence[Any]) -> str:
    """Type and shape of some values of a column; of exact ones a checksum too."""
    if isinstance(values[0], str):
        return f"text {zlib.crc32(repr(values).encode()):08x}"
    arrays = [np.asarray(value) for value in values]
    told = f"{arrays[0].dtype} {arrays[0].shape}"
    if arrays[0].dtype.kind not in "biu":
        return told
    return f"{told} {zlib.crc32(b''.join(a.tobytes() for a in arrays)):08x}"


def stack(examples: Sequence[Example]) -> dict[str, Any]:
    """One batch from equal-shaped examples: arrays are stacked, texts listed."""
    return {
        k: [e[k] for e in examples]
        if isinstance(first, str)
        else np.stack([e[k] for e in examples])
        for k, first in examples[0].items()
    }


def build_pipeline(
    source: Source,
    config: PipelineConfig,
    *,
    transform: Callable[[dict[str, Any], np.random.Generator], Example] | None = None,
    lengths: Lengths | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.IterDataset:
    """The stream of this process's share of every global batch.

    Args:
        source: Rows by number; each row a dictionary of equal-shaped values (or made
            so by ``transform``), or of a `JoinedSource`, whose every batch is of one of
            its sources. ``index``, the row number, is added to it.
        config: See ``PipelineConfig``.
        transform: Maps one row, with a generator that depends only on the seed, the
            epoch and the row's place in the epoch, not on processes or threads.
        lengths: Of sequences, where batches are to be no longer than they need to be.
        process_index: Which process this is (``jax.process_index()``).
        process_count: Of how many (``jax.process_count()``).

    Returns:
        A grain ``IterDataset`` of dictionaries with leading axis ``batch_size /
        process_count``. Its iterator has ``get_state`` and ``set_state``; close it (or
        let it run out) when ``workers > 0``. Of several processes it is a ``Share``.

    Raises:
        ValueError: If the batch cannot be split over the processes, or there are fewer
            rows than one batch, in all or in one of the sources of a joined one, and
            they are to be dropped; or ``lengths`` are of another number of rows.
    """
    size = config.batch_size
    if size % process_count:
        raise ValueError(
            f"batch_size: {size} cannot be split over {process_count} processes"
        )
    if lengths is not None and len(lengths.rows) != len(source):
        raise ValueError(
            f"lengths: of {len(lengths.rows)} rows, expected {len(source)}"
        )
    parts, begin = [], 0
    for number, part in enumerate(sources := parts_of(source)):
        rows = len(part)
        batches = batches_per_epoch(rows, config)
        if batches == 0:
            which = "there are" if len(sources) == 1 else f"of {part!r}"
            raise ValueError(
                f"batch_size: {size} is more than the {rows} rows {which}, so every "
                "batch would be dropped"
            )
        padded = batches * size if config.remainder == "pad" else rows
        # Of one seed, equal places of two sources would be drawn alike.
        seed = (config.seed + number) % 2**32
        data = _ordered(_Indexed(part, padded, begin), config, seed)
        if transform is not None:
            data = data.random_map(transform)
        grouping = None
        if lengths is not None:
            needed = lengths.needed[begin : begin + rows]
            grouping = Grouping(
                _ordered(np.pad(needed, (0, padded - rows), "edge"), config, seed),
                batches=batches,
                size=size,
                window=lengths.window,
                seed=seed if config.shuffle else None,
            )
            data = Grouped(data, grouping)
        data = data.batch(size // process_count, drop_remainder=True, batch_fn=stack)
        data = data[process_index : batches * process_count : process_count]
        if lengths is not None and grouping is not None:
            data = Cut(data, grouping, lengths)
        parts.append(data)
        begin += rows
    data = parts[0]
    if len(parts) > 1:
        data = grain.MapDataset.concatenate(parts)
        if config.shuffle:
            data = data.shuffle(seed=config.seed)
    if config.epochs != 1:
        data = data.repeat(config.epochs)
    stream = data.to_iter_dataset(
        grain.ReadOptions(
            num_threads=config.threads,
            # grain warns of threads that would never have a place to put a batch
            prefetch_buffer_size=max(config.prefetch, config.threads),
        )
    )
    if config.workers:
        _mark_flags_parsed()
        stream = stream.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=config.workers)
        )
    if process_count == 1:
        return stream
    settings = {k: v for k, v in asdict(config).items() if k not in HANDS}
    if lengths is not None:
        settings["lengths"] = lengths.identity()
    return Share(stream, source, {**settings, "shares": process_count})


def _ordered(rows: Any, config: PipelineConfig, seed: int) -> grain.MapDataset:
    """Rows in the order of the epochs: equal for all sources of equal length."""
    data = grain.MapDataset.source(rows).seed(seed)
    return data.shuffle() if config.shuffle else data


def batches_per_epoch(rows: int, config: PipelineConfig) -> int:
    """How many global batches one pass over ``rows`` rows of a source gives."""
    full = rows // config.batch_size
    padded = config.remainder == "pad" and rows % config.batch_size
    return full + 1 if padded else full


def _mark_flags_parsed() -> None:
    """Let grain's workers start in a program that does not use absl's command line.

    grain 0.2.17 and 0.2.18 read an absl flag in each worker and crash if flags were
    never parsed (google/grain#1361).
    """
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
