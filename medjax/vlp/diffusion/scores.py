"""What a generator is worth at the end of its training: does it read, does it draw.

Two questions, each beside what answers it without having learnt anything. *Reads*: the
error of denoising held-out films with their own reports, and with those of other films;
a generator that does not look at the text has equal ones. *Draws*: the Fréchet distance
of its films of held-out reports to the real ones, in principal components of small
copies of the training films, beside that of other real films (the floor) and that of
noise which the autoencoder has decoded. Whether films show what reports say is asked by
``experiments.synthetic_pretraining``, which has classifiers at hand.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from medjax.metrics.frechet import frechet_distance
from medjax.report import Card, Report
from medjax.report.run import save_evaluation, training_section
from medjax.train.log import read_metrics
from medjax.vlp.corpus import Corpus
from medjax.vlp.diffusion.folder import Pipeline
from medjax.vlp.diffusion.generator import DiffusionGenerator
from medjax.vlp.diffusion.schedule import SamplingConfig
from medjax.vlp.diffusion.training import denoising_error

SMALL = 16
"""Side of the copies that principal components are taken of."""
COMPONENTS = 32
OTHERS, NOISE = "another's report", "decoded noise"
Films = Callable[[Any], np.ndarray]
GROUP, DRAWS = 8, 8
"""Films that errors are taken of together, and draws of noise for each."""


@dataclasses.dataclass(frozen=True)
class ScoresConfig:
    """What is scored at the end."""

    films: int = 64
    """Held-out reports that films are made of."""
    seed: int = 0
    """Of the noise."""
    shown: int = 8
    """Of them on the page."""


class Shown(NamedTuple):
    """What the page shows."""

    texts: list[str]
    real: UInt8[np.ndarray, "b h w"]
    made: UInt8[np.ndarray, "b h w"]
    back: UInt8[np.ndarray, "b h w"]
    """The real ones through the autoencoder."""


def score(
    pipeline: Pipeline,
    corpus: Corpus,
    sampling: SamplingConfig,
    config: ScoresConfig,
) -> tuple[dict[str, Any], Shown]:
    """Scores a generator on the test split.

    Args:
      pipeline: the generator.
      corpus: films and reports.
      sampling: how films are drawn from noise.
      config: how many.

    Returns:
      The numbers, and what the page shows.
    """
    source = corpus.source("test", ("image",))
    n = min(config.films, len(source))
    real = np.stack([source[i]["image"] for i in range(n)])
    texts = corpus.column("test", f"{pipeline.section}_text")[:n]
    train = corpus.source("train", ("image",))
    known = np.stack([train[i]["image"] for i in range(min(2000, len(train)))])

    make = DiffusionGenerator(pipeline, sampling=sampling)
    made = make(texts, seed=config.seed)
    encode, decode = _halves(pipeline)
    moments = encode(real)
    back = decode(moments["mean"] * pipeline.networks.autoencoder.scaling_factor)
    noise = jax.random.normal(
        jax.random.key(config.seed), (n, *pipeline.networks.latent_shape)
    )
    nothing = decode(noise)

    describe = components(known)
    wanted = describe(real)
    distances = {
        "other real films": frechet_distance(wanted, describe(known[:n])),
        "generated": frechet_distance(wanted, describe(made)),
        NOISE: frechet_distance(wanted, describe(nothing)),
    }
    errors = _denoised(pipeline, moments, texts, config)
    results = {
        "films": n,
        "frechet_distance": distances,
        "denoising_error": errors,
        "autoencoder_error": float(
            np.abs(back.astype(np.float32) - real.astype(np.float32)).mean()
        ),
        "generator": make.described(),
    }
    keep = slice(config.shown)
    return results, Shown(texts[keep], real[keep], made[keep], back[keep])


def components(films: UInt8[np.ndarray, "n h w"]) -> Any:
    """A function of films: their principal components, as those of given films are."""
    flat = _small(films)
    mean = flat.mean(0)
    axes = np.linalg.svd(flat - mean, full_matrices=False)[2][:COMPONENTS]

    def describe(films: UInt8[np.ndarray, "n h w"]) -> Float[np.ndarray, "n d"]:
        return (_small(films) - mean) @ axes.T

    return describe


def _small(films: UInt8[np.ndarray, "n h w"]) -> Float[np.ndarray, "n d"]:
    """Means over blocks, as rows; what SMALL leaves over of a side is cut."""
    n, h, w = films.shape
    a, b = max(1, h // SMALL), max(1, w // SMALL)
    cut = films[:, : h // a * a, : w // b * b].astype(np.float64)
    return cut.reshape(n, h // a, a, w // b, b).mean((2, 4)).reshape(n, -1)


def _denoised(
    pipeline: Pipeline,
    moments: Mapping[str, Float[np.ndarray, "n i j d"]],
    texts: list[str],
    config: ScoresConfig,
) -> dict[str, float]:
    """Errors with own reports, those of others and none, of equal noise.

    Films are encoded once, not in every draw.
    """
    networks = pipeline.networks
    empty, ids = pipeline.tokenize([""]), pipeline.tokenize(texts)
    told = {
        "own report": ids,
        OTHERS: np.roll(ids, len(ids) // 2, axis=0),
        "no report": np.repeat(empty, len(ids), axis=0),
    }
    keys = jax.random.split(jax.random.key(config.seed), DRAWS)

    @jax.jit
    def error(params: Any, latents: Any, ids: jax.Array) -> jax.Array:
        def one(key: jax.Array) -> jax.Array:
            batch = {**latents, "ids": ids}
            return denoising_error(networks, {"params": params}, batch, key, empty)

        return jnp.mean(jax.lax.map(one, keys))

    size = min(GROUP, len(texts))
    groups = [slice(i, i + size) for i in range(0, len(texts) - size + 1, size)]

    def mean(rows: np.ndarray) -> float:
        each = [
            error(pipeline.params, {k: v[here] for k, v in moments.items()}, rows[here])
            for here in groups
        ]
        return float(np.mean(each))

    return {name: mean(rows) for name, rows in told.items()}


def _halves(
    pipeline: Pipeline,
) -> tuple[Callable[[Any], dict[str, np.ndarray]], Films]:
    """Films to ``mean`` and ``logvar`` of latents, and scaled latents to films.

    Film by film.
    """
    networks, params = pipeline.networks, pipeline.params

    # Weights as arguments: as constants of the program they are folded for long.
    @jax.jit
    def encode(params: Any, films: jax.Array) -> dict[str, jax.Array]:
        def one(film: jax.Array) -> dict[str, jax.Array]:
            mean, logvar = networks.encode(params, film[None])
            return {"mean": mean[0], "logvar": logvar[0]}

        return jax.lax.map(one, films)

    @jax.jit
    def decode(params: Any, latents: jax.Array) -> jax.Array:
        grey = jax.lax.map(lambda z: networks.decode(params, z[None])[0], latents)
        return jnp.clip(jnp.round(grey), 0.0, 255.0).astype(jnp.uint8)

    return (
        lambda films: jax.device_get(encode(params, jnp.asarray(films))),
        lambda latents: np.asarray(decode(params, jnp.asarray(latents))),
    )


def show(
    workdir: Path, results: Mapping[str, Any], shown: Shown, *, title: str
) -> Path:
    """Prints the scores, and writes ``evaluation.json`` and ``report.html``.

    Args:
      workdir: folder of the run.
      results: of `score`.
      shown: of `score`.
      title: of the page.
    """
    save_evaluation(workdir, results)
    distances, errors = results["frechet_distance"], results["denoising_error"]
    for name, value in distances.items():
        print(
            f"Fréchet distance to {results['films']} held-out films, {name}: "
            f"{value:.1f}"
        )
    for name, value in errors.items():
        print(f"denoising error with {name}: {value:.4f}")
    verdicts = (
        (
            "nearer to films than decoded noise",
            distances["generated"] < distances[NOISE],
        ),
        (
            "reads: own reports help more than others'",
            errors["own report"] < errors[OTHERS],
        ),
    )
    for words, true in verdicts:
        print(f"{'yes' if true else 'NO'}: {words}")
    rows = read_metrics(workdir)
    page = Report(title, f"{rows[-1]['step']} steps")
    page.numbers(
        {
            "Fréchet distance": (
                distances["generated"],
                f"other real films {distances['other real films']:.0f}, {NOISE} "
                f"{distances[NOISE]:.0f}",
            ),
            "denoising error": (
                errors["own report"],
                "with another's report " + f"{errors[OTHERS]:.4f}",
            ),
            "autoencoder": (results["autoencoder_error"], "mean grey levels of 255"),
        }
    )
    page.section("Films of held-out reports")
    page.text(
        "Left the real film, in the middle the generated one; right the real one "
        "through the autoencoder, which no generated film can be sharper than."
    )
    page.gallery(
        [
            Card(np.concatenate(row, axis=1), "", [(text, None)])
            for text, *row in zip(*shown, strict=True)
        ]
    )
    training_section(page, rows)
    path = page.save(workdir / "report.html")
    print(f"report: {path}")
    return path
