"""A trained system of films with all that it needs to be used, whatever it does.

Everything runs jitted, in batches of one shape, split over the devices of this process.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Shaped

from medjax.data.ledger import Ledger
from medjax.train.sharding import batch_sharding, flatten, replicated
from medjax.typing import Variables
from medjax.vlp.films import Film, read_films


@dataclasses.dataclass(frozen=True)
class Applied:
    """What a run of any system of films is, once it is opened.

    Attributes:
        folder: of the run.
        record: its settings; ``image_size`` and ``resize`` say how films are prepared.
        step: updates behind the weights.
        system: its pure functions, by name in ``apply``.
        variables: the weights, averaged ones where the run keeps an average.
        mesh: of the devices that share the work.
    """

    folder: Path
    record: Any
    step: int
    system: Any
    variables: Variables
    mesh: Mesh

    @functools.cached_property
    def checksum(self) -> str:
        """SHA-256 over names, shapes, dtypes and bytes of all weights."""
        digest = hashlib.sha256()
        for name, leaf in sorted(flatten(self.variables).items()):
            value = np.asarray(leaf)
            digest.update(f"{name} {value.shape} {value.dtype}".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()

    def image_rows(
        self, name: str, images: Sequence[str | Path] | np.ndarray, batch_size: int
    ) -> np.ndarray:
        """One function of the system over films.

        Args:
            name: Of the function.
            images: Files of any kind that training reads, or uint8 films
                ``[n, size, size]`` prepared already.
            batch_size: Films at a time.

        Returns:
            float32, one row per film.

        Raises:
            DataError: For a file that cannot be read.
            ValueError: For no film at all, or an array that is no stack of prepared
                ones.
        """
        if isinstance(images, np.ndarray):
            size = self.record.image_size
            if images.dtype != np.uint8 or images.shape[1:] != (size, size):
                raise ValueError(
                    f"images: expected files, or uint8 films of shape [n, {size}, "
                    f"{size}], got {images.dtype} of shape {images.shape}"
                )
            return self.rows(name, images, batch_size)
        films = [Film(str(path), Path(path)) for path in images]
        if not films:
            raise ValueError("images: expected one film at least, got none")
        ledger = Ledger("raise")
        return self.film_rows(name, films, ledger=ledger, batch_size=batch_size)[1]

    def film_rows(
        self, name: str, films: Sequence[Film], *, ledger: Ledger, batch_size: int
    ) -> tuple[list[str], Float[np.ndarray, "n *e"]]:
        """One function over the films that can be read; the others go to the ledger.

        Args:
            name: Of the function.
            films: Of `medjax.vlp.films.find_films`.
            ledger: Collects, or raises, the faults of files.
            batch_size: Films at a time.

        Returns:
            Ids and, row by row, float32 results.
        """
        record, ids, rows = self.record, [], []
        size = self._batch(len(films), batch_size)
        chunks = read_films(
            films, record.image_size, record.resize, chunk=size, ledger=ledger
        )
        for kept, pixels in chunks:
            ids += [film.id for film in kept]
            rows.append(self._rows(name, pixels, size))
        shape = rows[0].shape[1:] if rows else (0,)
        return ids, np.concatenate([np.zeros((0, *shape), np.float32), *rows])

    @functools.cached_property
    def _compiled(self) -> dict[str, Callable[[Variables, Any], Any]]:
        everywhere, split = replicated(self.mesh), batch_sharding(self.mesh)
        return {
            name: jax.jit(
                lambda v, x, apply=apply: apply(v, x).astype(jnp.float32),
                in_shardings=(everywhere, split),
                out_shardings=split,
            )
            for name, apply in self.system.apply.items()
        }

    def rows(
        self, name: str, rows: Shaped[np.ndarray, "n *shape"], batch_size: int
    ) -> np.ndarray:
        """One function of the system over rows, in batches of one shape."""
        return self._rows(name, rows, self._batch(len(rows), batch_size))

    def _batch(self, count: int, most: int) -> int:
        """Rows at a time, split evenly over the devices.

        A few rows do not wait for a whole batch: it is the next power of two on each
        device, so that calls of all lengths have few programs.
        """
        devices = self.mesh.size
        each = 1 << max(-(-count // devices) - 1, 0).bit_length()
        return min(each, -(-most // devices)) * devices

    def _rows(
        self, name: str, rows: Shaped[np.ndarray, "n *shape"], size: int
    ) -> np.ndarray:
        """The same in batches of ``size``; what is missing of one is computed too."""
        parts = []
        with jax.set_mesh(self.mesh):
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                missing = np.repeat(part[-1:], size - len(part), axis=0)
                padded = np.concatenate([part, missing])
                out = self._compiled[name](self.variables, padded)
                parts.append(np.asarray(out)[: len(part)])
        if not parts:
            raise ValueError(f"{name}: expected one row at least, got none")
        return np.concatenate(parts)
