"""The three kernels without the rest: `medjax_kernels` depends on JAX alone.

::

    python experiments/examples/kernels_alone.py

Every call picks the best implementation that was measured for this chip;
``implementation="tpu"``, ``"gpu"`` or ``"xla"`` asks for one.
"""

# %% Data to play with: 8 pairs of features, and a 4-coil slice of 32 x 32 pixels
import jax
import jax.numpy as jnp

from medjax_kernels import contrastive, data_consistency, word_region


def normal(seed: int, *shape: int) -> jax.Array:
    """Random numbers of a seed."""
    return jax.random.normal(jax.random.key(seed), shape)


def unit(x: jax.Array) -> jax.Array:
    """Rows of length one."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


films, reports = unit(normal(0, 8, 64)), unit(normal(1, 8, 64))

# %% Contrast: cross-entropy both ways, with the matrix of all pairs never in memory
to_text, to_film = contrastive.softmax_loss(films, reports, logit_scale=14.3)
print(f"contrast of strangers {float(to_text):.3f}, {float(to_film):.3f}")

# %% It has gradients; following them for a while, films find their reports


@jax.jit
def step(films: jax.Array) -> jax.Array:
    """One step downhill, back onto the sphere."""

    def loss(films: jax.Array) -> jax.Array:
        both = contrastive.softmax_loss(films, reports, logit_scale=14.3)
        return both[0] + both[1]

    return unit(films - 0.1 * jax.grad(loss)(films))


for _ in range(50):
    films = step(films)
to_text, _ = contrastive.softmax_loss(films, reports, logit_scale=14.3)
found = int(((films @ reports.T).argmax(axis=1) == jnp.arange(8)).sum())
print(f"contrast of friends {float(to_text):.3f}, found {found} of 8")

# %% Words and regions: how well does each report fit each film, word by word?
words, regions = normal(2, 8, 12, 64), normal(3, 8, 49, 64)
lengths = jnp.full(8, 12, jnp.int32)
similarity = word_region.word_region_similarity(words, regions, lengths=lengths)
print(f"similarity of films and reports {similarity.shape}")

# %% MRI: coil maps, a mask of lines along the height, and what a scanner would measure
parts = normal(4, 2, 4, 32, 32)
parts = parts / jnp.sqrt((parts**2).sum(axis=(0, 1), keepdims=True))
maps = jax.lax.complex(parts[0], parts[1])
mask = (jnp.arange(32) % 2 == 0) | (abs(jnp.arange(32) - 16) < 4)
mask = jnp.broadcast_to(mask[:, None], (32, 32)).astype(jnp.float32)
truth = jnp.zeros((32, 32)).at[8:24, 10:22].set(1.0).astype(jnp.complex64)
# E^H E of the truth: measured, and brought back without any reconstruction.
zero_filled = data_consistency.normal_operator(truth, maps, mask)

# %% The least-squares image behind it, by conjugate gradients in one call
image = data_consistency.proximal_solve(
    zero_filled, maps, mask, lam=1e-4, iterations=30
)


def error(x: jax.Array) -> float:
    """Relative to the truth."""
    return float(jnp.linalg.norm(x - truth) / jnp.linalg.norm(truth))


print(f"error {error(zero_filled):.3f} before, {error(image):.3f} after")
