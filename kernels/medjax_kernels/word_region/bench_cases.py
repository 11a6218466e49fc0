"""What :mod:`medjax_kernels.bench` times of this operation, and against whom.

Bytes are those of both features, of the similarities and, in a step, of the gradients.
FLOPs are matrix products of all words with all regions, ``2 m n t r d`` each: two in a
forward pass, six in a step that keeps the attention, eight where it is made again.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from medjax_kernels.bench.case import Case, Contestant, Outputs
from medjax_kernels.word_region import reference, word_region_similarity
from medjax_kernels.word_region.shapes import SHAPES, Shape

TEMP1, TEMP2, EPS = 4.0, 5.0, 1e-8
WHOLE_EXACT = 10**8
"""Up to so many attention weights the exact result comes from whole float64 tensors;
beyond, from the chunked engine in float64, which the tests hold to the reference."""
Similarity = Callable[..., Array]
Operation = Callable[..., Outputs]


def default_shapes(platform: str) -> tuple[str, ...]:
    """What is timed if no shape is named."""
    if platform == "cpu":
        return ("sentence_16",)
    return ("gloria", "gloria_bf16", "gloria_256")


def problem(shape: Shape, seed: int) -> tuple:
    """Random features of words and regions, and reports of different lengths.

    Features have entries of ``d ** -1/4``, which makes the scores standard normal.
    """
    rng = np.random.default_rng(seed)
    d = shape.d
    words = rng.standard_normal((shape.reports, shape.words, d), np.float32)
    regions = rng.standard_normal((shape.images, shape.regions, d), np.float32)
    words, regions = (
        (a * d**-0.25).astype(jnp.dtype(shape.dtype)) for a in (words, regions)
    )
    half = max(1, shape.words // 2)
    lengths = rng.integers(half, shape.words + 1, shape.reports, dtype=np.int32)
    return words, regions, lengths


def ours(words: Array, regions: Array, lengths: Array, **options: Any) -> Array:
    """The public function, as GLoRIA trains."""
    options |= {"lengths": lengths, "temp1": TEMP1, "temp2": TEMP2, "eps": EPS}
    return word_region_similarity(words, regions, **options)


def plain(words: Array, regions: Array, lengths: Array) -> Array:
    """The definition, whole attention tensors."""
    valid = jnp.arange(words.shape[1], dtype=lengths.dtype)[None] < lengths[:, None]
    return reference.word_region_similarity(
        words, regions, valid, temp1=TEMP1, temp2=TEMP2, aggregation="sum", eps=EPS
    )


def forward(similarity: Similarity) -> Operation:
    """All similarities."""
    return lambda *arrays: {"similarity": similarity(*arrays)}


def step(similarity: Similarity) -> Operation:
    """With the gradients of GLoRIA's loss: the pair against the rest, both ways."""

    def loss(words: Array, regions: Array, lengths: Array) -> Array:
        logits = 10 * similarity(words, regions, lengths)
        one, other = (jax.nn.log_softmax(logits, axis) for axis in (0, 1))
        return -jnp.mean(jnp.diagonal(one)) - jnp.mean(jnp.diagonal(other))

    def run(words: Array, regions: Array, lengths: Array) -> Outputs:
        value, (by_words, by_regions) = jax.value_and_grad(loss, (0, 1))(
            words, regions, lengths
        )
        return {"loss": value, "words": by_words, "regions": by_regions}

    return run


def cases(shape: str, platform: str) -> list[Case]:
    """The benchmarks of one named shape.

    Args:
        shape: a name of :data:`.shapes.SHAPES`.
        platform: of the chip: its engine takes part under that name.

    Returns:
        The forward pass, and a training step's share.
    """
    s = SHAPES[shape]
    return [_case(s, platform, name) for name in ("forward", "step")]


def _case(s: Shape, platform: str, name: str) -> Case:
    whole = forward if name == "forward" else step
    weights = s.images * s.reports * s.words * s.regions
    product = 2 * weights * s.d
    kept, again = (2, 2) if name == "forward" else (6, 8)
    engines = {"ours": None, "xla": "xla", "xla_chunked": "xla_chunked"}
    if platform != "cpu":
        engines[platform] = platform
    contestants = [
        Contestant(
            label,
            lambda engine=engine: whole(functools.partial(ours, implementation=engine)),
            (kept if label == "xla" else again) * product,
            s.dtype,
        )
        for label, engine in engines.items()
    ]

    def gloria() -> Operation:
        module = importlib.import_module("medjax_kernels.word_region.bench_torch")
        return module.gloria(name == "step")

    flops = kept * product
    contestants += [
        Contestant("xla naive", lambda: whole(plain), flops, s.dtype, "xla"),
        Contestant("GLoRIA", gloria, flops, s.dtype, "gloria", ("torch",)),
    ]
    exact = plain
    if weights > WHOLE_EXACT:
        exact = functools.partial(ours, implementation="xla_chunked")
    size = np.dtype(jnp.dtype(s.dtype)).itemsize
    moved = size * s.d * (s.reports * s.words + s.images * s.regions)
    moved = moved + 4 * s.images * s.reports if name == "forward" else 2 * moved
    inputs = functools.partial(problem, s)
    return Case(name, inputs, whole(exact), moved, tuple(contestants))
