"""Files that are whole or not there: nobody reads half of one."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a name to write to, and moves what was written to its place at the end.

    A full disk, a fault or a kill in between leaves what was there before.

    Args:
        path: of the file; its folder is made where it is missing.

    Yields:
        A hidden neighbour that ends as ``path`` does: some libraries choose the format
        by that, or append an ending of their own.

    Raises:
        OSError: where nothing can be written, with the file's name.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".part.{target.name}")
    try:
        yield draft
        draft.replace(target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(draft)):
            error.filename = str(target)
        raise
