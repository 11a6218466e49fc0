"""Collectives as XLA spells them, and those of programs whose traffic is known."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from medjax.train.collectives import read_collectives, read_groups
from medjax.train.mesh import MeshConfig, make_mesh

LOOP = """HloModule m, num_partitions=16

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[4]{0} get-tuple-element(%p), index=1
  %moved = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%x), PAIRS
  %done = f32[4]{0} collective-permute-done(%moved)
  ROOT %t = (s32[], f32[4]{0}) tuple(%i, %done)
}

%condition (p: (s32[], f32[4])) -> pred[] {
  %p = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %limit = s32[] constant(255)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (x: f32[4]) -> f32[64] {
  %x = f32[4]{0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[4]{0}) tuple(%zero, %x)
  %loop = (s32[], f32[4]{0}) while(%start), condition=%condition, body=%bodyKNOWN
  %y = f32[4]{0} get-tuple-element(%loop), index=1
  %g = (INPUTS, OUTPUTS) all-gather-start(%y, %z), replica_groups=[1,16]<=[16]
  %s = (f32[4]{0}, f32[]) all-reduce-start(%y, %c), replica_groups=HALVES
  %r = f32[1]{0} reduce-scatter(%y), replica_groups=mesh['a'=4,'b'=4] {'b'}
  ROOT %d = (f32[64]{0}, bf16[32,3]{1,0}) all-gather-done(%g)
}
"""
for name, text in {
    "PAIRS": "source_target_pairs={{0,1},{1,0}}",
    "INPUTS": "(f32[4]{0:T(256)}, bf16[2,3]{1,0})",
    "OUTPUTS": "(f32[64]{0:T(256)}, /*index=1*/bf16[32,3]{1,0})",
    "HALVES": "{{0,1,2,3,4,5,6,7},{8,9,10,11,12,13,14,15}}, to_apply=%sum",
}.items():
    LOOP = LOOP.replace(name, text)


def test_reads_kinds_bytes_counts_and_groups():
    permute, gather, reduce, scatter = read_collectives(LOOP.replace("KNOWN", ""))
    assert (permute.kind, permute.bytes, permute.count) == (
        "collective-permute",
        16,
        255,  # from the condition
    )
    assert permute.groups == ((0, 1), (1, 0)) and permute.asynchronous
    assert gather.shapes == (("f32", (64,)), ("bf16", (32, 3)))
    assert gather.bytes == 4 * 64 + 2 * 96, "inputs are not outputs"
    assert gather.groups == (tuple(range(16)),) and gather.count == 1
    assert (reduce.bytes, reduce.asynchronous) == (20, True)
    assert reduce.axes({"a": 4, "b": 4}) == ("a", "b")  # half of a
    assert (scatter.bytes, scatter.asynchronous) == (16, False), "what goes in"
    assert scatter.groups[1] == (4, 5, 6, 7)
    assert scatter.axes({"a": 4, "b": 4}) == ("b",)


CHAIN = """HloModule m, num_partitions=4

%first (a: bf16[2,8]) -> (bf16[2,8], bf16[8,8], u32[]) {
  %a = bf16[2,8]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %g.1 = bf16[8,8]{1,0:T(8,128)(2,1)} all-gather(%a), channel_id=1, GROUPS_CHAIN
  ROOT %c.1 = (bf16[2,8], bf16[8,8], u32[]) custom-call(%g.1), START
}

%beside (b: bf16[2,8], c: f32[8,8]) -> (f32[8,8], bf16[8,8]) {
  %b = bf16[2,8]{1,0} parameter(0)
  %c = f32[8,8]{1,0} parameter(1)
  %square = f32[8,8]{1,0} multiply(%c, %c)
  %g.2 = bf16[8,8]{1,0} all-gather(%b), channel_id=1, GROUPS_CHAIN
  ROOT %t = (f32[8,8]{1,0}, bf16[8,8]{1,0}) tuple(%square, %g.2)
}

%last (d: bf16[2,8], e: bf16[8,8]) -> bf16[8,8] {
  %d = bf16[2,8]{1,0} parameter(0)
  %e = bf16[8,8]{1,0} parameter(1)
  %g.3 = bf16[8,8]{1,0} all-gather(%d), channel_id=1, GROUPS_CHAIN
  ROOT %c.3 = bf16[8,8]{1,0} custom-call(%d, %e, %g.3), DONE
}

ENTRY %main (x: bf16[2,8], y: f32[8,8]) -> bf16[8,8] {
  %x = bf16[2,8]{1,0} parameter(0)
  %y = f32[8,8]{1,0} parameter(1)
  %f.1 = (bf16[2,8], bf16[8,8], u32[]) fusion(%x), kind=kCustom, calls=%first
  %f.2 = (f32[8,8]{1,0}, bf16[8,8]{1,0}) fusion(%x, %y), kind=kOutput, calls=%beside
  %seen = bf16[8,8]{1,0} get-tuple-element(%f.2), index=1
  %f.3 = bf16[8,8]{1,0} fusion(%x, %seen), kind=kCustom, calls=%last
  ROOT %g.4 = bf16[32,8]{1,0} all-gather(%f.3), channel_id=2, GROUPS
}
"""
for name, text in {
    "GROUPS_CHAIN": 'GROUPS, frontend_attributes={chain_id="0"}',
    "GROUPS": "replica_groups={{0,1,2,3}}, dimensions={0}",
    "START": 'custom_call_target="AsyncCollectiveStart"',
    "DONE": 'custom_call_target="AsyncCollectiveDone"',
}.items():
    CHAIN = CHAIN.replace(name, text)


def test_what_a_tpu_hides_behind_a_product_travels_once():
    hidden, plain = read_collectives(CHAIN)
    assert (hidden.name, hidden.bytes, hidden.count) == ("g.1", 128, 1)
    assert hidden.asynchronous and hidden.groups == ((0, 1, 2, 3),)
    assert (plain.name, plain.bytes, plain.asynchronous) == ("g.4", 512, False)
    # Of a chain whose start is not seen nothing is left out.
    assert len(read_collectives(CHAIN.replace("AsyncCollectiveStart", "Other"))) == 4


def test_a_known_trip_count_is_believed_and_an_unknown_one_refused():
    known = ', backend_config={"known_trip_count":{"n":"7"},"x":{}}'
    assert read_collectives(LOOP.replace("KNOWN", known))[0].count == 7
    endless = LOOP.replace("KNOWN", "").replace("direction=LT", "direction=GT")
    with pytest.raises(ValueError, match="loop: a collective in a loop of unknown"):
        read_collectives(endless)
    with pytest.raises(ValueError, match="no ENTRY"):
        read_collectives("module @jit {}")


@pytest.mark.parametrize(
    "text, groups",
    [
        ("replica_groups={}, to_apply=%f", ()),
        ("replica_groups={{0,2},{1,3}}", ((0, 2), (1, 3))),
        ("replica_groups=[2,2]<=[4]", ((0, 1), (2, 3))),
        ("replica_groups=[2,2]<=[2,2]T(1,0), x={0}", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", ((0, 1, 2, 3),)),
        ("replica_groups=mesh['a'=4] {'a':(2)2}", ((0, 1), (2, 3))),
        (
            "replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}",
            ((0, 2), (1, 3)),
        ),
        ("replica_groups=mesh['a'=2], device_ids=(1,0) {'a'}", ((1, 0),)),
        ("channel_id=1, source_target_pairs={{0,3}}", ((0, 3),)),
    ],
)
def test_every_spelling_of_devices(text, groups):
    assert read_groups(text) == groups


def test_an_unknown_spelling_is_refused():
    for text in ("replica_groups=v9", "replica_groups=mesh['a'=2], x=(1,0) {'a'}"):
        with pytest.raises(ValueError, match="spelling"):
            read_groups(text)


def test_data_parallel_gradients_are_reduced_once():
    """A linear model: its gradient and nothing else travels, once a turn of a loop."""
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    batch = NamedSharding(mesh, P(("data", "fsdp")))
    everywhere = NamedSharding(mesh, P())

    def loss(w, x):
        return jnp.mean(jnp.tanh(x @ w) ** 2)

    def descend(w, x):
        def step(w, _):
            return w - jax.grad(loss)(w, x), None

        return jax.lax.scan(step, w, length=3)[0]

    w = jax.ShapeDtypeStruct((24, 10), jnp.float32, sharding=everywhere)
    x = jax.ShapeDtypeStruct((64, 24), jnp.float32, sharding=batch)
    compiled = jax.jit(descend, out_shardings=everywhere).lower(w, x).compile()
    (found,) = read_collectives(compiled.as_text())
    assert (found.kind, found.count) == ("all-reduce", 3)
    assert found.total_bytes == 3 * 4 * 24 * 10
    assert found.axes(mesh.shape) == ("data", "fsdp")
