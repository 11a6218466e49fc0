"""A trained pair of towers, opened from its run's folder: embed, score, search.

>>> pair = medjax.load("runs/imitate-tiny")            # doctest: +SKIP
>>> films = pair.embed_images(["a.png", "b.dcm"])      # doctest: +SKIP
>>> texts = pair.embed_texts(["No pneumothorax."])     # doctest: +SKIP

Everything runs jitted, in batches of one shape, split over the devices of this process.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int

from medjax.data.ledger import Ledger
from medjax.train.checkpoint import load_variables, saved_steps
from medjax.train.mesh import MeshConfig, make_mesh
from medjax.train.sharding import replicated
from medjax.vlp.applied import Applied
from medjax.vlp.films import Film
from medjax.vlp.probes import prompt_embeddings
from medjax.vlp.prompts import prompts
from medjax.vlp.system import PretrainingSystem
from medjax.vlp.systems import REPORTS, PairRecord
from medjax.vlp.tokens import Tokenizer, load_tokenizer

Prompts = Mapping[str, tuple[Sequence[str], Sequence[str]]]
"""Class to the sentences that say it is there, and those that say it is not."""


@dataclasses.dataclass(frozen=True)
class Pretrained(Applied):
    """Two trained towers with all that they need to be used; see `Applied`.

    Attributes:
        tokenizer: of its report tower.
    """

    record: PairRecord
    system: PretrainingSystem
    tokenizer: Tokenizer

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
        return self.image_rows("image_embedding", images, batch_size)

    def image_features(
        self, images: Sequence[str | Path] | np.ndarray, *, batch_size: int = 64
    ) -> Float[np.ndarray, "n d"]:
        """What the image tower knows, before any projection; as `embed_images`."""
        return self.image_rows("image_features", images, batch_size)

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
        return self.film_rows(
            "image_embedding", films, ledger=ledger, batch_size=batch_size
        )

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
        return self.rows("text_embedding", ids, batch_size)

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
