"""What a pre-trained pair of towers is worth, computed once and printed plainly.

Features and embeddings of every split are computed in one pass; the probes of
``medjax.vlp`` are functions of them.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from medjax.data.pipeline import PipelineConfig, Source, build_pipeline
from medjax.progress import Progress
from medjax.train.sharding import replicated, shard_batch
from medjax.typing import Variables
from medjax.vlp.corpus import Corpus, Rows
from medjax.vlp.probes import linear_probe, prompt_embeddings, zero_shot
from medjax.vlp.prompts import PROMPTS_VERSION, prompts
from medjax.vlp.retrieval import retrieval
from medjax.vlp.system import PretrainingSystem


@dataclasses.dataclass(frozen=True)
class ProbesConfig:
    """Probes of a finished run."""

    fractions: tuple[float, ...] = (0.01, 0.1, 1.0)
    """Shares of the training labels that the linear probe may use."""
    batch_size: int = 256
    """Examples encoded at a time."""
    seed: int = 0
    """Of the label subsample and the bootstrap."""
    labelled: int = 20_000
    """At most so many training examples are encoded for the probe."""


Encoders = Mapping[str, Callable[[Variables, Mapping[str, jax.Array]], jax.Array]]


class Encoder:
    """Functions of (variables, batch) over all rows of a source, compiled once.

    Args:
      encoders: what to compute, by name; each gives an array with leading axis b.
      mesh: the batch is split over it.
      batch_size: of the global batch, rounded up to what the mesh can split.
    """

    def __init__(self, encoders: Encoders, *, mesh: Mesh, batch_size: int) -> None:
        self.mesh, self.names = mesh, tuple(encoders)
        shards = mesh.shape["data"] * mesh.shape["fsdp"]
        self.size = -(-batch_size // shards) * shards

        @functools.partial(jax.jit, out_shardings=replicated(mesh))
        def run(variables: Variables, batch: Mapping[str, jax.Array]) -> Any:
            return {
                name: fn(variables, batch).astype(jnp.float32)
                for name, fn in encoders.items()
            }

        self._run = run

    def __call__(
        self,
        variables: Variables,
        source: Source,
        *,
        label: str = "encode",
        unit: str = "films",
    ) -> dict[str, np.ndarray]:
        """Runs them.

        Args:
          variables: of the model, on the mesh.
          source: rows; every field must be numeric.
          label: of the progress.
          unit: what a row is, in the plural.

        Returns:
          One float32 array per encoder, row by row in the order of the source, on
          every process.
        """
        config = PipelineConfig(
            batch_size=self.size, shuffle=False, epochs=1, remainder="pad", prefetch=2
        )
        stream = build_pipeline(
            source,
            config,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        parts: list[dict[str, np.ndarray]] = []
        progress = Progress(label, len(source), unit)
        with jax.set_mesh(self.mesh), progress:
            for batch in stream:
                out = self._run(variables, shard_batch(batch, self.mesh))
                parts.append(
                    {k: np.asarray(v.addressable_data(0)) for k, v in out.items()}
                )
                progress.advance(min(self.size, len(source) - progress.done))
        return {
            name: np.concatenate([p[name] for p in parts])[: len(source)]
            for name in self.names
        }


def encode(
    encoders: Encoders,
    variables: Variables,
    source: Source,
    *,
    mesh: Mesh,
    batch_size: int,
    label: str = "encode",
    unit: str = "films",
) -> dict[str, np.ndarray]:
    """An `Encoder` that is called once."""
    run = Encoder(encoders, mesh=mesh, batch_size=batch_size)
    return run(variables, source, label=label, unit=unit)


def encode_texts(
    system: PretrainingSystem,
    variables: Variables,
    texts: Sequence[str],
    corpus: Corpus,
    *,
    max_length: int,
) -> np.ndarray:
    """Unit-norm embeddings of a few texts, such as prompts."""
    ids = corpus.tokenizer.encode(list(texts), max_length)
    return np.asarray(jax.jit(system.text_embedding)(variables, jnp.asarray(ids)))


def evaluate(
    system: PretrainingSystem,
    variables: Variables,
    corpus: Corpus,
    *,
    mesh: Mesh,
    max_length: int,
    config: ProbesConfig,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Linear probe, zero-shot and retrieval of one system on one corpus.

    Args:
      system: the system.
      variables: its variables, on the mesh.
      corpus: splits ``train``, ``valid`` and ``test`` with labels and reports. Without
        labels there is retrieval only.
      mesh: the batch is split over it.
      max_length: tokens of a prompt.
      config: what to run.

    Returns:
      Results by probe, and the test embeddings ``image`` and ``text``.
    """
    with jax.set_mesh(mesh):
        return _evaluate(system, variables, corpus, mesh, max_length, config)


def _evaluate(
    system: PretrainingSystem,
    variables: Variables,
    corpus: Corpus,
    mesh: Mesh,
    max_length: int,
    config: ProbesConfig,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    section = system.compared
    test = encode(
        {
            "features": lambda v, b: system.image_features(v, b["image"]),
            "image": lambda v, b: system.image_embedding(v, b["image"]),
            "text": lambda v, b: system.text_embedding(v, b[section]),
        },
        variables,
        Rows(corpus.source("test", ("image", section))),
        mesh=mesh,
        batch_size=config.batch_size,
        label="encode test",
    )
    results: dict[str, Any] = {"prompts": PROMPTS_VERSION, "test": len(test["image"])}
    texts = corpus.column("test", f"{section}_text")
    told = np.flatnonzero([bool(text.strip()) for text in texts])
    results["retrieval"] = retrieval(
        test["image"][told], test["text"][told], [texts[i] for i in told]
    ) | {"section": section}
    if not corpus.findings:
        return results, test

    splits = ("train", "valid", "test")
    labels = {split: corpus.labels(split) for split in splits}
    patients = np.asarray(corpus.column("test", "patient"))
    pairs = [prompts(finding) for finding in corpus.findings]
    # (side, finding, sentence): encoded in one call, which is one compilation.
    asked = [
        (side, i, text)
        for i, pair in enumerate(pairs)
        for side in (0, 1)
        for text in pair[side]
    ]
    embedded = encode_texts(
        system, variables, [text for *_, text in asked], corpus, max_length=max_length
    )
    positive, negative = (
        prompt_embeddings(
            embedded[[s == side for s, *_ in asked]],
            [i for s, i, _ in asked if s == side],
            classes=len(pairs),
        )
        for side in (0, 1)
    )
    results["zero_shot"] = zero_shot(
        test["image"],
        positive,
        negative,
        labels["test"],
        names=corpus.findings,
        seed=config.seed,
        groups=patients,
    )
    # One encoder for both splits: an image tower is compiled once.
    run = Encoder(
        {"features": lambda v, b: system.image_features(v, b["image"])},
        mesh=mesh,
        batch_size=config.batch_size,
    )
    features = {"test": test["features"]}
    for split in ("train", "valid"):
        rows = Rows(corpus.source(split, ("image",)), most=config.labelled)
        found = run(variables, rows, label=f"encode {split}")
        features[split] = found["features"]
        labels[split] = labels[split][: len(rows)]
    results["linear_probe"] = [
        linear_probe(
            features,
            labels,
            names=corpus.findings,
            fraction=fraction,
            seed=config.seed,
            groups=patients,
        )
        for fraction in config.fractions
    ]
    return results, test
