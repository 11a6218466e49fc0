"""The training step of a pair of towers, ours against PyTorch's."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any, Literal

import jax

from experiments.bench import measure
from experiments.bench.compare import compare, lines, torch_kinds
from experiments.bench.measure import take_turns
from experiments.bench.pair import DType, OurStep, Sizes, Text, invent_batch, make_sizes
from experiments.bench.parts import our_parts
from medjax.train.mesh import make_mesh


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """What both sides compute, and how long the clock runs."""

    image: Literal["resnet18", "resnet50", "resnet_tiny"] = "resnet50"
    """The image tower."""
    text: Literal["base", "tiny"] = "base"
    """Sizes of the report tower, a BERT."""
    layers: int = 12
    """Layers of the report tower."""
    text_kind: Text = "trainable"
    """trainable; frozen: a forward pass in every step; cached: its features come with
    the batch."""
    image_size: int = 224
    """Side of the network's input in pixels."""
    batch_size: int | None = None
    """Pairs; None: 8 on a CPU, 128 elsewhere."""
    tokens: int = 128
    """Of a report, padding included."""
    dropout: float = 0.0
    """In a trainable report tower. Above 0 each side draws its own, so that first
    losses cannot be compared."""
    dtype: DType | None = None
    """Of the towers' arithmetic; None: float32 on a CPU, bfloat16 elsewhere."""
    devices: int = 1
    """That ours uses; PyTorch uses one."""
    torch: bool = True
    """Measure PyTorch beside; without, ours alone."""
    compile: bool = True
    """Measure torch.compile, too (on a CPU it needs a C++ compiler)."""
    channels_last: bool = True
    """Memory layout of PyTorch's image tower."""
    parts: bool = True
    """Time the pieces of the step, too."""
    turns: int = 5
    """Timed turns of each side."""
    steps: int | None = None
    """Of a turn; None: 1 on a CPU, 10 elsewhere."""
    seed: int = 0
    """Of weights and batch."""
    out: Path = Path("runs/bench")
    """Folder of the JSON file."""

    @property
    def name(self) -> str:
        """Of the JSON file."""
        return f"step-{self.image}-{self.text}-{self.text_kind}-{self.dtype}"

    def settled(self) -> "StepConfig":
        """With every None replaced by what it means on this machine."""
        cpu = jax.default_backend() == "cpu"
        return dataclasses.replace(
            self,
            batch_size=self.batch_size or (8 if cpu else 128),
            dtype=self.dtype or ("float32" if cpu else "bfloat16"),
            steps=self.steps or (1 if cpu else 10),
        )

    def sizes(self) -> Sizes:
        """What both sides are built from."""
        assert self.batch_size is not None
        return make_sizes(
            self.image,
            self.text,
            layers=self.layers,
            image_size=self.image_size,
            batch_size=self.batch_size,
            tokens=self.tokens,
            dropout=self.dropout,
        )


def run(config: StepConfig) -> dict[str, Any]:
    """Builds both sides, proves them equal, times them, prints and writes.

    Args:
      config: What to compute.

    Returns:
      What the JSON file holds.

    Raises:
      ModuleNotFoundError: PyTorch is wanted and not there.
    """
    config = config.settled()
    assert config.batch_size and config.dtype and config.steps
    mesh = make_mesh(devices=jax.devices()[: config.devices])
    with tempfile.TemporaryDirectory() as folder, jax.set_mesh(mesh):
        ours = OurStep(
            config.sizes(),
            config.dtype,
            config.text_kind,
            invent_batch(config.sizes(), config.seed),
            Path(folder),
            mesh,
            config.seed,
        )
        theirs = _torch_steps(config, ours) if config.torch else {}
        result = {
            "benchmark": "step",
            "config": measure.settings(config),
            "facts": measure.facts(),
            **compare(
                {"ours": ours},
                theirs,
                view=ours.images(),
                comparable=config.dropout == 0,
                examples=config.batch_size,
                steps=config.steps,
                turns=config.turns,
            ),
            "parts_ms": _time_parts(config, ours, theirs) if config.parts else {},
        }
    _print(config, result)
    measure.write(config.out, config.name, result)
    return result


def _torch_steps(config: StepConfig, ours: OurStep) -> dict[str, Any]:
    """Their steps by name, with our weights in them."""
    module = measure.need_torch("torch_step")
    return {
        name: module.TorchStep(
            ours.sizes,
            config.dtype,
            config.text_kind,
            ours.host,
            ours.variables(),
            compiled=compiled,
            channels_last=config.channels_last,
        )
        for name, compiled in torch_kinds(config.compile).items()
    }


def _time_parts(
    config: StepConfig, ours: OurStep, theirs: dict[str, Any]
) -> dict[str, dict[str, float]]:
    """Milliseconds of every piece, taking turns: ours and PyTorch's eager ones."""
    works = {f"ours|{name}": work for name, work in our_parts(ours).items()}
    if theirs:
        pieces = theirs["torch eager"].parts()
        works |= {f"torch eager|{name}": work for name, work in pieces.items()}
    timings = take_turns(works, turns=max(config.turns // 2, 2), warmup=1)
    milliseconds: dict[str, dict[str, float]] = {}
    for key, timing in timings.items():
        side, name = key.split("|")
        milliseconds.setdefault(name, {})[side] = 1e3 * timing.median
    return milliseconds


def _print(config: StepConfig, result: dict[str, Any]) -> None:
    batch = f"batch {config.batch_size} x {config.image_size} px x {config.tokens}"
    print(f"\n{config.name}, {batch} tokens, {config.devices} device(s) for ours")
    print(measure.describe(result["facts"]) + "\n")
    print(lines(result))
    if result["parts_ms"]:
        sides = list(next(iter(result["parts_ms"].values())))
        rows = [
            [name, *(f"{times[side]:.1f}" for side in sides)]
            for name, times in result["parts_ms"].items()
        ]
        print("\n" + measure.table(["ms, each alone", *sides], rows))
