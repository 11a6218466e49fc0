"""What an object store has of a run: its files, and which of them belong together.

A store has no rename: an object is whole or absent, but of a folder half may be there.
So ``COMMIT`` is written last, and names all files that belong together; what it does
not name was never there.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medjax.data.documents import fits

COMMIT = "COMMIT"
"""Object with a JSON of the mark and of all files: size and time of change."""


class MirrorError(OSError):
    """The copy cannot be written or read, or is another run's."""


@dataclasses.dataclass(frozen=True)
class Commit:
    """What belongs together.

    Attributes:
      mark: Of this state of the copy.
      files: Size in bytes and time of change in nanoseconds, by relative path.
    """

    mark: str
    files: dict[str, tuple[int, int]]

    def encoded(self) -> bytes:
        """As the object holds it."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def decoded(cls, content: bytes, where: str) -> "Commit":
        """From what the object holds.

        Raises:
          MirrorError: That is something else.
        """
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        shape = {"mark": str, "files": dict[str, tuple[int, int]]}
        if not isinstance(found, dict) or not all(
            fits(found.get(name), kind) for name, kind in shape.items()
        ):
            raise MirrorError(f"mirror: {where}/{COMMIT}: expected a list of files")
        for name in found["files"]:
            if name.startswith("/") or ".." in name.split("/"):
                raise MirrorError(
                    f"mirror: {where}/{COMMIT}: {name} is outside of a run"
                )
        return cls(
            found["mark"], {n: (was[0], was[1]) for n, was in found["files"].items()}
        )


class Copy:
    """Files of a run at an address of an object store.

    Whatever its library raises comes as `MirrorError` with the address.

    Args:
      address: As ``s3://bucket/run``.

    Raises:
      ValueError: It is no address of a store.
      ImportError: What speaks to it is not installed.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.store, self._root = _opened(self.address)

    def commit(self) -> Commit | None:
        """What the copy says of itself; None where there is none.

        Raises:
          MirrorError: That is something else, or the store does not answer.
        """
        with self._speaking():
            try:
                content = self.store.cat_file(f"{self._root}/{COMMIT}")
            except FileNotFoundError:
                return None
            return Commit.decoded(content, self.address)

    def say(self, commit: Commit) -> None:
        """Writes a COMMIT.

        Raises:
          MirrorError: The store does not answer.
        """
        with self._speaking():
            self.store.pipe_file(f"{self._root}/{COMMIT}", commit.encoded())

    def found(self, part: str = "") -> list[str]:
        """Objects of the copy or of a part of it, by relative path.

        Raises:
          MirrorError: The store does not answer.
        """
        root = f"{self._root}/{part}".rstrip("/")
        with self._speaking():
            try:
                found = self.store.find(root)
            except FileNotFoundError:
                return []
        return sorted(
            path[path.index(self._root) + len(self._root) + 1 :] for path in found
        )

    def put(self, folder: Path, names: Sequence[str]) -> None:
        """Copies files of a folder, by relative path.

        Raises:
          MirrorError: The store does not answer, or a file is gone.
        """
        with self._speaking():
            self.store.put(
                [str(folder / name) for name in names],
                [f"{self._root}/{name}" for name in names],
            )

    def get(self, names: Sequence[str], places: Sequence[Path]) -> None:
        """Brings files to places of their own.

        Raises:
          MirrorError: The store does not answer, or one is not there.
        """
        with self._speaking():
            self.store.get(
                [f"{self._root}/{name}" for name in names],
                [str(place) for place in places],
            )

    def remove(self, names: Sequence[str]) -> None:
        """Takes away files; some may be gone.

        Raises:
          MirrorError: The store does not answer.
        """
        with self._speaking():
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    self.store.rm_file(f"{self._root}/{name}")

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        """Every store's library has errors of its own; here they get one name."""
        try:
            yield
        except MirrorError:
            raise
        except Exception as error:
            told = " ".join(str(error).split()) or type(error).__name__
            raise MirrorError(f"mirror: {self.address}: {told[:300]}") from error


def _opened(address: str) -> tuple[Any, str]:
    """The store of an address, and the address as it knows it.

    Raises:
      ValueError: It is no address of a store.
      ImportError: What speaks to it is not installed.
    """
    scheme, _, rest = address.partition("://")
    if not rest or scheme in ("file", "local"):
        raise ValueError(
            f"mirror: {address}: expected an address of an object store, as "
            "s3://bucket/run; a folder on a disk that lasts can be the workdir itself"
        )
    try:
        import fsspec

        store, root = fsspec.url_to_fs(
            address, use_listings_cache=False, skip_instance_cache=True
        )
    except ValueError as error:
        raise ValueError(f"mirror: {address}: {error}") from error
    except ImportError as error:
        raise ImportError(
            f"mirror: {address}: {error}; pip install 'medjax[s3]' or 'medjax[gcs]'"
        ) from error
    return store, root.rstrip("/")
