"""The FFT of a batch equals jnp.fft's, and no part of the batch leaves its device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from medjax_kernels import fft
from tests.laws import assert_adjoint, complex_normal

SHAPE = (16, 2, 8, 6)


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


@pytest.fixture(scope="module")
def x():
    return complex_normal(jax.random.key(0), SHAPE)


def assert_local(compiled):
    """Nothing in the program is a collective."""
    text = compiled.as_text()
    assert "fft(" in text
    for kind in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert kind not in text, kind


@pytest.mark.parametrize("axes", [(-2, -1), (-2,), (0, 3), (1, 2, 3)])
@pytest.mark.parametrize("norm", ["backward", "ortho"])
def test_equals_numpy(axes, norm, x):
    for ours, theirs in ((fft.fftn, np.fft.fftn), (fft.ifftn, np.fft.ifftn)):
        expected = theirs(np.asarray(x, np.complex128), axes=axes, norm=norm)
        np.testing.assert_allclose(ours(x, axes, norm=norm), expected, atol=2e-5)


def test_real_input_becomes_complex():
    got = fft.ifftn(jnp.eye(4), (-1,))
    np.testing.assert_allclose(got, np.fft.ifft(np.eye(4)), atol=1e-6)
    assert got.dtype == jnp.complex64


def test_unitary_pair_is_adjoint(x):
    y = complex_normal(jax.random.key(1), SHAPE)
    assert_adjoint(
        lambda a: fft.fftn(a, (-2,), norm="ortho"),
        lambda a: fft.ifftn(a, (-2,), norm="ortho"),
        x,
        y,
    )


def test_a_batch_of_64_stays_where_it_is(mesh):
    """The case in which XLA alone gathers 16 MiB on each of eight devices."""
    split = NamedSharding(mesh, P(("data", "fsdp")))
    shape = jax.ShapeDtypeStruct((64, 4, 64, 64), jnp.complex64, sharding=split)
    compiled = jax.jit(lambda x: fft.fftn(x, (-2, -1))).lower(shape).compile()
    assert_local(compiled)
    assert compiled.memory_analysis().temp_size_in_bytes <= 2**20
    assert compiled.output_shardings.is_equivalent_to(split, 4)


def derived(x):
    """Scan, remat, gradient, and a batch axis that the transform does not see."""

    @jax.checkpoint
    def body(carry, _):
        turned = jax.vmap(lambda z: fft.fftn(z, (1,), norm="ortho"), 0, 0)(carry)
        return 2 * fft.ifftn(turned, (-1, -2)), None

    def energy(x):
        return jnp.sum(jnp.abs(jax.lax.scan(body, x, length=2)[0]) ** 4, (1, 2, 3))

    # Per example, so that a sum over the batch is no reason for a collective.
    energies, pull = jax.vjp(energy, x)
    return pull(energies / jnp.abs(energies))[0]


def assert_near(got, expected):
    """Within the rounding of the largest value: a transform adds all of them."""
    largest = float(np.abs(expected).max())
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6 * largest)


@pytest.mark.parametrize("context", ["mesh", "no mesh"])
def test_stays_local_under_transformations(context, mesh, x):
    expected = derived(x)
    split = jax.device_put(x, NamedSharding(mesh, P(("data", "fsdp"))))
    if context == "mesh":
        with jax.set_mesh(mesh):
            compiled = jax.jit(derived).lower(split).compile()
    else:
        compiled = jax.jit(derived).lower(split).compile()
    assert_local(compiled)
    assert_near(compiled(split), expected)


@pytest.mark.parametrize(
    "names", [{"data", "fsdp"}, {"data"}], ids=["all manual", "some manual"]
)
def test_stays_local_inside_shard_map(names, mesh, x):
    """Also over a mesh whose other axis has one device, and is not manual."""
    for sizes in ((4, 2), (8, 1)):
        kind = (AxisType.Auto,) * 2
        mesh = jax.make_mesh(sizes, ("data", "fsdp"), axis_types=kind)
        spec = P(tuple(n for n in mesh.axis_names if n in names))
        mapped = jax.shard_map(
            derived, mesh=mesh, in_specs=spec, out_specs=spec, axis_names=names
        )
        split = jax.device_put(x, NamedSharding(mesh, P(("data", "fsdp"))))
        compiled = jax.jit(mapped).lower(split).compile()
        assert_local(compiled)
        assert_near(compiled(split), derived(x))


def test_a_split_along_a_transformed_axis_is_gathered_first(mesh, x):
    """The partitioner hands such a split over as it is; it must not be believed."""
    split = jax.device_put(x, NamedSharding(mesh, P("fsdp", None, "data")))
    expected = np.fft.fftn(x, axes=(-2, -1))
    got = jax.jit(lambda x: fft.fftn(x, (-2, -1)))(split)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    assert got.sharding.shard_shape(SHAPE)[0] == 8, "the batch was gathered too"


def test_programs_are_found_again_in_the_compilation_cache(mesh, tmp_path):
    """And a transform is not taken for its inverse there."""
    split = NamedSharding(mesh, P(("data", "fsdp")))
    shape = jax.ShapeDtypeStruct(SHAPE, jnp.complex64, sharding=split)
    options = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
        "jax_remove_custom_partitioning_ptr_from_cache_key": True,
    }
    before = {name: getattr(jax.config, name) for name in options}
    compilation_cache.reset_cache()  # a process keeps the first folder it was told
    try:
        for name, value in options.items():
            jax.config.update(name, value)
        for transform, programs in ((fft.fftn, 1), (fft.fftn, 1), (fft.ifftn, 2)):

            def program(x, transform=transform):
                return transform(x, (-1,))

            jax.jit(program).lower(shape).compile()
            assert len(list(tmp_path.glob("*-cache"))) == programs
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
