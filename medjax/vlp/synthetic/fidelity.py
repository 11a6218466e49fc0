"""How near made films are to real ones, and whether they show what reports say.

Everything is a function of features that were computed once, by a model that was
trained on real films alone and takes no part in the comparison. Each number comes with
what it would be for real films: distances with that of two real sets of the same size,
agreement with that of real films, likeness with that of films of one report.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from medjax.metrics.frechet import frechet_distance, kernel_distance
from medjax.metrics.images import ssim
from medjax.vlp.probes import LinearProbeConfig, linear_probe

Features = Float[np.ndarray, "_ _"]


def reference(
    films: UInt8[np.ndarray, "n h w"], preparation: Mapping[str, Any]
) -> dict[str, Any]:
    """What distances are to, so that two of them are compared only if it is the same.

    Real films that were resized, cut or stretched otherwise are another set, and the
    distance to it another number.

    Args:
        films: the real ones, as they are compared.
        preparation: how they were made of files: settings and sources, as JSON.

    Returns:
        How many ``films`` of what ``size``, and the SHA-256 of their pixels and of the
        preparation.
    """
    pixels = hashlib.sha256(repr(films.shape).encode())
    pixels.update(np.ascontiguousarray(films).tobytes())
    asked = json.dumps(preparation, sort_keys=True, default=str)
    return {
        "films": len(films),
        "size": list(films.shape[1:]),
        "pixels_sha256": pixels.hexdigest(),
        "preparation_sha256": hashlib.sha256(asked.encode()).hexdigest(),
    }


def distances(
    real: Features, sets: Mapping[str, Features], *, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Fréchet and kernel distance of sets to real films, all of one size.

    Args:
        real: features of real films; of two sets without a film in common the second
            is the floor, ``real``.
        sets: features of others, by name.
        seed: of the two sets of real films.

    Returns:
        For each set ``frechet``, ``kernel``, ``kernel_sd`` and ``n``. The Fréchet
        distance of few films is too large, so all are cut to the smallest: a set of
        others, or half of the real films.
    """
    order = np.random.default_rng(seed).permutation(len(real))
    n = min([len(real) // 2, *(len(features) for features in sets.values())])
    first, second = real[order[:n]], real[order[n : 2 * n]]
    # Subsets of at most half of a set, or all would be the same one.
    size = max(2, min(500, n // 2))
    found = {}
    for name, features in {"real": second, **sets}.items():
        mean, deviation = kernel_distance(first, features[:n], seed=seed, size=size)
        found[name] = {
            "frechet": frechet_distance(first, features[:n]),
            "kernel": mean,
            "kernel_sd": deviation,
            "n": n,
        }
    return found


def report_agreement(
    known: Mapping[str, tuple[Features, Float[np.ndarray, "_ k"]]],
    films: Features,
    labels: Float[np.ndarray, "_ k"],
    names: Sequence[str],
) -> float:
    """Macro AUC of a linear classifier of real films, on films and their reports.

    Args:
        known: features and labels of real films, "train" and "valid".
        films: features of the films that are asked about.
        labels: what their reports say.
        names: of the findings.
    """
    features = {split: pair[0] for split, pair in known.items()} | {"test": films}
    targets = {split: pair[1] for split, pair in known.items()} | {"test": labels}
    probe = linear_probe(
        features,
        targets,
        names=names,
        fraction=1.0,
        seed=0,
        config=LinearProbeConfig(resamples=0),
    )
    return float(probe["macro_auc"])


def likeness(films: UInt8[np.ndarray, "n k h w"]) -> float:
    """Mean structural similarity of the films of one report, over reports.

    1: a report has one film, whatever the seed. (One scale: films of 64 pixels leave no
    room for five.)
    """
    k = films.shape[1]
    pairs = [(i, j) for i in range(k) for j in range(i)]
    grey = jnp.asarray(films, jnp.float32)
    values = [
        np.asarray(ssim(grey[:, i], grey[:, j], data_range=255.0)) for i, j in pairs
    ]
    return float(np.mean(values))


def summary(
    found: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Each set's Fréchet distance in units of the floor."""
    floor = found["real"]["frechet"]
    return {name: row["frechet"] / max(floor, 1e-12) for name, row in found.items()}
