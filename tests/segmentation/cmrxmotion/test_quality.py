"""Grading: heads that are probabilities, decisions that cost least, and learning."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax.segmentation.cmrxmotion.quality import (
    QualityConfig,
    QualitySystem,
    graded,
    least_distance,
    ordinal_probabilities,
    thresholds_of,
)
from medjax.train.system import System


def batch():
    """Noise that grows with the grade, over a gradient."""
    random = np.random.default_rng(0)
    grade = np.array([1, 2, 3, 1, 2, 3])
    ramp = np.linspace(-1, 1, 16)[None, None, None, :]
    noise = random.normal(size=(6, 2, 16, 16)) * (grade - 1)[:, None, None, None]
    image = 40 + 9 * (ramp + noise)
    return {"image": jnp.asarray(image, jnp.float32), "grade": jnp.asarray(grade)}


def test_the_ordinal_head_learns_grades_at_any_unit():
    system = QualitySystem(QualityConfig(head="ordinal"))
    assert isinstance(system, System)
    data = batch()
    variables = jax.jit(system.init)(jax.random.key(0), data)
    tx = optax.sgd(0.1)

    @jax.jit
    def step(variables):
        params, rest = variables["params"], {"batch_stats": variables["batch_stats"]}

        def objective(params):
            return system.loss({"params": params, **rest}, data, jax.random.key(1))

        (value, (_, rest)), grads = jax.value_and_grad(objective, has_aux=True)(params)
        updates, _ = tx.update(grads, tx.init(params))
        return {"params": optax.apply_updates(params, updates), **rest}, value

    values = []
    for _ in range(15):
        variables, value = step(variables)
        values.append(float(value))
    assert values[-1] < 0.6 * values[0]
    grade = jax.jit(system.apply["grade"])
    p = np.asarray(grade(variables, data["image"]))
    assert (p > -1e-6).all()
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    # Every stack is standardised: no unit, no offset.
    np.testing.assert_allclose(grade(variables, 3 * data["image"] - 7), p, atol=1e-4)


def test_the_softmax_head_scores_what_it_says():
    system = QualitySystem(QualityConfig(head="softmax"))
    data = batch()
    variables = jax.jit(system.init)(jax.random.key(0), data)
    value, (metrics, updated) = jax.jit(system.loss)(variables, data, jax.random.key(1))
    # Of three grades, before anything is learnt.
    assert 0.3 < float(value) < 3.0 and 0 <= float(metrics["accuracy"]) <= 1
    assert "batch_stats" in updated


def test_thresholds_in_order_give_probabilities():
    above = jnp.asarray([[0.9, 0.2], [0.5, 0.5]])
    expected = [[0.1, 0.7, 0.2], [0.5, 0.0, 0.5]]
    np.testing.assert_allclose(ordinal_probabilities(above), expected, atol=1e-6)


def test_the_decision_costs_least():
    """Torn between 1 and 3, the middle; else what linear kappa would have."""
    p = np.array([[0.45, 0.1, 0.45], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
    assert least_distance(p).tolist() == [2, 1, 3]
    random = np.random.default_rng(0).dirichlet(np.ones(3), 50)
    said = least_distance(random)
    cost = [[(q * abs(np.arange(1, 4) - g)).sum() for g in (1, 2, 3)] for q in random]
    np.testing.assert_array_equal(said, 1 + np.argmin(cost, axis=1))


def test_an_uncertainty_is_cut_where_it_agrees_best():
    grades = np.array([1, 1, 2, 2, 3, 3])
    scores = np.array([0.1, 0.2, 0.4, 0.5, 0.9, 1.2])
    cuts = thresholds_of(scores, grades)
    assert graded(scores, cuts).tolist() == grades.tolist()
    assert 0.2 < cuts[0] <= 0.4 and 0.5 < cuts[1] <= 0.9
    with pytest.raises(ValueError, match="expected one length, not 0"):
        thresholds_of(scores[:0], grades[:0])
