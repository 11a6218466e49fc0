"""The one training loop: `fit` takes a system's two pure functions and does the rest.

A run is a folder::

    config.json       the settings it was started with
    metrics.jsonl     one row per logged step; TensorBoard events beside it
    checkpoints/      state, place in the data, settings
    time.json         where the time went, across all starts
    lock.json         while it runs: who holds the folder
    profile/          a trace, if asked for
    nonfinite/        the batch and metrics of a step that gave NaN or infinity

and the same call on the same folder goes on where the last one stopped, bit for bit if
the devices are the same: the place in the data is saved with the state, and the only
randomness is ``fold_in(key, step)``. "Step n" is the n-th update, counted from 1; the
checkpoint n holds the state after it.
"""

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from medjax.progress import Progress, say
from medjax.train import lock, speed, unison, watch
from medjax.train import settings as run_settings
from medjax.train import stopping as stopped
from medjax.train.agree import on_first
from medjax.train.checkpoint import Checkpoints
from medjax.train.feed import DataIterator, Fed, Feed
from medjax.train.goodput import Goodput
from medjax.train.launch import parse_absl_flags
from medjax.train.log import Writer
from medjax.train.mesh import MeshConfig, make_mesh
from medjax.train.nonfinite import record_nonfinite
from medjax.train.optimizer import OptimizerConfig
from medjax.train.preemption import Preempted, PreemptionGuard
from medjax.train.program import describe
from medjax.train.settings import TrainConfig
from medjax.train.shapes import CompiledStep, CompiledSteps
from medjax.train.sharding import DEFAULT_RULES, Rules, replicated
from medjax.train.state import Init, TrainState, overlay, partition, run_keys
from medjax.train.step import Loss
from medjax.train.stopping import Stopping, StoppingConfig
from medjax.train.storage import Folder, run_folder
from medjax.train.straggling import DEVICE, INPUT
from medjax.train.trace import Trace
from medjax.typing import Key, Variables

logger = logging.getLogger(__name__)

Eval = Callable[[TrainState, int], Mapping[str, Any]]
"""``evaluate(state, step) -> scalars``; logged as ``eval/<name>``."""

Refuse = Callable[[int, Mapping[str, float]], None]
"""``refuse(step, metrics)``: raises where they say that training has gone wrong."""

DEFAULT_OPTIMIZER, DEFAULT_TRAIN, DEFAULT_MESH = (
    OptimizerConfig(),
    TrainConfig(),
    MeshConfig(),
)


def fit(
    init: Init,
    loss: Loss,
    data: Iterable[Any] | DataIterator,
    *,
    workdir: str | os.PathLike[str],
    optimizer: OptimizerConfig = DEFAULT_OPTIMIZER,
    train: TrainConfig = DEFAULT_TRAIN,
    mesh: Mesh | MeshConfig = DEFAULT_MESH,
    rules: Rules = DEFAULT_RULES,
    evals: Sequence[Eval] = (),
    stopping: StoppingConfig | None = None,
    refuse: Refuse | None = None,
    pretrained: Variables | None = None,
    config: Any = None,
    phase: str = "train",
    remade: Sequence[str] = (),
) -> TrainState:
    """Trains a system, or goes on training it, until `train.steps` updates are done.

    Args:
      init: ``init(key, batch) -> variables``.
      loss: ``loss(variables, batch, key) -> scalar, (metrics, updated collections)``.
        Runs under `jax.set_mesh`, and sees global arrays.
      data: Batches of this process (dicts of numpy arrays), without end, from an
        iterator with ``get_state`` and ``set_state``. They all have as many examples,
        and at most ``train.shapes`` shapes; in one step every process brings the same.
        What says ``identity()`` has to say the same on every process
        (`medjax.train.feed.Identified`).
      workdir: Folder of the run, or gs:// address; the same folder resumes.
      optimizer: Update rule, schedule, frozen parameters.
      train: Length and intervals.
      mesh: The mesh, or its axis sizes.
      rules: Sharding rules over parameter names.
      evals: Hooks called as ``hook(state, step)``; they return scalars to log.
      stopping: Which of these scalars decides that the run may end before its last
        step; the checkpoint with the best one is then kept beside the latest. Every
        process has to see the same scalars.
      refuse: Sees the metrics of every row that is logged, on every process; what it
        raises ends the run, behind its last checkpoint.
      pretrained: Host arrays that replace initialised variables on a fresh start.
      config: Settings of the experiment (dataclass or dict), kept in ``config.json``.
      phase: What the progress calls this training.
      remade: Collections of variables that `init` makes of data alone, the same at
        every start, and that no step changes: no checkpoint holds them.

    Returns:
      The state after the last step.

    Raises:
      NonFiniteError: If a step gave NaN or infinity (and `on_nonfinite` is "stop").
      Preempted: If SIGTERM or SIGINT asked to stop; a checkpoint is saved.
      ValueError: If data, settings or checkpoint do not fit, or if the processes of the
        run differ in settings, data, `pretrained` or code.
    """
    parse_absl_flags()
    workdir = run_folder(workdir)
    mesh = make_mesh(mesh) if isinstance(mesh, MeshConfig) else mesh
    settings = run_settings.resume_settings(optimizer, train)

    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        held = enter(lock.hold(workdir))
        unison.check(
            config,
            optimizer,
            train,
            mesh,
            data=data,
            stopping=stopping,
            pretrained=pretrained,
        )
        run_settings.write_config(workdir, config, optimizer, train, mesh)
        enter(jax.set_mesh(mesh))
        guard = enter(PreemptionGuard(train.stop_every))
        places = workdir / "checkpoints"
        checkpoints = enter(Checkpoints(places, keep=train.keep, remade=remade))
        feed = enter(Feed(data, mesh))
        start = on_first(lambda: checkpoints.latest, what="latest checkpoint")
        if start is not None:
            feed.iterator.set_state(checkpoints.restore_data(start))
        goodput = Goodput(workdir, step=start or 0)
        feed.start()
        fed = feed.next()
        settings["batch_size"] = len(next(iter(fed.device.values())))
        if start is not None:
            run_settings.compare(
                checkpoints.settings(start), settings, allowed=train.allow_config_change
            )

        init_key, key = jax.jit(
            lambda: run_keys(train.seed),
            out_shardings=(replicated(mesh), replicated(mesh)),
        )()
        program = describe(
            init,
            loss,
            fed.device,
            optimizer=optimizer,
            train=train,
            mesh=mesh,
            rules=rules,
        )
        if start is not None:
            with watch.phase("restore"), goodput.spent("restore"):
                state = checkpoints.restore(start, program.state)
            made = program.collections(remade, init_key, fed.device)
            state = state.replace(extra={**state.extra, **made})
            logger.info("resumed from step %d of %s", start, workdir)
        else:
            state = program.initialise(init_key, fed.device)
            if pretrained is not None:
                state = overlay(state, pretrained)
        rule = stopping and stopped.resumed(workdir, stopping, start=start)
        if rule and rule.best is not None:
            checkpoints.protect([rule.best])
        if int(state.step) >= train.steps or (rule and rule.exhausted):
            return state

        if jax.process_index() == 0:
            frozen = partition(state.params, optimizer.frozen)[1]
            say(speed.parameter_table(state.params, frozen))
        writer = enter(
            Writer(workdir, step=start or 0, config=settings, wandb=train.wandb)
        )
        run = _Run(
            workdir=workdir,
            held=held,
            train=train,
            settings=settings,
            guard=guard,
            checkpoints=checkpoints,
            feed=feed,
            writer=writer,
            evals=evals,
            stopping=rule,
            refuse=refuse,
            goodput=goodput,
        )
        progress = Progress(phase, train.steps, "steps", done=int(state.step))
        with watch.phase(watch.OUTSIDE):
            return run.advance(state, fed, program.step, key, mesh, progress)


@dataclasses.dataclass(frozen=True)
class _Taken:
    """A step that was begun and not looked at yet."""

    n: int
    fed: Fed
    metrics: Mapping[str, jax.Array]
    program: CompiledStep
    shapes: int
    """Of batches that the step is compiled for by now."""
    logs: bool
    """Whether it gets a row."""


@dataclasses.dataclass
class _Run:
    """The loop itself, with all it writes to."""

    workdir: Folder
    held: lock.Lock
    train: TrainConfig
    settings: Mapping[str, Any]
    guard: PreemptionGuard
    checkpoints: Checkpoints
    feed: Feed
    writer: Writer
    evals: Sequence[Eval]
    stopping: Stopping | None
    refuse: Refuse | None
    goodput: Goodput

    def advance(
        self,
        state: TrainState,
        fed: Fed,
        step: Any,
        key: Key,
        mesh: Mesh,
        progress: Progress,
    ) -> TrainState:
        """Takes all steps from `state` on; `fed` is the first batch."""
        train, start = self.train, int(state.step)
        proceed = jax.jit(lambda: jnp.ones((), bool), out_shardings=replicated(mesh))()
        # Compiled ahead: a new shape is then counted and logged, and its FLOPs and
        # bytes are at hand.
        steps = CompiledSteps(step, limit=train.shapes, devices=mesh.size)
        with self.goodput.spent("compile"):
            program = steps.of(state, fed.device, key, proceed)
        trace = Trace(train.profiled, self.workdir / "profile")
        clock = speed.Clock()
        behind: _Taken | None = None

        self.goodput.begin_steps()
        with trace, progress:
            if self.stopping and self.stopping.owes(start) and self._due(start):
                # Asked to leave there, the run saved at once and left this for later.
                if self._evaluate(state, start)[1]:
                    return state
            for n in range(start + 1, train.steps + 1):
                if n > start + 1:
                    began = time.perf_counter()
                    with self.goodput.spent("input"), watch.spent(INPUT):
                        fed = self.feed.next()
                    clock.waited(time.perf_counter() - began)
                    with clock.excluded(), self.goodput.spent("compile"):
                        program = steps.of(state, fed.device, key, proceed)
                watch.moved("step", n)
                self.held.check()
                trace.before(n)
                trace_step = jax.profiler.StepTraceAnnotation("train", step_num=n)
                with trace_step, watch.spent(DEVICE):
                    state, metrics = program.run(state, fed.device, key, proceed)
                proceed = metrics["finite"]
                progress.advance()

                last = n == train.steps
                logs = n == 1 or last or n % train.log_every == 0
                saves = last or n % train.checkpoint_every == 0
                evaluates = self._due(n)
                signum = self.guard.requested(n)
                asked = signum is not None and not last
                # Step n - 1 is looked at, and logged, while n runs, so that the device
                # always has work; step n itself only where its state leaves the device.
                if behind is not None:
                    self._settle(state, behind, clock, progress)
                behind = _Taken(n, fed, metrics, program, len(steps), logs)
                if last or saves or evaluates or asked or trace.ends(n):
                    self._settle(state, behind, clock, progress)
                    behind = None
                trace.after(n)

                ends = False
                with clock.excluded():
                    if evaluates and not asked:
                        better, ends = self._evaluate(state, n)
                        saves = saves or better or ends
                    if saves or asked:
                        # After the rows: a resume from here keeps them.
                        self.held.check(now=True)
                        wait = last or asked or ends
                        with watch.phase("save"), self.goodput.spent("save"):
                            self.checkpoints.save(
                                state, fed.after, self.settings, wait=wait
                            )
                if signum is not None and not last:
                    logger.warning("saved and stopped by signal %d, step %d", signum, n)
                    raise Preempted(n, signum)
                if ends:
                    break
        return state

    def _settle(
        self, state: TrainState, taken: "_Taken", clock: speed.Clock, progress: Progress
    ) -> None:
        """Looks at the guard of a step, which waits for it to finish, and logs it.

        If it tripped, `state` is still the state from before that step.
        """
        n, metrics = taken.n, taken.metrics
        # All numbers in one transfer, and only where they are shown.
        asked = metrics if taken.logs else {"finite": metrics["finite"]}
        with watch.spent(DEVICE):
            known = jax.device_get(dict(asked))
        if not bool(known.pop("finite")):
            self.checkpoints.save(state, taken.fed.before, self.settings, wait=True)
            raise record_nonfinite(self.workdir, n, taken.fed, metrics)
        clock.tick()
        if not taken.logs:
            return
        row = {name: float(value) for name, value in known.items()}
        rates = clock.read(
            examples=self.settings["batch_size"],
            remaining=self.train.steps - n,
            flops=taken.program.useful,
            computed=taken.program.computed,
        )
        about = {
            "peak_memory_bytes": speed.peak_memory(taken.program.run),
            "compiled_shapes": taken.shapes,
        }
        self.writer.write(n, {**row, **rates, **about, **self.goodput.read(n)})
        progress.remark = f"loss {row['loss']:.4g}"
        if self.refuse is not None:
            self.refuse(n, row)

    def _due(self, n: int) -> bool:
        """Whether the hooks are to see the state after step n."""
        every = self.train.eval_every
        return n == self.train.steps or (every > 0 and n % every == 0)

    def _evaluate(self, state: TrainState, n: int) -> tuple[bool, bool]:
        """Runs the hooks and logs what they return.

        Returns:
          Whether this is the best state so far, and whether the run is to end.
        """
        found: dict[str, Any] = {}
        for evaluate in self.evals:
            with watch.phase("evaluate"), self.goodput.spent("evaluate"):
                found |= evaluate(state, n)
        if found:
            self.writer.write(n, {f"eval/{k}": float(v) for k, v in found.items()})
        if self.stopping is None:
            return False, False
        before = self.stopping.best
        better = self.stopping.see(n, found)
        # The one before is kept until the new one is whole.
        steps = (before, self.stopping.best)
        self.checkpoints.protect([step for step in steps if step is not None])
        return better, self.stopping.exhausted
