"""TPU virtual machines on spot: a queued resource, and a loop that starts it again."""

import shlex

from experiments.launch.job import TRIES, Job, accelerator, again, expect

PORT = 8476
"""Where the first worker listens: among the ports (tcp 8470, 8471, 8474, 8476, 11211)
that the rule opens which Google's cloud makes with a TPU, and JAX's own until 0.8.0.
That of later ones, 8482, is closed there (github.com/jax-ml/jax, issue 35905)."""
RUNTIMES = {
    "v4": "tpu-ubuntu2204-base",
    "v5e": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}


def script(job: Job) -> str:
    """A script for a machine with ``gcloud``.

    Raises:
      ValueError: Not a TPU, or one that Google rents out otherwise.
    """
    expect(job, "tpu", "tpu-vm")
    machine = job.machine
    if machine.generation not in RUNTIMES:
        raise ValueError(
            f"topology: {machine.name} is not to be had as TPU VMs: take gke-tpu"
        )
    job = job.told("--launch.port", PORT)
    nodes = "" if machine.islands == 1 else f"--node-count {machine.islands} "
    named = "--node-prefix" if nodes else "--node-id"
    reach = "gcloud compute tpus tpu-vm ssh"
    if nodes:
        reach = "gcloud alpha compute tpus queued-resources ssh --node all"
    remote = shlex.quote(f"cd {shlex.quote(job.folder)} && {job.command}")
    return f"""#!/bin/bash
# Creates {machine.name} on spot, and keeps the run going there: a machine that was
# taken away is asked for again, and the same command goes on from the last checkpoint.
{job.remarks}name={job.name}
zone={job.zone}

create() {{
    gcloud compute tpus queued-resources create "$name" {named} "$name" {nodes}\\
        --accelerator-type {accelerator(job)} \\
        --runtime-version {RUNTIMES[machine.generation]} \\
        --zone "$zone" --spot
}}

state() {{
    gcloud compute tpus queued-resources describe "$name" --zone "$zone" \\
        --format 'value(state.state)' 2>/dev/null
}}

ready() {{
    while true; do
        case "$(state)" in
            ACTIVE) return ;;
            SUSPENDED|FAILED)
                gcloud compute tpus queued-resources delete "$name" --zone "$zone" \\
                    --force --quiet ;;
            "") create ;;
        esac
        sleep "${{WAIT:-60}}"
    done
}}

everywhere() {{
    {reach} "$name" --zone "$zone" --worker all --command "$1"
}}

# The first worker listens at {job.given("--launch.port")}. Google's own rule lets the
# others through to {PORT}.
for try in $(seq {TRIES}); do
    ready
    everywhere {remote}
    status=$?
    case "$status" in
        {again()}|255) ;;  # asked to leave, left by another, or the machine is gone
        *) exit "$status" ;;
    esac
done
exit "$status"
"""
