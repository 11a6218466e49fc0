"""What every template is told: the machine, the command, and how a run ends.

A run that was asked to leave ends with status 143, one that another process left with
75 (:mod:`medjax.train.watch`); both are started again by the same command, which goes
on from the last checkpoint. Every other failure stays one.
"""

import dataclasses
import shlex

from medjax.train.plan.topologies import Topology

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
    """

    machine: Topology
    words: tuple[str, ...]
    folder: str = "medjax"
    image: str = "medjax:latest"
    zone: str = "us-east5-a"
    hosts: str = "hosts.txt"
    hours: int = 24

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


def again() -> str:
    """The statuses as a pattern of a shell's ``case``."""
    return "|".join(map(str, AGAIN))
