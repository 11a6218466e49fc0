"""What every template is told: the machine, the command, and how a run ends.

A run that was asked to leave ends with status 143, one that another process left with
75 (:mod:`medjax.train.watch`); both are started again by the same command, which goes
on from the last checkpoint. Every other failure stays one.
"""

import dataclasses
import shlex

from medjax.train.plan.topologies import Topology

TYPES = {"v4": "v4", "v5e": "v5litepod", "v5p": "v5p", "v6e": "v6e", "tpu7x": "tpu7x"}
"""What Google's tools call a generation of TPUs."""
AGAIN = (143, 75)
"""Statuses after which the same command goes on."""
TRIES = 50
"""Starts of one run at the most."""
GRACE = 120
"""Seconds between being asked to leave and being ended."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A run on a machine.

    Attributes:
      machine: Where.
      words: The experiment, its preset and its flags.
      folder: Of the checkout on every host.
      image: Container image; for Kubernetes.
      zone: Of Google's cloud.
      hosts: File with a host a line; for ssh.
      hours: Wall time that a scheduler grants at once.
      spot: Whether the machine may be taken away at any time, for less money.
      cluster: Of Kubernetes, as xpk knows it.
      notes: What the head of the script or manifest says of the run, a line each.
    """

    machine: Topology
    words: tuple[str, ...]
    folder: str = "medjax"
    image: str = "medjax:latest"
    zone: str = "us-east5-a"
    hosts: str = "hosts.txt"
    hours: int = 24
    spot: bool = False
    cluster: str = "CLUSTER"
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the job: experiment and preset, in what Kubernetes takes for a name."""
        parts = [self.words[0], *self.words[1:2]]
        told = "-".join(p for p in parts if not p.startswith("-"))
        return "".join(c if c.isalnum() else "-" for c in told.lower()).strip("-")

    @property
    def command(self) -> str:
        """That every process runs."""
        experiment, *flags = self.words
        return shlex.join(["python", "-m", f"experiments.{experiment}", *flags])

    def given(self, flag: str) -> str | None:
        """What the command says after a flag, or None."""
        for word, following in zip(self.words, (*self.words[1:], None), strict=True):
            name, _, value = word.partition("=")
            if name.replace("_", "-") == flag:
                return value or following
        return None

    def told(self, flag: str, value: object) -> "Job":
        """The same with a flag that the command does not say otherwise."""
        if self.given(flag) is not None:
            return self
        return dataclasses.replace(self, words=(*self.words, flag, str(value)))

    @property
    def remarks(self) -> str:
        """The notes as comments."""
        return "".join(f"# {note}\n" for note in self.notes)

    @property
    def hosts_per_island(self) -> int:
        """Hosts of a slice; 1 of GPUs."""
        return self.machine.hosts // self.machine.islands

    @property
    def devices_per_host(self) -> int:
        """Chips or GPUs of a host."""
        return self.machine.chips // self.machine.hosts


def expect(job: Job, platform: str, template: str) -> None:
    """Refuses a machine that a template is not for.

    Raises:
      ValueError: Naming both.
    """
    if job.machine.platform != platform:
        raise ValueError(
            f"topology: {job.machine.name} is no {platform.upper()}, which {template} "
            "starts"
        )


def accelerator(job: Job) -> str:
    """A slice's type as Google's tools name it, such as ``v5litepod-16``."""
    machine = job.machine
    size = machine.name.split("-")[1].split("x")[0]
    return f"{TYPES[machine.generation]}-{size}"


def again() -> str:
    """The statuses as a pattern of a shell's ``case``."""
    return "|".join(map(str, AGAIN))
