"""Tables gather and collect as index arithmetic does, and never scatter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.nn.graph import Table, collect, edges_of, gather, mean_of, neighbours
from tests.laws import assert_adjoint

RNG = np.random.default_rng(0)


def test_a_table_knows_rows_of_slots_and_slots_of_rows():
    table = Table.of(np.array([[2, 0], [2, 3], [3, 3]]), count=3)
    np.testing.assert_array_equal(table.filled, [[1, 1], [1, 0], [0, 0]])
    np.testing.assert_array_equal(table.back, [[1, 6], [6, 6], [0, 2]])
    np.testing.assert_array_equal(table.share, [2, 1, 0])
    with pytest.raises(ValueError, match=r"rows 0 to 4, expected 0 to 3"):
        Table.of(np.array([[4, 0]]), count=3)


def test_neighbours_are_the_edges_by_receiver():
    senders, receivers = np.array([3, 1, 0, 1]), np.array([0, 0, 2, 0])
    table = neighbours(senders, receivers, 4)
    np.testing.assert_array_equal(table.index, [[1, 3], [4, 4], [0, 4], [4, 4]])
    again = edges_of(table)
    np.testing.assert_array_equal(again, [[1, 3, 0], [0, 0, 2]])


@pytest.fixture(scope="module")
def table():
    """Any slots, one in five empty, on eleven rows."""
    index = RNG.integers(0, 11, (7, 4))
    return Table.of(np.where(RNG.random((7, 4)) < 0.2, 11, index), 11)


def test_gather_is_indexing_and_collect_its_transpose(table):
    x = jnp.asarray(RNG.normal(size=(2, 11, 3)), jnp.float32)
    y = jnp.asarray(RNG.normal(size=(2, 7, 4, 3)), jnp.float32)
    padded = np.concatenate([x, np.zeros((2, 1, 3), np.float32)], axis=1)
    np.testing.assert_array_equal(gather(x, table), padded[:, table.index])
    assert_adjoint(lambda x: gather(x, table), lambda y: collect(y, table), x, y)
    expected = np.where(table.filled[..., None], y, np.nan)
    expected = np.nan_to_num(np.nanmean(expected, axis=2))
    np.testing.assert_allclose(mean_of(y, table), expected, rtol=1e-6)


def test_gradients_are_those_of_indexing_without_a_scatter(table):
    x = jnp.asarray(RNG.normal(size=(2, 11, 3)), jnp.float32)

    def by_table(x):
        seen = gather(x, table)
        return jnp.sum(jnp.sin(collect(seen * seen, table)) + jnp.sum(seen) * x)

    def by_index(x):
        seen = jnp.take(x, table.index, axis=1, mode="fill", fill_value=0)
        total = jnp.zeros_like(x).at[:, table.index].add(seen * seen, mode="drop")
        return jnp.sum(jnp.sin(total) + jnp.sum(seen) * x)

    compiled = jax.jit(jax.grad(by_table)).lower(x).compile()
    plain = jax.jit(jax.grad(by_index)).lower(x).compile()
    np.testing.assert_allclose(compiled(x), plain(x), rtol=1e-5, atol=1e-5)
    # The CPU compiler writes scatters as loops; the name of the operation remains.
    assert "/scatter" in plain.as_text()
    assert "/scatter" not in compiled.as_text()
