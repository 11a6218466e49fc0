"""What an object store has of a folder: its files, and which of them belong together.

A store has no rename: an object is whole or absent, but of a folder half may be there.
So ``COMMIT`` is written last, and names all files that belong together; what it does
not name was never there.
"""

import contextlib
import dataclasses
import json
import os
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

        Args:
          content: Its bytes.
          where: Whose it is, as a message begins.

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
            raise MirrorError(f"{where}/{COMMIT}: expected a list of files")
        for name in found["files"]:
            if name.startswith("/") or ".." in name.split("/"):
                raise MirrorError(f"{where}/{COMMIT}: {name} is outside of it")
        return cls(
            found["mark"], {n: (was[0], was[1]) for n, was in found["files"].items()}
        )


class Copy:
    """Files of a folder at an address of an object store.

    Whatever its library raises comes as `MirrorError` with the address.

    Args:
      address: As ``s3://bucket/run``.
      what: The flag that names it, for errors.

    Raises:
      ValueError: It is no address of a store.
      ImportError: What speaks to it is not installed.
    """

    def __init__(self, address: str, *, what: str = "mirror") -> None:
        self.address = address.rstrip("/")
        self._where = f"{what}: {self.address}"
        self.store, self._root = _opened(self.address, self._where)

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
            return Commit.decoded(content, self._where)

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

    def bring(
        self, names: Sequence[str], folder: Path, *, changed: Sequence[int] = ()
    ) -> None:
        """Brings files to their places in a folder, where each appears whole.

        Args:
          names: Their relative paths.
          folder: Where they belong.
          changed: Times of change in nanoseconds that they get; else the present.

        Raises:
          MirrorError: The store does not answer, one is not there, or the disk takes no
            more.
        """
        places = [folder / name for name in names]
        # Hidden, as all drafts are: what is half here is not copied back.
        drafts = [path.with_name(f".part.{path.name}") for path in places]
        try:
            with self._speaking():
                for draft in drafts:
                    draft.parent.mkdir(parents=True, exist_ok=True)
                self.store.get(
                    [f"{self._root}/{name}" for name in names],
                    [str(draft) for draft in drafts],
                )
        except MirrorError:
            for draft in drafts:  # of a disk that may be full
                with contextlib.suppress(OSError):
                    draft.unlink(missing_ok=True)
            raise
        for draft, when in zip(drafts, changed, strict=False):
            os.utime(draft, ns=(when, when))
        for draft, place in zip(drafts, places, strict=True):
            draft.replace(place)

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
            raise MirrorError(f"{self._where}: {told[:300]}") from error


def _opened(address: str, where: str) -> tuple[Any, str]:
    """The store of an address, and the address as it knows it.

    Raises:
      ValueError: It is no address of a store.
      ImportError: What speaks to it is not installed.
    """
    scheme, _, rest = address.partition("://")
    if not rest or scheme in ("file", "local"):
        raise ValueError(
            f"{where}: expected an address of an object store, as s3://bucket/run; a "
            "folder on a disk that lasts needs no copy"
        )
    try:
        import fsspec

        store, root = fsspec.url_to_fs(
            address, use_listings_cache=False, skip_instance_cache=True
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    except ImportError as error:
        raise ImportError(
            f"{where}: {error}; pip install 'medjax[s3]' or 'medjax[gcs]'"
        ) from error
    return store, root.rstrip("/")
