"""Tables gather and collect as index arithmetic does, and never scatter."""

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from medjax.nn.graph import Descent, MessageStep, VCycle
from medjax.nn.tables import (
    Table,
    collect,
    edges_of,
    gather,
    mean_of,
    neighbours,
    spread,
    total_of,
)
from tests.laws import assert_adjoint

RNG = np.random.default_rng(0)


def test_a_table_knows_rows_of_slots_and_slots_of_rows():
    table = Table.of(np.array([[2, 0], [2, 3], [3, 3]]), count=3)
    np.testing.assert_array_equal(table.filled, [[1, 1], [1, 0], [0, 0]])
    np.testing.assert_array_equal(table.back.rows, [[1, 6], [6, 6], [0, 2]])
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


def wheel() -> Table:
    """A ring of 24 vertices, one beside all of them, and one alone."""
    i = np.arange(24)
    pairs = np.concatenate(
        [np.stack([i, (i + 1) % 24], -1), np.stack([i, np.full(24, 24)], -1)]
    )
    both = np.concatenate([pairs, pairs[:, ::-1]])
    return neighbours(both[:, 0], both[:, 1], 26)


def test_a_hub_does_not_make_all_rows_as_wide():
    table = wheel()
    # 24 neighbours in eight rows of three: the hub's own and seven behind all others.
    assert table.index.shape == (26 + 7, 3) == table.back.rows.shape
    np.testing.assert_array_equal(table.share, [3] * 24 + [24, 0])
    np.testing.assert_array_equal(table.slots.owner[26:], [24] * 7)
    senders, receivers = edges_of(table)
    np.testing.assert_array_equal(np.sort(senders[receivers == 24]), np.arange(24))
    x = jnp.asarray(RNG.normal(size=(2, 26, 4)), jnp.float32)
    y = jnp.asarray(RNG.normal(size=(2, 33, 4)), jnp.float32)
    wide = jnp.asarray(RNG.normal(size=(2, 33, 3, 4)), jnp.float32)
    assert_adjoint(lambda x: gather(x, table), lambda y: collect(y, table), x, wide)
    assert_adjoint(lambda x: spread(x, table), lambda y: total_of(y, table), x, y)
    mean = mean_of(gather(x, table), table)
    np.testing.assert_allclose(mean[:, 24], x[:, :24].mean(axis=1), atol=1e-6)
    np.testing.assert_array_equal(mean[:, 25], 0.0)


@pytest.fixture(scope="module")
def wheels():
    """A wheel, features, edges and a step's parameters."""
    table = wheel()
    x = jnp.asarray(RNG.normal(size=(26, 16)), jnp.float32)
    edges = jnp.asarray(RNG.normal(size=(*table.index.shape, 5)), jnp.float32)
    module = MessageStep(16)
    start = jax.jit(lambda key: module.init(key, x, edges, table))
    variables = start(jax.random.key(0))
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [
        jax.random.normal(k, v.shape) / 4 for k, v in zip(keys, leaves, strict=True)
    ]
    return table, x, edges, module, jax.tree.unflatten(tree, drawn)


def test_a_step_is_that_of_jraph(wheels):
    table, x, edges, module, variables = wheels
    p = variables["params"]

    def dense(name, value):
        return value @ p[name]["kernel"] + p[name].get("bias", jnp.zeros(16))[None]

    def norm(name, value):
        centred = value - value.mean(-1, keepdims=True)
        scale = jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)
        return centred / scale * p[name]["scale"][None] + p[name]["bias"][None]

    def edge(features, sent, received, _):
        heard = dense("sender", norm("norm", sent)) + dense("edge", features)
        told = dense("receiver", norm("norm", received))
        return dense("message", jax.nn.silu(heard + told))

    def node(features, _, received, __):
        both = [norm("norm", features), norm("message_norm", received)]
        update = jax.nn.silu(dense("update_0", jnp.concatenate(both, -1)))
        return features + dense("update_1", update)

    senders, receivers = edges_of(table)
    graph = jraph.GraphsTuple(
        nodes=x,
        edges=edges[table.filled],
        senders=senders,
        receivers=receivers,
        globals=None,
        n_node=np.array([26]),
        n_edge=np.array([len(senders)]),
    )
    network = jraph.GraphNetwork(
        edge, node, aggregate_edges_for_nodes_fn=jraph.segment_mean
    )
    twice = network(graph._replace(nodes=network(graph).nodes))
    found = module.apply(variables, x, edges, table)
    found = module.apply(variables, found, edges, table)
    np.testing.assert_allclose(found, twice.nodes, atol=1e-5)


def test_the_gradient_of_a_step_has_no_scatter_and_bfloat16_is_near(wheels):
    table, x, edges, module, variables = wheels
    batch = jnp.stack([x, 2 * x])
    wide = jnp.stack([edges, edges])

    def loss(module, variables, x):
        return jnp.sum(jnp.sin(module.apply(variables, x, wide, table)))

    both = jax.jit(
        jax.value_and_grad(lambda v, x: loss(module, v, x), argnums=(0, 1))
    ).lower(variables, batch)
    compiled = both.compile()
    assert "/scatter" not in compiled.as_text()
    value, (_, dx) = compiled(variables, batch)
    step = 1e-2 * dx / jnp.linalg.norm(dx)
    ahead, behind = (compiled(variables, batch + s * step)[0] for s in (1, -1))
    rise = float(ahead - behind) / 2e-2
    assert rise == pytest.approx(float(jnp.linalg.norm(dx)), rel=2e-2)
    low = MessageStep(16, dtype=jnp.bfloat16).apply(variables, batch, wide, table)
    full = module.apply(variables, batch, wide, table)
    assert low.dtype == jnp.float32
    assert 0 < float(jnp.abs(low - full).max()) < 0.1


def test_the_published_width_has_its_number_of_parameters():
    table = neighbours(np.array([0, 1]), np.array([1, 0]), 2)
    shapes = jax.eval_shape(
        lambda key: MessageStep(128).init(
            key, jnp.zeros((2, 128)), jnp.zeros((2, 1, 128)), table
        ),
        jax.random.key(0),
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 115_712


def test_a_v_cycle_carries_news_across_and_is_refused_where_it_does_not_fit():
    n = 32
    i = np.arange(n)
    there = np.concatenate([i, (i + 1) % n]), np.concatenate([(i + 1) % n, i])
    fine = neighbours(*there, n)
    coarse = neighbours(
        *(
            np.concatenate(p)
            for p in ((i[:4], (i[:4] + 1) % 4), ((i[:4] + 1) % 4, i[:4]))
        ),
        4,
    )
    descent = Descent(
        members=Table.of(i.reshape(4, 8), n),
        between=Table.of(np.stack([i // 8, (i // 8 + 1) % 4], -1), 4),
        weights=np.full((n, 2), 0.5),
    )
    x = jnp.asarray(RNG.normal(size=(n, 8)), jnp.float32)
    edges = [jnp.ones((*t.index.shape, 2)) for t in (fine, coarse)]
    cycle = VCycle((1, 2, 1), 8)
    arguments = (edges, (fine, coarse), (descent,))
    start = jax.jit(lambda key: cycle.init(key, x, *arguments))
    variables = start(jax.random.key(0))

    def first(cycle):
        seen = jax.value_and_grad(lambda x: cycle.apply(variables, x, *arguments)[0, 0])
        return jax.jit(seen)(x)

    value, reach = first(cycle)

    def total(variables, x, edges):
        return jnp.sum(jnp.sin(cycle.apply(variables, x, edges, *arguments[1:])))

    # Up and down the levels as along one: nothing is scattered on the way back.
    back = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(variables, x, edges)
    assert "stablehlo.gather" in back.as_text()
    assert "stablehlo.scatter" not in back.as_text()
    # Four steps on the ring alone would end four vertices away.
    assert float(jnp.abs(reach[16]).max()) > 1e-6
    again, reach_again = first(VCycle((1, 2, 1), 8, remat=True))
    np.testing.assert_allclose(again, value, rtol=1e-5)
    np.testing.assert_allclose(reach_again, reach, atol=1e-5)
    with pytest.raises(
        ValueError, match="2 numbers of steps.*for 2 levels, expected 3"
    ):
        VCycle((1, 2), 8).apply(variables, x, *arguments)
