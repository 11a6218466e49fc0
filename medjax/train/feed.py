"""Host to device, one batch ahead, without losing the place in the data.

A thread reads the next batch and copies it to the devices while the current step runs.
The iterator is then always ahead of the training state; a checkpoint that stored *its*
position would skip batches on resume. So every batch carries the position from before
and after it was read, and the loop stores the position of the batch it last consumed.
"""

import copy
import dataclasses
import queue
import threading
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from medjax.train.sharding import shard_batch


@runtime_checkable
class DataIterator(Protocol):
    """An iterator of batches that can tell its place and return to it.

    grain's dataset iterators are such. The state must survive JSON, or be bytes; arrays
    handed out must not be written to again, since the next batch is read meanwhile.
    """

    def __next__(self) -> Any:
        """The next batch of this process: names to numpy arrays."""
        ...

    def get_state(self) -> Any:
        """The place after the batch last returned."""
        ...

    def set_state(self, state: Any, /) -> None:
        """Goes to a place that `get_state` told."""
        ...


@runtime_checkable
class Identified(Protocol):
    """Data that can say what they are, such as `medjax.data.pipeline.Share`."""

    def identity(self) -> Mapping[str, Any]:
        """The same on every process, whatever share of the data is its own."""
        ...


def identity(data: Any) -> dict[str, Any]:
    """What data say they are; nothing where they cannot say.

    Args:
      data: What `Feed` takes. Of what grain derives from others (a mixture of streams),
        these are asked, by number.
    """
    if isinstance(data, Identified):
        return dict(data.identity())
    parents = getattr(data, "parents", ())
    found = {str(n): identity(parent) for n, parent in enumerate(parents)}
    return found["0"] if len(found) == 1 else found


@dataclasses.dataclass(frozen=True)
class Fed:
    """One batch, and the places in the data around it."""

    host: dict[str, np.ndarray]
    """This process's examples."""
    device: dict[str, jax.Array]
    """The global batch, split over the mesh."""
    before: Any
    """Iterator state that would yield this batch again."""
    after: Any
    """Iterator state that yields the next batch."""


class Feed:
    """Reads one batch ahead of the consumer, in a thread.

    Args:
      data: An iterable whose iterator is a `DataIterator`, or such an iterator.
      mesh: The mesh to put batches on.

    Raises:
      ValueError: If the iterator cannot tell its place.
    """

    def __init__(self, data: Iterable[Any] | DataIterator, mesh: Mesh) -> None:
        iterator = data if isinstance(data, DataIterator) else iter(data)
        if not isinstance(iterator, DataIterator):
            raise ValueError(
                "data: expected an iterator with get_state and set_state, such as a "
                f"grain.IterDataset gives, got {type(iterator).__name__}"
            )
        self.iterator = iterator
        self._owned = iterator is not data
        self._mesh = mesh
        self._queue: queue.Queue[Fed | BaseException] = queue.Queue(maxsize=1)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to read ahead; the iterator belongs to the thread from here on."""
        self._thread = threading.Thread(target=self._read, name="feed", daemon=True)
        self._thread.start()

    def next(self) -> Fed:
        """The next batch.

        Raises:
          ValueError: If the data are at their end.
        """
        item = self._queue.get()
        if isinstance(item, StopIteration):
            raise ValueError(
                "data: the iterator ended before the last step; repeat the data set"
            ) from item
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Ends the thread, and the iterator if it was made here."""
        self._stop.set()
        if self._thread is not None:
            # A reader stuck in a slow file must not hold up an exit on preemption.
            self._thread.join(timeout=10.0)
        if self._owned and hasattr(self.iterator, "close"):
            self.iterator.close()  # pyright: ignore[reportAttributeAccessIssue]

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read(self) -> None:
        try:
            after = copy.deepcopy(self.iterator.get_state())
            while not self._stop.is_set():
                before = after
                host = {k: np.asarray(v) for k, v in next(self.iterator).items()}
                after = copy.deepcopy(self.iterator.get_state())
                self._put(Fed(host, shard_batch(host, self._mesh), before, after))
        except BaseException as error:
            self._put(error)

    def _put(self, item: Fed | BaseException) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
