"""Benchmarks against PyTorch: ``python -m experiments.bench --help``."""

import dataclasses
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Union

import jax
import tyro

from experiments.bench import (
    diffusion,
    gloria,
    heart,
    input,
    maps,
    mgca,
    saved,
    saving,
    segmentation,
    step,
    unrolled,
)
from medjax.train.ending import ends_in_words
from medjax.train.launch import LaunchConfig, cpu_devices, launch


@dataclasses.dataclass(frozen=True)
class AllConfig:
    """Every benchmark, at the sizes meant for this kind of device."""

    torch: bool = True
    """Measure PyTorch beside; without, ours alone."""
    compile: bool = True
    """Measure torch.compile, too (on a CPU it needs a C++ compiler)."""
    turns: int = 5
    """Timed turns of each side."""
    out: Path = Path("runs/bench")
    """Folder of the JSON files."""

    def configs(self) -> list[Any]:
        """One configuration per benchmark."""
        common: dict[str, Any] = {"out": self.out, "turns": self.turns}
        both: dict[str, Any] = common | {"torch": self.torch}
        steps: dict[str, Any] = both | {"compile": self.compile}
        local, tokens = gloria.GloriaBenchConfig(), mgca.MgcaBenchConfig()
        made = diffusion.DiffusionBenchConfig()
        if jax.default_backend() != "cpu":
            low: dict[str, Any] = {"dtype": "bfloat16"}
            full = low | {"batch_size": gloria.FULL}
            local = dataclasses.replace(gloria.PUBLISHED, **full)
            tokens = dataclasses.replace(mgca.PUBLISHED, **low)
            made = diffusion.PUBLISHED
        return [
            step.StepConfig(text_kind="trainable", **steps),
            step.StepConfig(text_kind="frozen", **steps),
            step.StepConfig(text_kind="cached", **steps),
            unrolled.UnrolledConfig(**steps),
            maps.MapsConfig(**common),
            heart.HeartConfig(**both),
            segmentation.SegmentationBenchConfig(**common),
            dataclasses.replace(local, **both),
            dataclasses.replace(tokens, **both),
            dataclasses.replace(made, **common),
            input.InputConfig(**both),
            saved.SavedConfig(**common),
            saving.SavingConfig(out=self.out),
        ]


RUNS = {
    step.StepConfig: step.run,
    input.InputConfig: input.run,
    unrolled.UnrolledConfig: unrolled.run,
    maps.MapsConfig: maps.run,
    heart.HeartConfig: heart.run,
    segmentation.SegmentationBenchConfig: segmentation.run,
    gloria.GloriaBenchConfig: gloria.run,
    mgca.MgcaBenchConfig: mgca.run,
    diffusion.DiffusionBenchConfig: diffusion.run,
    saved.SavedConfig: saved.run,
    saving.SavingConfig: saving.run,
}
COMMANDS = {
    "step": step.StepConfig,
    "input": input.InputConfig,
    "unrolled": unrolled.UnrolledConfig,
    "maps": maps.MapsConfig,
    "heart": heart.HeartConfig,
    "segmentation": segmentation.SegmentationBenchConfig,
    "gloria": gloria.GloriaBenchConfig,
    "mgca": mgca.MgcaBenchConfig,
    "diffusion": diffusion.DiffusionBenchConfig,
    "saved": saved.SavedConfig,
    "saving": saving.SavingConfig,
    "all": AllConfig,
}
PUBLISHED = {
    "gloria": gloria.PUBLISHED,
    "mgca": mgca.PUBLISHED,
    "diffusion": diffusion.PUBLISHED,
}
"""Benchmarks of which there is one at the papers' sizes as well."""


@ends_in_words
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line names.

    Args:
      arguments: Of the command line; None: this program's.

    Returns:
      0, or 1 if one of ``all`` failed (the others run nevertheless).
    """
    named = [(name, config, describe(config), {}) for name, config in COMMANDS.items()]
    for name, config in PUBLISHED.items():
        about = f"{describe(type(config))} At the papers' sizes."
        named.append((f"{name}-published", type(config), about, {"default": config}))
    commands: Any = Union[  # noqa: UP007 - built from a list
        tuple(
            Annotated[kind, tyro.conf.subcommand(name, description=about, **default)]
            for name, kind, about, default in named
        )
    ]
    config = tyro.cli(commands, args=arguments, prog="python -m experiments.bench")
    if config.out.exists() and not config.out.is_dir():
        # Before minutes of measuring, not behind them.
        raise ValueError(f"out: {config.out} is a file, expected a folder")
    # PyTorch needs its part of the GPU: JAX is not to take three quarters at the start.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    launch(
        LaunchConfig(
            distributed="off",
            cpu_devices=cpu_devices(),
            compile_cache=None,
            log_level="warning",
        )
    )
    if not isinstance(config, AllConfig):
        RUNS[type(config)](config)
        return 0
    failed = []
    for one in config.configs():
        try:
            RUNS[type(one)](one)
        except Exception:
            traceback.print_exc()
            failed.append(one)
    for one in failed:
        print(f"FAILED: {one}", file=sys.stderr)
    return 1 if failed else 0


def describe(config: Any) -> str:
    """What a command does: the first line of its module's docstring, or its own."""
    source = sys.modules[config.__module__] if config in RUNS else config
    return (source.__doc__ or "").splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
