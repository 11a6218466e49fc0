"""A disk that is full, for as long as a test needs it to be."""

import contextlib
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def full_disk(most: int = 0) -> Iterator[None]:
    """No file of this process grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
