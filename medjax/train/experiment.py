"""One run of any experiment: the flags that all have, and from command line to status.

An experiment is presets and one call: its configuration extends :class:`Experiment`,
and ``main(presets, run, __doc__)`` parses the preset's name and flags, joins the other
processes, runs, and ends bad input with one sentence (:mod:`medjax.train.ending`).
"""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import jax
import tyro
from jax.sharding import Mesh

from medjax.progress import say
from medjax.train.agree import on_first
from medjax.train.checkpoint import load_variables
from medjax.train.ending import ends_in_words
from medjax.train.launch import LaunchConfig, launch
from medjax.train.leaving import conclude
from medjax.train.lock import hold
from medjax.train.log import import_wandb
from medjax.train.loop import fit
from medjax.train.mesh import MeshConfig
from medjax.train.mirror import mirrored
from medjax.train.optimizer import OptimizerConfig
from medjax.train.record import RECORD
from medjax.train.settings import TrainConfig
from medjax.train.sharding import on_host, replicated
from medjax.train.state import TrainState
from medjax.train.stopping import best_step
from medjax.train.storage import (
    Folder,
    bring_logs,
    is_remote,
    keep_rest,
    local_folder,
    run_folder,
)
from medjax.train.system import System
from medjax.train.unison import check_flags
from medjax.typing import Variables

E = TypeVar("E", bound="Experiment")


class Record(Protocol):
    """What a run says of itself (:mod:`medjax.train.record`)."""

    def save(self, workdir: Path, /) -> None:
        """Writes ``system.json`` into a folder."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What every run has; a domain adds its system, data and evaluation.

    Attributes:
      contents: What the domain leaves in the run's folder, by name, for people.
      uses: How an ability of a trained system is used, by its name in `System.apply`;
        ``{run}`` stands for the folder in a command, ``{path}`` in Python.
    """

    contents: ClassVar[Mapping[str, str]] = {}
    uses: ClassVar[Mapping[str, str]] = {}

    about: tyro.conf.Suppress[str]
    """What this is, in a line."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Update rule and schedule."""
    train: TrainConfig = TrainConfig()
    """Length of the run, and what happens how often."""
    epochs: float | None = None
    """Length of the run in passes over the training data; overrides train.steps."""
    warmup_fraction: float | None = None
    """Share of the run with rising learning rate; overrides optimizer.warmup-steps."""
    restart_fraction: float | None = None
    """Share of the run until the first warm restart; overrides
    optimizer.restart-period."""
    mesh: MeshConfig = MeshConfig()
    """How devices are arranged."""
    launch: LaunchConfig = LaunchConfig()
    """How processes find each other."""
    workdir: Path
    """Folder of the run, or gs:// address of its checkpoints, logs and, at its end, all
    else that it leaves; the same command on the same folder resumes."""
    store: tyro.conf.Suppress[str | None] = None
    """Where an address was given as workdir: that; the workdir is then a folder of this
    machine."""
    mirror: str | None = None
    """Address of a copy that is kept of that folder, and that an empty one is brought
    back from: s3://bucket/run, gs://bucket/run."""

    @property
    def stored(self) -> Folder:
        """Where checkpoints and logs are: in the workdir, or its like at an address."""
        if self.store is None:
            return self.workdir
        address = run_folder(self.store)
        below = self.workdir.relative_to(local_folder(address)).parts
        return address.joinpath(*below)

    def bring_logs(self) -> None:
        """Brings the logs of a training into the workdir; for all processes."""
        if self.store is not None:
            on_first(lambda: bring_logs(self.stored, self.workdir), what="logs")

    def with_data(self: E, **changes: Any) -> E:
        """The same run on other data."""
        data: Any = getattr(self, "data")  # noqa: B009 - a domain's own field
        return dataclasses.replace(self, data=dataclasses.replace(data, **changes))

    def resolved(
        self, *, rows: int, batch_size: int, frozen: Sequence[str] = ()
    ) -> tuple[OptimizerConfig, TrainConfig]:
        """Epochs and fractions as numbers of steps.

        Args:
          rows: Of the training data.
          batch_size: Of the global batch.
          frozen: Expressions of what the system itself does not train.

        Returns:
          The update rule with all that is frozen, and the length.
        """
        optimizer, train = self.optimizer, self.train
        if self.epochs is not None:
            steps = max(1, round(self.epochs * (rows // batch_size)))
            train = dataclasses.replace(train, steps=steps)
        if self.warmup_fraction is not None:
            warmup = round(self.warmup_fraction * train.steps)
            optimizer = dataclasses.replace(optimizer, warmup_steps=warmup)
        if self.restart_fraction is not None:
            period = max(1, round(self.restart_fraction * train.steps))
            optimizer = dataclasses.replace(optimizer, restart_period=period)
        frozen = (*optimizer.frozen, *frozen)
        return dataclasses.replace(optimizer, frozen=frozen), train

    def fit(
        self,
        system: System,
        data: Any,
        *,
        rows: int,
        batch_size: int,
        mesh: Mesh,
        **options: Any,
    ) -> TrainState:
        """Trains a system, or goes on training it, in the run's folder.

        Args:
          system: What is trained.
          data: Batches, as `medjax.train.loop.fit` takes them.
          rows: Of the training data.
          batch_size: Of the global batch.
          mesh: The devices.
          **options: Of `medjax.train.loop.fit`.

        Returns:
          The state after the last step.
        """
        optimizer, train = self.resolved(
            rows=rows, batch_size=batch_size, frozen=system.frozen
        )
        state = fit(
            system.init,
            system.loss,
            data,
            workdir=self.stored,
            optimizer=optimizer,
            train=train,
            mesh=mesh,
            config=self,
            **options,
        )
        self.bring_logs()
        return state

    def fit_recorded(
        self,
        describe: Callable[[], Record],
        system: System,
        data: Any,
        *,
        mesh: Mesh,
        **options: Any,
    ) -> Variables:
        """Trains as `fit`, and leaves ``system.json`` beside the checkpoints.

        Args:
          describe: What the run says of itself; asked once, in one process.
          system: What is trained.
          data: Batches.
          mesh: The devices.
          **options: Of `fit`.

        Returns:
          The weights (averaged, if asked for) on this process's first device: after the
          last step, or where ``stopping`` is given those that validation chose.
        """
        described = functools.cache(describe)

        def record() -> None:
            if not (self.workdir / RECORD).exists():
                described().save(self.workdir)

        on_first(record, what="record of the system")
        state = self.fit(system, data, mesh=mesh, **options)
        # Also where a run went on with other settings.
        on_first(lambda: described().save(self.workdir), what="record, again")
        variables, stopping = state.averaged_variables, options.get("stopping")
        if stopping is not None:
            step = on_first(
                lambda: best_step(self.stored, stopping), what="best checkpoint"
            )
            say(f"kept: the state after step {step}, by validation")
            variables = load_variables(
                self.stored, step=step, sharding=replicated(mesh)
            )
        return jax.device_put(on_host(variables, mesh))


def command(
    presets: Mapping[str, E],
    about: str | None,
    arguments: Sequence[str] | None = None,
) -> E:
    """The command line as a configuration: preset name first, then flags.

    Args:
      presets: Configurations by name; ``tiny`` is what no name means.
      about: What ``--help`` says of the experiment.
      arguments: The command line; default this process's.

    Returns:
      The chosen preset with the flags' changes.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in (*presets, "-h", "--help"):
        given = ["tiny", *given]
    return tyro.extras.overridable_config_cli(
        {name: (preset.about, preset) for name, preset in presets.items()},
        args=given,
        prog=f"python -m {door()}",
        description=f"{about}\nNo preset means tiny.",
    )


def door() -> str:
    """The module that is run."""
    return f"experiments.{Path(sys.argv[0]).stem}"


def with_folder(config: E) -> E:
    """The same run; where its workdir is an address, with a folder of this machine."""
    if not is_remote(folder := run_folder(config.workdir)):
        return config
    return dataclasses.replace(
        config, workdir=local_folder(folder), store=os.fspath(folder)
    )


@ends_in_words
def main(
    presets: Mapping[str, E], run: Callable[[E], object], about: str | None
) -> None:
    """Parses the command line, joins the other processes, and runs.

    Args:
      presets: Configurations by name; ``tiny`` is what no name means.
      run: Trains, evaluates and reports.
      about: What ``--help`` says of the experiment.

    Returns:
      The status of the process.
    """
    config = command(presets, about)
    if config.train.wandb is not None:
        import_wandb()
    config = with_folder(config)
    launch(config.launch)
    check_flags(config)
    with hold(config.stored), mirrored(config.stored, config.mirror):
        run(config)

        def end() -> None:
            conclude(
                config.workdir,
                about=config.about,
                command=["python", "-m", door(), *sys.argv[1:]],
                contents=config.contents,
                uses=config.uses,
                store=config.store,
            )
            if config.store is not None:
                keep_rest(config.workdir, config.stored)
                say(f"and at {config.store}")

        on_first(end, what="what the run leaves")
