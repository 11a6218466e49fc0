"""What steps no longer spend: the same numbers, computed as before and as now.

=============== =====================================================================
``texts``       a report tower's gradients over some batches, padded to one length, and
                cut to the length that each needs
``attention``   a level of the Latent Transformer and its gradients, frames and channels
                of a pixel on the last axes, and pixels there
``logits``      gradients of a masked language model's head, asked of every place, and
                of those that are hidden
``films``       films turned and tilted, by four gathers per pixel, and by one
``convolution`` gradients of a 1x1 convolution, as such and as a matrix product
=============== =====================================================================

With ``--chip v5e`` the TPU's compiler says as well how many bytes both forms read and
write there; that takes the ``libtpu`` wheel, minutes, and no TPU.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.bench import measure
from medjax.data.lengths import Lengths
from medjax.data.pipeline import ArraySource, PipelineConfig, build_pipeline
from medjax.mri.temporal_attention import LevelTransformer, frame_encoding
from medjax.nn.resnet import matrix_product
from medjax.nn.warp import warp
from medjax.train.plan.flops import count_flops
from medjax.vlp.language import MaskedLanguageModel, most_asked
from medjax.vlp.towers import TextTower, TextTowerConfig
from medjax_kernels.aot import Case, compile_case

PieceName = Literal["texts", "attention", "logits", "films", "convolution"]


@dataclasses.dataclass(frozen=True)
class SavedConfig:
    """Sizes."""

    pieces: tuple[PieceName, ...] = get_args(PieceName)
    """What is measured."""
    chip: Literal["v5e", "v5p", "v6e"] | None = None
    """A TPU whose compiler is asked as well, of all but texts."""
    buckets: tuple[int, ...] = (32, 48, 64, 96, 128)
    """Lengths of batches of texts below 256."""
    window: int = 16
    """Batches of 32 among which texts of equal length are brought together."""
    median: float = 43.0
    """Of the lengths of texts, in tokens: that of Open-i's reports, of which 3826 were
    counted by words and marks; their logarithms are taken to be normal."""
    spread: float = 0.46
    """Standard deviation of those logarithms."""
    turns: int = 3
    """Timed turns of each."""
    seed: int = 0
    """Of all that is drawn."""
    out: Path = Path("runs/bench")
    """Folder of the JSON file."""


Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function and what it is given."""


class Piece(NamedTuple):
    """The same work in two ways.

    Attributes:
      about: what it is, in a line.
      before: calls, one after the other.
      now: likewise.
      same: whether both give the same arrays.
    """

    about: str
    before: Sequence[Call]
    now: Sequence[Call]
    same: bool = True


def run(config: SavedConfig) -> dict[str, Any]:
    """Times every piece, prints and writes.

    Returns:
      What the JSON file holds.
    """
    found = {name: _measured(config, PIECES[name](config)) for name in config.pieces}
    result = {
        "benchmark": "saved",
        "config": measure.settings(config),
        "facts": measure.facts(),
        "pieces": found,
    }
    print("\nsaved\n" + measure.describe(result["facts"]) + "\n")
    print(measure.table(HEAD, rows(result)))
    measure.write(config.out, "saved", result)
    return result


HEAD = ["", "GFLOP", "CPU s, before", "now", "MB on a TPU, before", "now"]


def rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table."""
    cells = []
    for piece in result["pieces"].values():
        before, now = piece["before"], piece["now"]
        work = f"{before['gflop']:,.1f}"
        if f"{now['gflop']:,.1f}" != work:
            work += f" to {now['gflop']:,.1f}"
        seconds = [f"{side['cpu_s']:.3f}" for side in (before, now)]
        moved = [
            "" if side["chip_mb"] is None else f"{side['chip_mb']:,.0f}"
            for side in (before, now)
        ]
        cells.append([piece["about"], work, *seconds, *moved])
    return cells


def texts(config: SavedConfig) -> Piece:
    """As many batches as a window has."""
    size, full = 32, 256
    rng = np.random.default_rng(config.seed)
    count = size * config.window
    drawn = config.median * np.exp(config.spread * rng.normal(size=count))
    known = np.clip(np.round(drawn), 3, full).astype(int)
    ids = rng.integers(5, 1024, (count, full), dtype=np.int32)
    ids = np.where(np.arange(full) < known[:, None], ids, 0)
    source = ArraySource({"report": ids})
    tower = TextTower(TextTowerConfig("tiny", pool="mean"))
    shapes = jax.eval_shape(tower.init, jax.random.key(0), ids[:2])
    variables = _drawn(shapes, rng)

    @jax.jit
    def gradients(variables: Any, ids: Any) -> Any:
        def total(variables: Any) -> Any:
            features: Any = tower.apply(variables, ids)
            return jnp.sum(jnp.square(features))

        return jax.grad(total)(variables)

    def calls(lengths: Lengths | None) -> list[Call]:
        asked = PipelineConfig(batch_size=size, epochs=1, seed=config.seed)
        stream = build_pipeline(source, asked, lengths=lengths)
        return [(gradients, (variables, batch["report"])) for batch in stream]

    sizes = (*sorted(config.buckets), full)
    cut = calls(Lengths(known, ("report",), sizes, config.window))
    kept = sum(ids.shape[1] for _, (_, ids) in cut) / len(cut)
    return Piece(
        f"texts of {known.mean():.0f} tokens in batches of {full}, and of {kept:.0f}",
        calls(None),
        cut,
        same=False,
    )


def channels_last(
    params: Mapping[str, Any], x: Float[Array, "b t h w d"]
) -> Float[Array, "b t h w d"]:
    """`LevelTransformer` as it was: frames and channels of a pixel on the last axes."""
    encoding = frame_encoding(x.shape[1], x.shape[-1])
    encoded = x + np.expand_dims(encoding.astype(np.float32), (0, 2, 3))

    def layer(x: Array, weights: Any) -> tuple[Array, None]:
        projected = jnp.einsum("bthwd,snde->sbhwnte", x, weights["kernel"])
        key, query, value = projected + jnp.expand_dims(weights["bias"], (1, 2, 3, 5))
        scores = jnp.einsum("bhwnic,bhwnjc->bhwnij", key, query)
        mixed = jnp.einsum("bhwnij,bhwnjc->bhwnic", jax.nn.softmax(scores), value)
        return jnp.moveaxis(jnp.mean(mixed, axis=3), 3, 1) + x, None

    layer = jax.checkpoint(layer, prevent_cse=False)
    return x + jax.lax.scan(layer, encoded, params["layers"])[0]


def attention(config: SavedConfig) -> Piece:
    """Two layers of eight heads over nine frames."""
    rng = np.random.default_rng(config.seed)
    x = jnp.asarray(rng.normal(size=(1, 9, 64, 64, 8)), jnp.float32)
    level = LevelTransformer(heads=8, layers=2)
    shapes = jax.eval_shape(level.init, jax.random.key(0), x)["params"]
    given = _drawn(shapes, rng), x

    def now(params: Any, x: Any) -> Any:
        return level.apply({"params": params}, x)

    return Piece(
        "attention of 9 frames, 64x64 pixels of 8 channels",
        [(_gradients(channels_last), given)],
        [(_gradients(now), given)],
    )


def logits(config: SavedConfig) -> Piece:
    """Of 32 reports of 128 tokens, in 28,996 pieces."""
    rng = np.random.default_rng(config.seed)
    length = 128
    model = MaskedLanguageModel(TextTowerConfig("tiny", vocab_size=28_996))
    ids = rng.integers(5, 28_996, (32, length), dtype=np.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), ids[:2], ids[:2, :1])
    variables = _drawn(shapes, rng)

    @jax.jit
    def gradients(variables: Any, ids: Any, at: Any) -> Any:
        def cost(variables: Any) -> Any:
            found: Any = model.apply(variables, ids, at)
            truth = jnp.take_along_axis(ids, at, axis=1)[..., None]
            names = jax.nn.log_softmax(found)
            return -jnp.mean(jnp.take_along_axis(names, truth, axis=2))

        return jax.grad(cost)(variables)

    every = np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape)
    asked = every[:, : most_asked(length, 0.15)]
    return Piece(
        f"logits of {every.shape[1]} places of a report, and of {asked.shape[1]}",
        [(gradients, (variables, ids, every))],
        [(gradients, (variables, ids, asked))],
        same=False,
    )


def films(config: SavedConfig) -> Piece:
    """32 films of 256 pixels to crops of 224."""
    rng = np.random.default_rng(config.seed)
    seen = rng.integers(0, 256, (32, 256, 256), dtype=np.uint8)
    at = rng.uniform(0, 255, (2, 32, 224, 224)).astype(np.float32)

    def turned(film: Any, at: Any) -> Any:
        return warp(film, (at[0], at[1]))

    def four(films: Any, at: Any) -> Any:  # what is no byte has four gathers
        return jax.vmap(turned, (0, 1))(films.astype(jnp.float32), at)

    def one(films: Any, at: Any) -> Any:
        return jax.vmap(turned, (0, 1))(films, at)

    return Piece(
        "32 films warped to 224 pixels",
        [(jax.jit(four), (seen, at))],
        [(jax.jit(one), (seen, at))],
    )


def convolution(config: SavedConfig) -> Piece:
    """Of a ResNet-50's first stage, eight films of 224 pixels."""
    rng = np.random.default_rng(config.seed)
    x = rng.normal(size=(8, 56, 56, 64)).astype(np.float32)
    kernel = rng.normal(size=(1, 1, 64, 256)).astype(np.float32)

    def as_such(kernel: Any, x: Any) -> Any:
        order = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=order
        )

    def product(kernel: Any, x: Any) -> Any:
        return matrix_product(x, kernel, (1, 1))

    return Piece(
        "1x1 convolution, 8x56x56, 64 to 256 channels",
        [(_gradients(as_such), (kernel, x))],
        [(_gradients(product), (kernel, x))],
    )


PIECES: Mapping[str, Callable[[SavedConfig], Piece]] = {
    "texts": texts,
    "attention": attention,
    "logits": logits,
    "films": films,
    "convolution": convolution,
}


def _gradients(form: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """By both arguments, of the sum of sines: every output has another weight."""

    def total(weights: Any, x: Any) -> Any:
        return jnp.sum(jnp.sin(form(weights, x)))

    return jax.jit(jax.grad(total, argnums=(0, 1)))


def _drawn(shapes: Any, rng: np.random.Generator) -> Any:
    """Random variables of these shapes."""
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(0.0, 0.1, s.shape), s.dtype), shapes
    )


def _measured(config: SavedConfig, piece: Piece) -> dict[str, Any]:
    sides = {"before": piece.before, "now": piece.now}
    last: dict[str, Any] = {}

    def work(side: str) -> Callable[[], None]:
        def through() -> None:
            for call, given in sides[side]:
                last[side] = jax.block_until_ready(call(*given))

        return through

    turns = {side: work(side) for side in sides}
    timings = measure.take_turns(turns, turns=config.turns, warmup=1)
    found: dict[str, Any] = {"about": piece.about}
    for side, calls in sides.items():
        found[side] = {
            "cpu_s": min(timings[side].cpu_seconds),
            "seconds": min(timings[side].seconds),
            **_counted(calls, config.chip if len(calls) == 1 else None),
        }
    pairs = zip(*(jax.tree.leaves(last[side]) for side in sides), strict=True)
    found["differs_by"] = (
        max(float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(a))) for a, b in pairs)
        if piece.same
        else None
    )
    return found


def _counted(calls: Sequence[Call], chip: str | None) -> dict[str, float | None]:
    """Products of all calls, and what they read and write on a chip."""
    by_shape: dict[Any, list[Call]] = {}
    for call, given in calls:
        shapes = tuple(map(np.shape, jax.tree.leaves(given)))
        by_shape.setdefault((call, shapes), []).append((call, given))
    flops, moved = 0.0, 0.0
    for alike in by_shape.values():
        (call, given), times = alike[0], len(alike)
        flops += times * count_flops(jax.make_jaxpr(call)(*given)).total
        if chip is not None:
            arguments = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), given
            )
            case = Case("", call, arguments)
            moved += times * (compile_case("saved", "", chip, case).traffic_mb or 0.0)
    return {"gflop": flops / 1e9, "chip_mb": None if chip is None else moved}
