"""What a pre-trained pair of towers is worth: linear probe and zero-shot.

Everything here is a function of features that were computed once, so a probe never sees
a network. Linear probe: logistic regression per finding on frozen image features, with
1, 10 or 100 % of the training labels (drawn uniformly, not stratified, as in MGCA's
protocol). Zero-shot: an image is closer to "there is" than to "there is no" (CheXzero;
the sentences are in `prompts`). Each result carries the level that guessing would
reach. Retrieval is in `retrieval`.

Two solvers for the probe. `lbfgs` solves the convex problem, with the penalty of each
finding chosen on validation: no optimiser settings to argue about. `adamw` is the
protocol of the published tables (learning rate 5e-4, weight decay 1e-6, 50 epochs,
best validation loss, patience 10, batch 48).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from medjax.metrics.auroc import auroc, average_precision, bootstrap, macro, per_class

SPLITS = ("train", "valid", "test")
FloatArray = np.ndarray | Array


@dataclass(frozen=True)
class LinearProbeConfig:
    """How the probe is fitted."""

    solver: Literal["lbfgs", "adamw"] = "lbfgs"
    penalties: tuple[float, ...] = (10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4)
    """L2 weights on standardised features that `lbfgs` chooses from, strong to weak."""
    iterations: int = 100
    """At most, per penalty."""
    learning_rate: float = 5e-4
    weight_decay: float = 1e-6
    epochs: int = 50
    patience: int = 10
    batch: int = 48
    resamples: int = 300
    """Bootstrap resamples of the test set; 0: no intervals."""


def linear_probe(
    features: Mapping[str, FloatArray],
    labels: Mapping[str, np.ndarray],
    *,
    names: Sequence[str],
    fraction: float,
    seed: int,
    config: LinearProbeConfig | None = None,
    groups: np.ndarray | None = None,
) -> dict[str, Any]:
    """Trains on a fraction of the labels and tests on all of the test set.

    Args:
        features: float [n, d] for "train", "valid" and "test".
        labels: float [n, k] for the same; 1, 0, or NaN for unknown.
        names: the k findings.
        fraction: share of the *training* examples whose labels may be used.
        seed: of the subsample, the batches and the bootstrap.
        config: how to fit.
        groups: patients of the test examples, for honest intervals.

    Returns:
        `protocol`, `fraction`, `examples` (how many trained), `auc` by finding,
        `macro_auc`, `macro_auc_interval`, `chance`.

    Raises:
        ValueError: for a missing split, a fraction outside (0, 1], or shapes that do
            not belong together.
    """
    config = config or LinearProbeConfig()
    _check(features, labels, names, fraction)
    n = len(labels["train"])
    chosen = np.random.default_rng(seed).permutation(n)[: max(1, round(fraction * n))]
    chosen.sort()
    x = {split: np.asarray(features[split], np.float32) for split in SPLITS}
    x["train"] = x["train"][chosen]
    y = {split: np.asarray(labels[split], np.float32) for split in SPLITS}
    y["train"] = y["train"][chosen]
    mean, std = x["train"].mean(0), x["train"].std(0)
    # A feature that never moves in a small subsample says nothing about its scale.
    std = np.where(std > 1e-3 * std.max(initial=1e-6), std, np.inf)
    x = {split: (value - mean) / std for split, value in x.items()}
    fit = {"lbfgs": _fit_lbfgs, "adamw": partial(_fit_adamw, seed=seed)}[config.solver]
    weights, bias = fit(x, y, config)
    scores = x["test"] @ weights + bias
    areas = per_class(auroc, scores, y["test"])
    result = {
        "protocol": f"linear probe, {config.solver}",
        "fraction": fraction,
        "examples": len(chosen),
        "auc": dict(zip(names, areas.tolist(), strict=True)),
        "macro_auc": macro(areas),
        "chance": 0.5,
    }
    return result | _interval(scores, y["test"], config.resamples, seed, groups)


def _check(features: Any, labels: Any, names: Sequence[str], fraction: float) -> None:
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction: expected (0, 1], got {fraction}")
    for split in SPLITS:
        if split not in features or split not in labels:
            raise ValueError(f"features and labels: split {split!r} is missing")
        if len(features[split]) != len(labels[split]) or not len(labels[split]):
            raise ValueError(
                f"{split}: {len(features[split])} features, {len(labels[split])} labels"
            )
        if labels[split].shape[1] != len(names):
            raise ValueError(
                f"names: {len(names)} for {labels[split].shape[1]} columns of labels"
            )


def _interval(
    scores: np.ndarray,
    labels: np.ndarray,
    resamples: int,
    seed: int,
    groups: np.ndarray | None,
) -> dict[str, Any]:
    if not resamples:
        return {}
    _, limits = bootstrap(
        auroc, scores, labels, seed=seed, groups=groups, resamples=resamples
    )
    return {"macro_auc_interval": limits.tolist()}


def _losses(
    params: Any, x: Float[Array, "b d"], y: Float[Array, "b k"]
) -> Float[Array, " k"]:
    """Mean cross-entropy of each finding over its known labels."""
    weights, bias = params
    known = ~jnp.isnan(y)
    logits = jnp.matmul(x, weights, precision="highest") + bias[None]
    each = optax.sigmoid_binary_cross_entropy(logits, jnp.where(known, y, 0.0))
    return jnp.where(known, each, 0.0).sum(0) / jnp.maximum(
        known.sum(0).astype(each.dtype), 1.0
    )


@partial(jax.jit, static_argnames="iterations")
def _minimise(
    params: Any,
    x: Float[Array, "b d"],
    y: Float[Array, "b k"],
    penalty: Float[Array, ""],
    *,
    iterations: int,
) -> Any:
    """L-BFGS on the penalised loss, to a slope of 1e-5 or for so many iterations."""

    def value(params: Any) -> Float[Array, ""]:
        penalised = penalty * (params[0] ** 2).sum() / 2
        return _losses(params, x, y).sum() + penalised

    solver = optax.lbfgs(memory_size=10)
    value_and_grad = optax.value_and_grad_from_state(value)

    def unfinished(carry: Any) -> Array:
        _, _, slope, count = carry
        return (count < iterations) & (optax.tree.norm(slope) > 1e-5)

    def iterate(carry: Any) -> Any:
        params, state, _, count = carry
        loss, slope = value_and_grad(params, state=state)
        updates, state = solver.update(
            slope, state, params, value=loss, grad=slope, value_fn=value
        )
        return optax.apply_updates(params, updates), state, slope, count + 1

    # optax mixes integer counts and Python floats, and ranks, inside its line search.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        infinite = jax.tree.map(lambda v: jnp.full_like(v, jnp.inf), params)
        start = params, solver.init(params), infinite, 0
        return jax.lax.while_loop(unfinished, iterate, start)[0]


def _fit_lbfgs(
    x: dict[str, np.ndarray], y: dict[str, np.ndarray], config: LinearProbeConfig
) -> tuple[np.ndarray, np.ndarray]:
    """The whole penalty path, warm-started; each finding keeps its best penalty."""
    d, k = x["train"].shape[1], y["train"].shape[1]
    train = jnp.asarray(x["train"]), jnp.asarray(y["train"])
    valid = jnp.asarray(x["valid"]), jnp.asarray(y["valid"])
    params = jnp.zeros((d, k)), jnp.zeros((k,))
    kept, best = params, jnp.full((k,), jnp.inf)
    for penalty in config.penalties:
        params = _minimise(
            params, *train, jnp.float32(penalty), iterations=config.iterations
        )
        losses = _losses(params, *valid)
        better = losses < best
        best = jnp.where(better, losses, best)
        kept = (
            jnp.where(better[None], params[0], kept[0]),
            jnp.where(better, params[1], kept[1]),
        )
    return np.asarray(kept[0]), np.asarray(kept[1])


def _fit_adamw(
    x: dict[str, np.ndarray],
    y: dict[str, np.ndarray],
    config: LinearProbeConfig,
    *,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Minibatches, one validation per epoch, the best epoch wins."""
    xt, yt = jnp.asarray(x["train"]), jnp.asarray(y["train"])
    xv, yv = jnp.asarray(x["valid"]), jnp.asarray(y["valid"])
    n, d = xt.shape
    optimiser = optax.adamw(config.learning_rate, weight_decay=config.weight_decay)
    steps = -(-n // config.batch)

    def loss(params: Any, rows: Int[Array, " b"]) -> Float[Array, ""]:
        # Row n is the padding of the last batch: labels unknown, so no weight.
        labels = jnp.where((rows < n)[:, None], yt[jnp.minimum(rows, n - 1)], jnp.nan)
        return _losses(params, xt[jnp.minimum(rows, n - 1)], labels).mean()

    def step(carry: Any, rows: Int[Array, " b"]) -> tuple[Any, None]:
        params, state = carry
        slopes = jax.grad(loss)(params, rows)
        # optax raises Python floats to the power of an integer step count.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(slopes, state, params)
        return (optax.apply_updates(params, updates), state), None

    def epoch(carry: Any, key: Array) -> tuple[Any, None]:
        params, state, best, best_loss, waited = carry
        order = jax.random.permutation(key, n)
        order = jnp.pad(order, (0, steps * config.batch - n), constant_values=n)
        (params, state), _ = jax.lax.scan(
            step, (params, state), order.reshape(steps, config.batch)
        )
        now = _losses(params, xv, yv).mean()
        better = (now < best_loss) & (waited < config.patience)
        best = jax.tree.map(lambda a, b: jnp.where(better, a, b), params, best)
        waited = jnp.where(better, 0, waited + 1)
        return (params, state, best, jnp.where(better, now, best_loss), waited), None

    @jax.jit
    def run(keys: Array) -> Any:
        params = jnp.zeros((d, yt.shape[1])), jnp.zeros((yt.shape[1],))
        start = (params, optimiser.init(params), params, jnp.float32(jnp.inf), 0)
        return jax.lax.scan(epoch, start, keys)[0][2]

    weights, bias = run(jax.random.split(jax.random.key(seed), config.epochs))
    return np.asarray(weights), np.asarray(bias)


def zero_shot(
    images: Float[FloatArray, "b d"],
    positive: Float[FloatArray, "k d"],
    negative: Float[FloatArray, "k d"],
    labels: Float[np.ndarray, "b k"],
    *,
    names: Sequence[str],
    seed: int = 0,
    resamples: int = 300,
    groups: np.ndarray | None = None,
) -> dict[str, Any]:
    """Classifies by which of two prompts an image is closer to.

    Args:
        images: embeddings, any norm.
        positive: embedding of "it is there" for each finding; the mean over several
            wordings of unit vectors (`prompt_embeddings`).
        negative: the same of "it is not".
        labels: 1, 0 or NaN.
        names: the k findings.
        seed: of the bootstrap.
        resamples: of the bootstrap; 0: no interval.
        groups: patients, for honest intervals.

    Returns:
        `auc`, `average_precision` and `prevalence` by finding, `macro_auc`,
        `macro_auc_interval`, `accuracy` by finding (nearer prompt wins), `chance` of
        the AUC; the chance level of average precision is the prevalence.
    """
    x, p, n = (_unit(np.asarray(v, np.float64)) for v in (images, positive, negative))
    scores = x @ (p - n).T
    labels = np.asarray(labels, np.float64)
    areas = per_class(auroc, scores, labels)
    precisions = per_class(average_precision, scores, labels)
    known = np.maximum((~np.isnan(labels)).sum(0), 1)
    right = ((scores > 0) == (labels == 1)) & ~np.isnan(labels)
    result = {
        "protocol": "zero-shot, positive against negative prompt",
        "auc": dict(zip(names, areas.tolist(), strict=True)),
        "average_precision": dict(zip(names, precisions.tolist(), strict=True)),
        "prevalence": dict(
            zip(names, (np.nansum(labels, 0) / known).tolist(), strict=True)
        ),
        "accuracy": dict(zip(names, (right.sum(0) / known).tolist(), strict=True)),
        "macro_auc": macro(areas),
        "chance": 0.5,
    }
    return result | _interval(scores, labels, resamples, seed, groups)


def prompt_embeddings(
    embeddings: Float[FloatArray, "n d"], owner: Sequence[int], *, classes: int
) -> Float[np.ndarray, "k d"]:
    """The mean direction of each class's prompts.

    Args:
        embeddings: of all prompts.
        owner: which class each prompt belongs to.
        classes: how many there are.

    Raises:
        ValueError: for a class without a prompt.
    """
    unit, index = _unit(np.asarray(embeddings, np.float64)), np.asarray(owner)
    missing = set(range(classes)) - set(index.tolist())
    if missing:
        raise ValueError(f"owner: no prompt for classes {sorted(missing)}")
    return _unit(np.stack([unit[index == k].mean(0) for k in range(classes)]))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
