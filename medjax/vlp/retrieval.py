"""Retrieval between images and reports, without ever holding the N x N matrix.

R@K: the share of queries with a right answer among the K nearest. Real report sets are
full of repeats (more than half of the Open-i impressions occur more than once), and a
repeated text cannot be told from its twins, so **every item with the identical text is
a right answer**, and a text is a candidate once. Ties count against the query: a
collapsed model, for which everything is equally near, scores nought, not one.

Precision@K (GLoRIA): among the K nearest, the share that shows the query's class.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import gammaln

FloatArray = np.ndarray | Array


def retrieval(
    images: Float[FloatArray, "b d"],
    texts: Float[FloatArray, "b d"],
    reports: Sequence[str],
    *,
    ks: Sequence[int] = (1, 5, 10),
    chunk: int = 1024,
) -> dict[str, Any]:
    """R@K from image to text and back.

    Args:
        images: embeddings, any norm.
        texts: embeddings of the reports, row by row.
        reports: the texts themselves, to find repeats.
        ks: the numbers K.
        chunk: queries scored at once; memory is `chunk` times the candidates.

    Returns:
        `image_to_text` and `text_to_image`, each with `R@K`, `median_rank`,
        `candidates` and `chance` (`R@K` of guessing); `by_frequency`, the same of texts
        that stand in one order whatever the image, the commonest first; `pairs` and
        `distinct_reports`. Where some texts are of many images, what knows nothing of
        an image can still be far above chance by them.

    Raises:
        ValueError: if the numbers of images, texts and reports differ.
    """
    if not len(images) == len(texts) == len(reports) > 0:
        raise ValueError(
            f"images ({len(images)}), texts ({len(texts)}) and reports "
            f"({len(reports)}) should be equally many, and at least one"
        )
    _, first, group = np.unique(
        np.asarray([report.strip() for report in reports]),
        return_index=True,
        return_inverse=True,
    )
    x, t = _unit(images), _unit(jnp.asarray(texts)[first])
    distinct = np.arange(len(first))
    twins = np.bincount(group)
    to_text = _ranks(x, t, group, distinct, chunk)
    to_image = _ranks(t, x, distinct, group, chunk)
    ordered = np.empty(len(first), int)
    ordered[np.argsort(-twins, kind="stable")] = 1 + distinct
    one = np.ones(len(group), int)
    return {
        "pairs": len(reports),
        "distinct_reports": len(first),
        "image_to_text": _summary(to_text, one, len(first), ks),
        "text_to_image": _summary(to_image, twins, len(group), ks),
        "by_frequency": _summary(ordered[group], one, len(first), ks),
    }


def precision_at(
    queries: Float[FloatArray, "q d"],
    candidates: Float[FloatArray, "b d"],
    query_class: Int[np.ndarray, " q"],
    candidate_labels: Float[np.ndarray, "b k"],
    *,
    names: Sequence[str],
    ks: Sequence[int] = (5, 10, 100),
    chunk: int = 1024,
) -> dict[str, Any]:
    """Precision@K by class: of the K nearest candidates, how many show the class.

    Args:
        queries: embeddings, of prompts or of images with one class each.
        candidates: embeddings of what is searched.
        query_class: the column of each query's class.
        candidate_labels: 1 where a candidate shows a class; 0 and NaN do not count.
        names: the classes.
        ks: the numbers K; one larger than the candidates is left out.
        chunk: queries scored at once.

    Returns:
        `P@K` by class and their mean under "macro"; `chance`, the prevalence by class.
    """
    ks = [k for k in ks if k <= len(candidates)]
    if not ks:
        raise ValueError(f"ks: all larger than the {len(candidates)} candidates")
    q, c = _unit(queries), _unit(candidates)
    nearest = np.concatenate(
        [
            np.asarray(_nearest(q[i : i + chunk], c, k=max(ks)))
            for i in range(0, len(q), chunk)
        ]
    )
    shows = np.asarray(candidate_labels) == 1
    hits = shows[nearest, np.asarray(query_class)[:, None]]
    result: dict[str, Any] = {
        "chance": dict(zip(names, shows.mean(0).tolist(), strict=True))
    }
    for k in ks:
        share = hits[:, :k].mean(1)
        by_class = {
            name: float(share[query_class == i].mean())
            for i, name in enumerate(names)
            if (query_class == i).any()
        }
        result[f"P@{k}"] = by_class | {"macro": float(np.mean(list(by_class.values())))}
    return result


def _unit(x: FloatArray) -> Float[Array, "b d"]:
    x = jnp.asarray(x, jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _similarity(q: Float[Array, "q d"], c: Float[Array, "b d"]) -> Float[Array, "q b"]:
    return jnp.matmul(q, c.T, precision="highest")


@partial(jax.jit, static_argnames="k")
def _nearest(q: Float[Array, "q d"], c: Float[Array, "b d"], *, k: int) -> Array:
    return jax.lax.top_k(_similarity(q, c), k)[1]


@jax.jit
def _chunk_ranks(
    q: Float[Array, "q d"],
    c: Float[Array, "b d"],
    q_group: Int[Array, " q"],
    c_group: Int[Array, " b"],
) -> Int[Array, " q"]:
    scores = _similarity(q, c)
    right = q_group[:, None] == c_group[None, :]
    best = jnp.where(right, scores, -jnp.inf).max(1, keepdims=True)
    return 1 + ((scores >= best) & ~right).sum(1)


def _ranks(
    q: Array, c: Array, q_group: np.ndarray, c_group: np.ndarray, chunk: int
) -> np.ndarray:
    """The rank of the best right answer of every query, from 1."""
    groups = jnp.asarray(q_group), jnp.asarray(c_group)
    parts = [
        _chunk_ranks(q[i : i + chunk], c, groups[0][i : i + chunk], groups[1])
        for i in range(0, len(q), chunk)
    ]
    return np.concatenate([np.asarray(part) for part in parts])


def _summary(
    ranks: np.ndarray, right: np.ndarray, candidates: int, ks: Sequence[int]
) -> dict[str, Any]:
    result: dict[str, Any] = {f"R@{k}": float((ranks <= k).mean()) for k in ks}
    result["median_rank"] = float(np.median(ranks))
    result["candidates"] = candidates
    result["chance"] = {f"R@{k}": _chance(right, candidates, k) for k in ks}
    return result


def _chance(right: np.ndarray, candidates: int, k: int) -> float:
    """The R@K of guessing: 1 - C(n - m, k) / C(n, k), with m right of n candidates."""
    wrong = candidates - right
    possible = wrong >= k
    m = np.where(possible, wrong, k)
    log_miss = (
        gammaln(m + 1)
        - gammaln(m - k + 1)
        - gammaln(candidates + 1)
        + gammaln(max(candidates - k, 0) + 1)
    )
    return float(np.where(possible, 1 - np.exp(log_miss), 1.0).mean())
