"""The one training loop: `fit` takes a system's two pure functions and does the rest.

A run is a folder::

    config.json       the settings it was started with
    metrics.jsonl     one row per logged step; TensorBoard events beside it
    checkpoints/      state, place in the data, settings
    profile/          a trace, if asked for
    nonfinite/        the batch and metrics of a step that gave NaN or infinity

and the same call on the same folder goes on where the last one stopped, bit for bit if
the devices are the same: the place in the data is saved with the state, and the only
randomness is ``fold_in(key, step)``. "Step n" is the n-th update, counted from 1; the
checkpoint n holds the state after it.
"""

import contextlib
import dataclasses
import json
import logging
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from tqdm import tqdm

from medjax.train import speed
from medjax.train.checkpoint import Checkpoints
from medjax.train.feed import DataIterator, Fed, Feed
from medjax.train.log import Writer
from medjax.train.mesh import MeshConfig, make_mesh, parse_absl_flags
from medjax.train.optimizer import OptimizerConfig, make_optimizer, make_schedule
from medjax.train.preemption import Preempted, PreemptionGuard
from medjax.train.sharding import DEFAULT_RULES, Rules, replicated
from medjax.train.state import (
    Init,
    TrainState,
    make_state_init,
    overlay,
    partition,
    run_keys,
    state_shardings,
)
from medjax.train.step import Loss, make_train_step
from medjax.typing import Variables

logger = logging.getLogger(__name__)

Eval = Callable[[TrainState, int], Mapping[str, Any]]
"""``evaluate(state, step) -> scalars``; logged as ``eval/<name>``."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Length of the run, and what happens how often."""

    steps: int = 1000
    """Updates in all."""
    log_every: int = 10
    """Log the metrics of every n-th step (and of the first and last)."""
    eval_every: int = 0
    """Evaluate every n steps and after the last; 0: after the last only."""
    checkpoint_every: int = 1000
    """Save every n steps and after the last."""
    keep: int = 2
    """Checkpoints to keep."""
    seed: int = 0
    """Seed of initialisation and of all randomness in the steps."""
    accumulate: int = 1
    """Microbatches per update; a contrastive loss contrasts within a microbatch."""
    ema: float | None = None
    """Decay of an exponential moving average of the parameters; None: no average."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """Loss or gradient not finite: save and stop, or pass over the batch."""
    profile: str | None = None
    """Trace these steps ("10:15", both included) into the profile folder."""
    wandb: str | None = None
    """Log to this wandb project as well."""
    allow_config_change: bool = False
    """Resume although settings that change the result differ."""


DEFAULT_OPTIMIZER, DEFAULT_TRAIN, DEFAULT_MESH = (
    OptimizerConfig(),
    TrainConfig(),
    MeshConfig(),
)


class NonFiniteError(ArithmeticError):
    """A loss or gradient was not finite; the state from before it is saved.

    Attributes:
      step: The step that failed.
      index: Rows of the data set in its batch (empty if the batch has no ``index``).
      folder: Where the batch and the metrics are.
    """

    def __init__(self, step: int, index: list[int], folder: Path) -> None:
        rows = f"; rows of the batch: {index}" if index else ""
        super().__init__(
            f"loss or gradient is not finite at step {step}. Checkpoint {step - 1} is "
            f"the state before it; {folder} has the batch and its metrics. The same "
            f"command tries the step again, --train.on_nonfinite skip passes over it"
            f"{rows}"
        )
        self.step, self.index, self.folder = step, index, folder


def fit(
    init: Init,
    loss: Loss,
    data: Iterable[Any] | DataIterator,
    *,
    workdir: str | Path,
    optimizer: OptimizerConfig = DEFAULT_OPTIMIZER,
    train: TrainConfig = DEFAULT_TRAIN,
    mesh: Mesh | MeshConfig = DEFAULT_MESH,
    rules: Rules = DEFAULT_RULES,
    evals: Sequence[Eval] = (),
    pretrained: Variables | None = None,
    config: Any = None,
) -> TrainState:
    """Trains a system, or goes on training it, until `train.steps` updates are done.

    Args:
      init: ``init(key, batch) -> variables``.
      loss: ``loss(variables, batch, key) -> scalar, (metrics, updated collections)``.
        Runs under `jax.set_mesh`, and sees global arrays.
      data: Batches of this process (dicts of numpy arrays of constant shape), without
        end, from an iterator with ``get_state`` and ``set_state``.
      workdir: Folder of the run; the same folder resumes.
      optimizer: Update rule, schedule, frozen parameters.
      train: Length and intervals.
      mesh: The mesh, or its axis sizes.
      rules: Sharding rules over parameter names.
      evals: Hooks called as ``hook(state, step)``; they return scalars to log.
      pretrained: Host arrays that replace initialised variables on a fresh start.
      config: Settings of the experiment (dataclass or dict), kept in ``config.json``.

    Returns:
      The state after the last step.

    Raises:
      NonFiniteError: If a step gave NaN or infinity (and `on_nonfinite` is "stop").
      Preempted: If SIGTERM or SIGINT asked to stop; a checkpoint is saved.
      ValueError: If data, settings or checkpoint do not fit.
    """
    parse_absl_flags()
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    mesh = make_mesh(mesh) if isinstance(mesh, MeshConfig) else mesh
    settings = _settings(optimizer, train)
    _write_config(workdir, config, optimizer, train, mesh)
    tx, schedule = (
        make(optimizer, train.steps) for make in (make_optimizer, make_schedule)
    )
    profile = _profiled_steps(train.profile)
    tracing = contextlib.ExitStack()

    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        enter(jax.set_mesh(mesh))
        guard = enter(PreemptionGuard())
        checkpoints = enter(Checkpoints(workdir / "checkpoints", keep=train.keep))
        feed = enter(Feed(data, mesh))
        start = checkpoints.latest or 0
        if checkpoints.latest is not None:
            _compare(checkpoints.settings(start), settings, train.allow_config_change)
            feed.iterator.set_state(checkpoints.restore_data(start))
        feed.start()
        fed = feed.next()
        shapes = {name: value.shape for name, value in fed.device.items()}
        examples = next(iter(shapes.values()))[0]

        everywhere = replicated(mesh)
        init_key, key = jax.jit(
            lambda: run_keys(train.seed), out_shardings=(everywhere, everywhere)
        )()
        make_state = make_state_init(
            init, tx, optimizer.frozen, ema=train.ema is not None
        )
        abstract = jax.eval_shape(make_state, init_key, fed.device)
        shardings = state_shardings(abstract, tx, optimizer.frozen, mesh, rules)
        if checkpoints.latest is None:
            state = jax.jit(make_state, out_shardings=shardings)(init_key, fed.device)
            if pretrained is not None:
                state = overlay(state, pretrained)
        else:
            target = jax.tree.map(
                lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                abstract,
                shardings,
            )
            state = checkpoints.restore(start, target)
            logger.info("resumed from step %d of %s", start, workdir)
        if start >= train.steps:
            return state

        train_step = make_train_step(
            loss,
            tx,
            schedule,
            shardings,
            mesh,
            frozen=optimizer.frozen,
            accumulate=train.accumulate,
            ema=train.ema,
            on_nonfinite=train.on_nonfinite,
        )
        proceed = jax.jit(lambda: jnp.ones((), bool), out_shardings=everywhere)()
        # Compiled ahead: a batch of another shape is then an error, not a silent second
        # compilation, and the compiler's counts of FLOPs and bytes are at hand.
        step_fn = train_step.lower(state, fed.device, key, proceed).compile()  # pyright: ignore
        flops = speed.step_flops(step_fn, repeats=train.accumulate)

        writer = enter(Writer(workdir, step=start, config=settings, wandb=train.wandb))
        first = jax.process_index() == 0
        if first:
            print(
                speed.parameter_table(
                    abstract.params, partition(abstract.params, optimizer.frozen)[1]
                )
            )
        bar = enter(
            tqdm(
                total=train.steps,
                initial=start,
                file=sys.stderr,
                disable=not first,
                unit="step",
                # In a log file every refresh is a line.
                mininterval=0.5 if sys.stderr.isatty() else 30.0,
            )
        )
        clock = speed.Clock()

        def stop_if_bad(n: int, fed: Fed, metrics: Mapping[str, jax.Array]) -> None:
            """Looks at the guard of step n (which waits for that step to finish)."""
            if not bool(metrics["finite"]):
                checkpoints.save(state, fed.before, settings, wait=True)
                raise _nonfinite(workdir, n, fed, metrics)

        before: tuple[int, Fed, Mapping[str, jax.Array]] | None = None
        for n in range(start + 1, train.steps + 1):
            waited = 0.0
            if n > start + 1:
                began = time.perf_counter()
                fed = feed.next()
                waited = time.perf_counter() - began
                _check_shapes(fed, shapes)
            if profile and n == profile[0]:
                jax.profiler.start_trace(str(workdir / "profile"))
                tracing = enter(contextlib.ExitStack())
                tracing.callback(jax.profiler.stop_trace)
            with jax.profiler.StepTraceAnnotation("train", step_num=n):
                state, metrics = step_fn(state, fed.device, key, proceed)
            proceed = metrics["finite"]
            clock.tick(waited)
            bar.update()
            # One step behind, so that the device always has a step to work on.
            if before is not None:
                stop_if_bad(*before)
            before = (n, fed, metrics)

            last = n == train.steps
            logs = n == 1 or last or n % train.log_every == 0
            evaluates = last or (train.eval_every > 0 and n % train.eval_every == 0)
            saves = last or n % train.checkpoint_every == 0
            signum = guard.requested(n)
            if profile and n == profile[1]:
                stop_if_bad(*before)
                tracing.close()
            if not (logs or evaluates or saves or signum is not None):
                continue
            stop_if_bad(*before)
            if logs:
                scalars = {k: float(v) for k, v in metrics.items() if k != "finite"}
                rates = clock.read(
                    examples=examples, remaining=train.steps - n, flops=flops
                )
                memory = {"peak_memory_bytes": speed.peak_memory(step_fn)}
                writer.write(n, {**scalars, **rates, **memory})
                bar.set_postfix(loss=f"{scalars['loss']:.4g}", refresh=False)
            began = time.perf_counter()
            if evaluates and (last or signum is None):
                for evaluate in evals:
                    scores = {
                        f"eval/{k}": float(v) for k, v in evaluate(state, n).items()
                    }
                    writer.write(n, scores)
            if saves or signum is not None:
                # Rows go first: a resume from this checkpoint keeps them.
                wait = last or signum is not None
                checkpoints.save(state, fed.after, settings, wait=wait)
            clock.exclude(time.perf_counter() - began)
            if signum is not None and not last:
                logger.warning("stopped by signal %d after step %d, saved", signum, n)
                raise Preempted(n, signum)
        return state


def _settings(optimizer: OptimizerConfig, train: TrainConfig) -> dict[str, Any]:
    """The settings that change what a run computes, as JSON gives them back."""
    settings = {
        "optimizer": dataclasses.asdict(optimizer),
        "seed": train.seed,
        "accumulate": train.accumulate,
        "ema": train.ema,
    }
    if optimizer.schedule == "cosine":  # the only one that knows where the run ends
        settings["steps"] = train.steps
    return json.loads(json.dumps(settings))


def _compare(saved: dict[str, Any], settings: dict[str, Any], allowed: bool) -> None:
    """Refuses to go on with other settings than the checkpoint's.

    Raises:
      ValueError: If they differ and that is not `allowed`.
    """
    then, now = (_flatten(tree) for tree in (saved, settings))
    changed = [
        f"{name}: was {then.get(name)!r}, now {now.get(name)!r}"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
    if changed and not allowed:
        raise ValueError(
            "train: the checkpoint in this workdir was made with other settings; use "
            "another workdir, or --train.allow_config_change to go on with the new "
            f"ones. {'; '.join(changed)}"
        )
    if changed:
        logger.warning("resuming with changed settings: %s", "; ".join(changed))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _write_config(
    workdir: Path,
    config: Any,
    optimizer: OptimizerConfig,
    train: TrainConfig,
    mesh: Mesh,
) -> None:
    """Writes config.json once: what the run was started with, and on what."""
    path = workdir / "config.json"
    if jax.process_index() or path.exists():
        return
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = dataclasses.asdict(config)
    device = mesh.devices.flat[0]
    content = {
        "experiment": config,
        "optimizer": dataclasses.asdict(optimizer),
        "train": dataclasses.asdict(train),
        "mesh": dict(mesh.shape),
        "devices": f"{mesh.size} x {device.device_kind}",
        "processes": jax.process_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
    path.write_text(json.dumps(content, indent=2, default=str) + "\n")


def _profiled_steps(text: str | None) -> tuple[int, int] | None:
    """Parses "10:15".

    Raises:
      ValueError: If it is not two increasing numbers.
    """
    if text is None:
        return None
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
        raise ValueError(f'train.profile: expected "first:last" steps, got {text!r}')
    return int(first), int(last)


def _check_shapes(fed: Fed, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Holds every batch to the shapes the step was compiled for.

    Raises:
      ValueError: If one differs.
    """
    now = {name: value.shape for name, value in fed.device.items()}
    if now != shapes:
        raise ValueError(
            f"data: the step is compiled for batches of {dict(shapes)}, got {now}; "
            "drop the remainder of an epoch and pad texts to one length"
        )


def _nonfinite(
    workdir: Path, step: int, fed: Fed, metrics: Mapping[str, jax.Array]
) -> NonFiniteError:
    """Writes down the batch of a bad step, and makes the error that tells of it."""
    folder = workdir / "nonfinite" / f"step_{step}"
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"batch_process_{jax.process_index()}.npz", **fed.host)  # pyright: ignore
    index: list[int] = []
    if "index" in fed.device:
        # All processes are here, since all see the same guard.
        rows = multihost_utils.process_allgather(fed.device["index"], tiled=True)
        index = np.asarray(rows).tolist()
    if jax.process_index() == 0:
        # As text: JSON has neither NaN nor infinity, and which of them it was matters.
        values = {name: str(float(value)) for name, value in metrics.items()}
        content = {"step": step, "index": index, "metrics": values}
        (folder / "metrics.json").write_text(json.dumps(content, indent=2) + "\n")
    return NonFiniteError(step, index, folder)
