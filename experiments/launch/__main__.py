"""Prints what starts a run elsewhere, and starts it again: a script, or a manifest.

Of an experiment with its flags behind ``--``::

    python -m experiments.launch slurm --topology h200-8x8 -- imitate paper
    python -m experiments.launch tpu-vm --topology v5p-512 -- imitate paper
    python -m experiments.launch gke-tpu --topology v6e-256x2 --spot -- imitate paper
    python -m experiments.launch gke-gpu --topology h100-4x8 -- varnet repo
    python -m experiments.launch ssh --topology cpu-1 --hosts hosts.txt -- convirt

``experiments.plan`` has the same topologies, and says what such a run needs. Where
machines may be taken away (``--spot``, and always ``tpu-vm``) it is asked how often to
save, which takes half a minute; ``--plan`` takes what it wrote before.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from experiments.launch import gke, slurm, spot, ssh, tpu_vm
from experiments.launch.job import Job
from medjax.train.ending import ends_in_words
from medjax.train.plan.topologies import topology

TEMPLATES: dict[str, Callable[[Job], str]] = {
    "slurm": slurm.script,
    "tpu-vm": tpu_vm.script,
    "gke-tpu": gke.tpu,
    "gke-gpu": gke.gpu,
    "ssh": ssh.script,
}


@ends_in_words
def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    at = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        prog="python -m experiments.launch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("template", choices=TEMPLATES)
    add("--topology", required=True, help="the machine, as experiments.plan names it")
    add("--folder", default=Job.folder, help="of the checkout on every host")
    add("--image", default=Job.image, help="container image; gke-tpu, gke-gpu")
    add("--zone", default=Job.zone, help="of Google's cloud; tpu-vm")
    add("--hosts", default=Job.hosts, help="file with a host a line; ssh")
    add("--hours", type=int, default=Job.hours, help="granted at once; slurm")
    add("--cluster", default=Job.cluster, help="as xpk knows it; gke-tpu")
    add("--spot", action="store_true", help="machines that may be taken away")
    add("--plan", type=Path, help="of experiments.plan, for --spot and tpu-vm")
    options = vars(parser.parse_args(words[:at]))
    name, written = options.pop("template"), options.pop("plan")
    taken = options.pop("spot") or name == "tpu-vm"
    if written is not None and not taken:
        raise ValueError("--plan says how often to save on --spot machines")
    machine = topology(options.pop("topology"))
    command = tuple(words[at + 1 :])
    if not command:
        raise ValueError("expected -- and an experiment with its flags at the end")
    job = Job(machine, command, **options)
    # What a template does not start is refused before it is planned.
    TEMPLATES[name](job)
    if taken:
        jax.config.update("jax_platforms", "cpu")
        job = spot.prepared(job, spot.planned(job, written))
    print(TEMPLATES[name](job), end="")


if __name__ == "__main__":
    sys.exit(main())
