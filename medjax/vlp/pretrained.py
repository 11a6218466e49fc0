"""A trained pair of towers, opened from its run's folder: embed, score, search.

>>> pair = medjax.load("runs/imitate-tiny")            # doctest: +SKIP
>>> films = pair.embed_images(["a.png", "b.dcm"])      # doctest: +SKIP
>>> texts = pair.embed_texts(["No pneumothorax."])     # doctest: +SKIP

Everything runs jitted, in batches of one shape, split over the devices of this process.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from medjax.data.ledger import Ledger
from medjax.train.checkpoint import load_variables, saved_steps
from medjax.train.mesh import MeshConfig, make_mesh
from medjax.train.sharding import replicated
from medjax.train.system import Apply
from medjax.typing import Variables
from medjax.vlp.applied import Applied
from medjax.vlp.ensembles import (
    EnsembleConfig,
    Prompts,
    Similarity,
    class_scores,
    sentences,
    standardised,
)
from medjax.vlp.films import Film
from medjax.vlp.probes import prompt_embeddings
from medjax.vlp.prompts import prompts
from medjax.vlp.system import PretrainingSystem
from medjax.vlp.systems import REPORTS, PairRecord
from medjax.vlp.tokens import Tokenizer, load_tokenizer

EMBEDDINGS = EnsembleConfig()


class Functions(NamedTuple):
    """Functions in the place of a system, for `Applied` to run."""

    apply: dict[str, Apply]


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
        ensemble: EnsembleConfig = EMBEDDINGS,
        batch_size: int = 64,
    ) -> Float[np.ndarray, "n k"]:
        """How much nearer each film is to "it is there" than to "it is not".

        Args:
            images: As for `embed_images`.
            classes: Names, which get the sentences of `medjax.vlp.prompts`, or
                sentences of your own.
            ensemble: How several sentences become one score.
            batch_size: Films at a time.

        Returns:
            Cosine to the mean positive minus cosine to the mean negative sentence, in
            [-2, 2]; above 0 the film is nearer to "it is there". Or what ``ensemble``
            asks for.
        """
        named = classes if isinstance(classes, Mapping) else _known(classes)
        if ensemble.combine == "embeddings":
            directions = self.prompt_directions(named)
            scores = self.embed_images(images, batch_size=batch_size) @ directions.T
        else:
            asked = sentences(named)
            against = self.against(asked.texts, ensemble.similarity)
            found = against.image_rows("similarity", images, batch_size)
            scores = class_scores(found, asked, ensemble.combine)
        return standardised(scores) if ensemble.transductive else scores

    def prompt_directions(
        self, classes: Sequence[str] | Prompts
    ) -> Float[np.ndarray, "k e"]:
        """Mean positive minus mean negative sentence of each class; see `zero_shot`.

        Raises:
            ValueError: Where there is no class, or a class lacks sentences.
        """
        named = classes if isinstance(classes, Mapping) else _known(classes)
        asked = sentences(named)
        embedded = self.embed_texts(asked.texts)
        directions = np.zeros((len(named), embedded.shape[1]), np.float32)
        for sign, side in ((1, 0), (-1, 1)):
            rows = [i for i, (_, own) in enumerate(asked.owner) if own == side]
            whose = sorted({asked.owner[i][0] for i in rows})
            place = [whose.index(asked.owner[i][0]) for i in rows]
            if rows:
                means = prompt_embeddings(embedded[rows], place, classes=len(whose))
                directions[whose] += (sign * means).astype(np.float32)
        return directions

    def against(self, texts: Sequence[str], similarity: Similarity) -> Applied:
        """The same run, whose one function ``similarity`` is that of films to texts.

        Args:
            texts: What films are compared with.
            similarity: Of wholes, of words with what they find in a film, or both.

        Raises:
            ValueError: Words are asked for of a system that has no such number.
        """
        system = self.system
        by_word = system.word_similarity
        if similarity != "global" and by_word is None:
            raise ValueError(
                f"similarity: {self.folder} compares wholes alone: expected 'global', "
                f"got {similarity!r}"
            )
        ids = self.tokenizer.encode(list(texts), self.record.text.max_length)
        wholes = self.embed_texts(texts)

        def compare(variables: Variables, films: jax.Array) -> jax.Array:
            found: list[Any] = []
            if similarity != "local":
                found.append(system.image_embedding(variables, films) @ wholes.T)
            if similarity != "global" and by_word is not None:
                found.append(by_word(variables, films, jnp.asarray(ids)))
            return jnp.mean(jnp.stack(found), axis=0)

        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(Applied)}
        return Applied(**{**fields, "system": Functions({"similarity": compare})})

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
