"""A trained pair of towers, opened from its run's folder: embed, score, search.

>>> pair = medjax.load("runs/imitate-tiny")            # doctest: +SKIP
>>> films = pair.embed_images(["a.png", "b.dcm"])      # doctest: +SKIP
>>> texts = pair.embed_texts(["No pneumothorax."])     # doctest: +SKIP

Everything runs jitted, in batches of one shape, split over the devices of this process.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, Shaped

from medjax.data.ledger import Ledger
from medjax.train.checkpoint import load_variables, saved_steps
from medjax.train.mesh import MeshConfig, make_mesh
from medjax.train.sharding import batch_sharding, flatten, replicated
from medjax.typing import Variables
from medjax.vlp.films import Film, read_films
from medjax.vlp.probes import prompt_embeddings
from medjax.vlp.prompts import prompts
from medjax.vlp.system import PretrainingSystem
from medjax.vlp.systems import REPORTS, PairRecord
from medjax.vlp.tokens import Tokenizer, load_tokenizer

Prompts = Mapping[str, tuple[Sequence[str], Sequence[str]]]
"""Class to the sentences that say it is there, and those that say it is not."""


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Two trained towers with all that they need to be used.

    Attributes:
        folder: of the run.
        record: its settings.
        step: updates behind the weights.
        system: its pure functions.
        variables: the weights, averaged ones where the run keeps an average.
        tokenizer: of its report tower.
        mesh: of the devices that share the work.
    """

    folder: Path
    record: PairRecord
    step: int
    system: PretrainingSystem
    variables: Variables
    tokenizer: Tokenizer
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

    def embed_images(
        self, images: Sequence[str | Path] | np.ndarray, *, batch_size: int = 64
    ) -> Float[np.ndarray, "n e"]:
        """Unit-norm points of the space that reports are compared in.

        Args:
            images: Files of any kind that training reads, or uint8 films
                ``[n, size, size]`` prepared already.
            batch_size: Films at a time.

        Returns:
            float32, one row per film.

        Raises:
            DataError: For a file that cannot be read.
            ValueError: For an array that is no stack of prepared films.
        """
        return self._images("image_embedding", images, batch_size)

    def image_features(
        self, images: Sequence[str | Path] | np.ndarray, *, batch_size: int = 64
    ) -> Float[np.ndarray, "n d"]:
        """What the image tower knows, before any projection; as `embed_images`."""
        return self._images("image_features", images, batch_size)

    def embed_films(
        self, films: Sequence[Film], *, ledger: Ledger, batch_size: int = 64
    ) -> tuple[list[str], Float[np.ndarray, "n e"]]:
        """Embeddings of the films that can be read; the others go to the ledger.

        Args:
            films: Of `medjax.vlp.films.find_films`.
            ledger: Collects, or raises, the faults of files.
            batch_size: Films at a time.

        Returns:
            Ids and, row by row, float32 embeddings.
        """
        record, ids, rows = self.record, [], []
        chunks = read_films(
            films, record.image_size, record.resize, chunk=batch_size, ledger=ledger
        )
        for kept, pixels in chunks:
            ids += [film.id for film in kept]
            rows.append(self._apply("image_embedding", pixels, batch_size))
        width = rows[0].shape[1] if rows else 0
        return ids, np.concatenate([np.zeros((0, width), np.float32), *rows])

    def embed_texts(
        self, texts: Sequence[str], *, batch_size: int = 64
    ) -> Float[np.ndarray, "n e"]:
        """Unit-norm points of the space that radiographs are compared in.

        Args:
            texts: Reports, sections or sentences; longer ones are cut.
            batch_size: Texts at a time.

        Returns:
            float32, one row per text.
        """
        ids = self.tokenizer.encode(list(texts), self.record.text.max_length)
        return self._apply("text_embedding", ids, batch_size)

    def zero_shot(
        self,
        images: Sequence[str | Path] | np.ndarray,
        classes: Sequence[str] | Prompts,
        *,
        batch_size: int = 64,
    ) -> Float[np.ndarray, "n k"]:
        """How much nearer each film is to "it is there" than to "it is not".

        Args:
            images: As for `embed_images`.
            classes: Names, which get the sentences of `medjax.vlp.prompts`, or
                sentences of your own.
            batch_size: Films at a time.

        Returns:
            Cosine to the mean positive minus cosine to the mean negative sentence, in
            [-2, 2]; above 0 the film is nearer to "it is there".
        """
        directions = self.prompt_directions(classes)
        return self.embed_images(images, batch_size=batch_size) @ directions.T

    def prompt_directions(
        self, classes: Sequence[str] | Prompts
    ) -> Float[np.ndarray, "k e"]:
        """Mean positive minus mean negative sentence of each class; see `zero_shot`.

        Raises:
            ValueError: Where there is no class, or a class lacks sentences of a side.
        """
        named = classes if isinstance(classes, Mapping) else _known(classes)
        if not named:
            raise ValueError("classes: expected one at least, got none")
        for name, sides in named.items():
            if len(sides) != 2 or not all(
                side and not isinstance(side, str) for side in sides
            ):
                raise ValueError(
                    f"prompts: class {name!r} needs two lists of sentences, one that "
                    "says it is there and one that says it is not"
                )
        means = []
        for side in (0, 1):
            texts = [(i, t) for i, s in enumerate(named.values()) for t in s[side]]
            embedded = self.embed_texts([text for _, text in texts])
            owner = [i for i, _ in texts]
            means.append(prompt_embeddings(embedded, owner, classes=len(named)))
        return (means[0] - means[1]).astype(np.float32)

    def nearest(
        self,
        queries: Float[np.ndarray, "q e"],
        corpus: Float[np.ndarray, "n e"],
        *,
        k: int = 10,
    ) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
        """The k nearest of a corpus for each query, nearest first.

        Args:
            queries: Embeddings of films or texts.
            corpus: Embeddings of texts or films.
            k: How many; fewer where the corpus is smaller.

        Returns:
            Rows of the corpus, and their cosines.
        """
        k = min(k, len(corpus))
        parts = np.array_split(queries, max(1, len(queries) // 512))
        found = [_top(part, corpus, k) for part in parts]
        rows, cosines = (np.concatenate(side) for side in zip(*found, strict=True))
        return rows, cosines

    def _images(self, name: str, images: Any, batch_size: int) -> np.ndarray:
        if isinstance(images, np.ndarray):
            size = self.record.image_size
            if images.dtype != np.uint8 or images.shape[1:] != (size, size):
                raise ValueError(
                    f"images: expected files, or uint8 films of shape [n, {size}, "
                    f"{size}], got {images.dtype} of shape {images.shape}"
                )
            return self._apply(name, images, batch_size)
        films = [Film(str(path), Path(path)) for path in images]
        record, ledger = self.record, Ledger("raise")
        chunks = read_films(
            films, record.image_size, record.resize, chunk=batch_size, ledger=ledger
        )
        return np.concatenate([self._apply(name, x, batch_size) for _, x in chunks])

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

    def _apply(
        self, name: str, rows: Shaped[np.ndarray, "n *shape"], batch_size: int
    ) -> np.ndarray:
        """One function of the system over rows, in batches of one shape."""
        devices = self.mesh.size
        size = -(-batch_size // devices) * devices
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


def _known(names: Sequence[str]) -> Prompts:
    return {name: prompts(name) for name in names}


def _top(
    queries: np.ndarray, corpus: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    scores = queries @ corpus.T
    # A stable order: equal scores come in the order of the corpus.
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


def open_pair(folder: str | Path, *, step: int | None = None) -> Pretrained:
    """Opens the run of a pre-training system.

    Args:
        folder: Of the run.
        step: Which checkpoint; default the newest.

    Returns:
        The towers, on all devices of this process.

    Raises:
        FileNotFoundError: Where the folder is not a run's.
        DataError: Where what the run says of itself is damaged.
        ValueError: Where there is no checkpoint.
    """
    folder = Path(folder)
    record = PairRecord.load(folder)
    steps = saved_steps(folder)
    if not steps:
        raise ValueError(f"{folder} has no checkpoint yet: train it first")
    mesh = make_mesh(MeshConfig(), devices=jax.local_devices())
    step = steps[-1] if step is None else step
    variables = load_variables(folder, step=step, sharding=replicated(mesh))
    return Pretrained(
        folder=folder,
        record=record,
        step=step,
        system=record.build(folder),
        variables=variables,
        tokenizer=load_tokenizer(folder / REPORTS),
        mesh=mesh,
    )
