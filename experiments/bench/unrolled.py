"""The training step of an unrolled reconstruction, ours against PyTorch's.

E2E-VarNet, one minus SSIM, Adam. Theirs keeps every cascade's
activations; ours does so too (``ours``), or computes them anew (``ours, remat``, the
default of the library). Beside it: what share of our step data consistency takes, with
each implementation of the kernel that runs here.
"""

import dataclasses
import statistics
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import measure
from experiments.bench.compare import compare, lines, torch_kinds
from experiments.bench.compiled import CompiledStep
from experiments.bench.measure import take_turns
from experiments.bench.pair import DType
from medjax.mri import masks
from medjax.mri.fourier import fft2c, ifft2c
from medjax.mri.sense import combine, sample
from medjax.mri.varnet import (
    VarNetConfig,
    central_lines,
    frames_of,
    unit_norm,
    varnet_system,
)
from medjax.train.mesh import make_mesh
from medjax.train.optimizer import OptimizerConfig
from medjax_kernels.data_consistency import varnet_update
from medjax_kernels.data_consistency.dispatch import (
    IMPLEMENTATIONS,
    ConsistencyImplementation,
)

OPTIMIZER = OptimizerConfig(name="adam", lr=3e-4)
"""Of both sides."""


@dataclasses.dataclass(frozen=True)
class UnrolledConfig:
    """What both sides compute; None: small on a CPU, else a T1 series of CMRxRecon."""

    cascades: int | None = None
    """Unrolled steps; None: 4 on a CPU, 12 elsewhere."""
    chans: int = 18
    """First width of the U-Nets."""
    pools: int = 4
    """Their poolings."""
    height: int | None = None
    """Phase encoding; None: 96 on a CPU, 144 elsewhere."""
    width: int | None = None
    """Readout; None: 96 on a CPU, 512 elsewhere."""
    coils: int | None = None
    """Receivers; None: 4 on a CPU, 10 elsewhere."""
    batch_size: int = 1
    """Series."""
    frames: int | None = None
    """Of a series; None: 1 on a CPU, 9 elsewhere."""
    acceleration: int = 4
    """Of the sampling."""
    dtype: DType | None = None
    """Of the networks; None: float32 on a CPU, bfloat16 elsewhere."""
    torch: bool = True
    """Measure PyTorch beside; without, ours alone."""
    compile: bool = True
    """Measure torch.compile, too (on a CPU it needs a C++ compiler)."""
    turns: int = 5
    """Timed turns of each side."""
    steps: int | None = None
    """Of a turn; None: 1 on a CPU, 5 elsewhere."""
    seed: int = 0
    """Of weights and images."""
    out: Path = Path("runs/bench")
    """Folder of the JSON file."""

    def settled(self) -> "UnrolledConfig":
        """With every None replaced by what it means on this machine."""
        cpu = jax.default_backend() == "cpu"
        return dataclasses.replace(
            self,
            cascades=self.cascades or (4 if cpu else 12),
            height=self.height or (96 if cpu else 144),
            width=self.width or (96 if cpu else 512),
            coils=self.coils or (4 if cpu else 10),
            frames=self.frames or (1 if cpu else 9),
            dtype=self.dtype or ("float32" if cpu else "bfloat16"),
            steps=self.steps or (1 if cpu else 5),
        )

    def network(self, **changes: Any) -> VarNetConfig:
        """Of both sides."""
        assert self.cascades and self.dtype
        return VarNetConfig(
            cascades=self.cascades,
            chans=self.chans,
            pools=self.pools,
            sens_pools=self.pools,
            dtype=jnp.dtype(self.dtype),
            **changes,
        )


def run(config: UnrolledConfig) -> dict[str, Any]:
    """Builds both sides, proves them equal, times them, prints and writes.

    Args:
      config: What to compute.

    Returns:
      What the JSON file holds.

    Raises:
      ModuleNotFoundError: PyTorch is wanted and not there.
    """
    config = config.settled()
    assert config.dtype and config.steps
    batch = invent_batch(config)
    mesh = make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        ours: dict[str, CompiledStep] = {}
        for name, remat in {"ours": False, "ours, remat": True}.items():
            system = varnet_system(config.network(remat=remat))
            step = CompiledStep(
                system.init,
                OPTIMIZER,
                batch,
                mesh,
                config.seed,
                like=ours.get("ours"),
            )
            step.compile(system.loss)
            ours[name] = step
        theirs = _torch_steps(config, batch, ours["ours"]) if config.torch else {}
        compared = compare(
            ours,
            theirs,
            examples=batch["kspace"].shape[0] * batch["kspace"].shape[1],
            steps=config.steps,
            turns=config.turns,
        )
    result = {
        "benchmark": "unrolled",
        "config": measure.settings(config),
        "facts": measure.facts(),
        **compared,
        "data_consistency": time_data_consistency(
            config, batch, compared["contestants"]["ours"]["seconds_per_step"]
        ),
    }
    _print(config, result)
    measure.write(config.out, f"unrolled-{config.dtype}", result)
    return result


def invent_batch(config: UnrolledConfig) -> dict[str, np.ndarray]:
    """Blobs behind smooth coils, fully sampled, and the mask."""
    assert config.frames and config.height and config.width and config.coils
    rng = np.random.default_rng(config.seed)
    y, x = np.meshgrid(
        *(np.linspace(-1, 1, n) for n in (config.height, config.width)), indexing="ij"
    )

    def blobs(count: int, width: float) -> np.ndarray:
        """``[count, h, w]``, each a Gaussian somewhere."""
        cy, cx = rng.uniform(-0.7, 0.7, (2, count, 1, 1))
        return np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * width**2))

    b, t = config.batch_size, config.frames
    images = np.tensordot(rng.uniform(size=(b, t, 12)), blobs(12, 0.15), 1)
    phase = np.exp(1j * rng.uniform(-np.pi, np.pi, (config.coils, 1, 1)))
    coils = images[:, :, None] * (blobs(config.coils, 0.8) * phase)
    kspace = np.asarray(fft2c(jnp.asarray(coils.astype(np.complex64))))
    noise = rng.normal(size=(2, *kspace.shape)) * 1e-3 * np.abs(kspace).max()
    mask = masks.cmrxrecon(config.height, acceleration=config.acceleration)
    return {
        "kspace": (kspace + noise[0] + 1j * noise[1]).astype(np.complex64),
        "mask": np.broadcast_to(np.asarray(mask), (b, 1, config.height, 1)),
    }


def _torch_steps(
    config: UnrolledConfig, batch: dict[str, np.ndarray], ours: CompiledStep
) -> dict[str, Any]:
    """Their steps by name, with our weights in them."""
    module = measure.need_torch("torch_unrolled")
    kspace, mask = frames_of(jax.tree.map(jnp.asarray, batch))
    host = {
        "kspace": np.asarray(kspace),
        "mask": np.asarray(mask[..., 0]),
        "centre": np.asarray(central_lines(mask)[..., 0]),
    }
    return {
        name: module.TorchUnrolledStep(
            config.network(),
            OPTIMIZER,
            host,
            ours.variables()["params"],
            frames=batch["kspace"].shape[1],
            compiled=compiled,
        )
        for name, compiled in torch_kinds(config.compile).items()
    }


def time_data_consistency(
    config: UnrolledConfig, batch: dict[str, np.ndarray], step_s: float
) -> dict[str, Any]:
    """One update and its gradient alone, by implementation, and its share of a step.

    Args:
      config: Number of cascades and turns.
      batch: The batch of the step.
      step_s: Seconds of a step without rematerialisation.

    Returns:
      By implementation ``ms`` of one cascade's update with gradient, and ``share`` of
      the step that all cascades' would take; or ``unsupported``, the reason.
    """
    assert config.cascades
    kspace, mask = frames_of(jax.tree.map(jnp.asarray, batch))
    measured = ifft2c(sample(kspace, mask))
    maps = unit_norm(measured)
    refinement = combine(measured, maps)
    works: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for name in IMPLEMENTATIONS:
        update = jax.jit(_update_gradient, static_argnames="implementation")
        arguments = (0.9 * measured, measured, maps, mask, refinement)
        try:
            jax.block_until_ready(update(*arguments, implementation=name))
        except NotImplementedError as error:
            found[name] = {"unsupported": str(error)}
            continue
        works[name] = lambda update=update, arguments=arguments, name=name: (
            jax.block_until_ready(update(*arguments, implementation=name))
        )
    for name, timing in take_turns(works, turns=2 * config.turns, warmup=1).items():
        seconds = statistics.median(timing.seconds)
        share = config.cascades * seconds / step_s
        found[name] = {"ms": 1e3 * seconds, "share": share}
    return found


def _update_gradient(
    coil_images: jax.Array,
    measured: jax.Array,
    maps: jax.Array,
    mask: jax.Array,
    refinement: jax.Array,
    *,
    implementation: ConsistencyImplementation,
) -> Any:
    """The update, and the gradients that training asks of it."""

    def update(coil_images: Any, maps: Any, refinement: Any, step_size: Any) -> Any:
        return varnet_update(
            coil_images,
            measured,
            maps,
            mask,
            refinement,
            step_size=step_size,
            implementation=implementation,
        )

    step_size = jnp.ones(())
    value, back = jax.vjp(update, coil_images, maps, refinement, step_size)
    return value, back(value)


def _print(config: UnrolledConfig, result: dict[str, Any]) -> None:
    print(
        f"\nunrolled {config.dtype}, {config.cascades} cascades, "
        f"{config.batch_size} x {config.frames} frames x "
        f"{config.coils} coils x {config.height} x {config.width}"
    )
    print(measure.describe(result["facts"]) + "\n")
    print(lines(result) + "\n")
    rows = [
        [name, f"{d['ms']:.2f}", f"{100 * d['share']:.1f} %"]
        if "ms" in d
        else [name, "-", "does not run here"]
        for name, d in result["data_consistency"].items()
    ]
    head = ["data consistency", "ms a cascade, with gradient", "share of the step"]
    print(measure.table(head, rows))
