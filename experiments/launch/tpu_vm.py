"""TPU virtual machines on spot: a queued resource, and a loop that starts it again."""

import shlex

from experiments.launch.job import TRIES, Job, again, expect
from medjax.train.launch import COORDINATOR_PORT

TYPES = {"v4": "v4", "v5e": "v5litepod", "v5p": "v5p", "v6e": "v6e"}
RUNTIMES = {
    "v4": "tpu-ubuntu2204-base",
    "v5e": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}


def script(job: Job) -> str:
    """A script for a machine with ``gcloud``."""
    expect(job, "tpu", "tpu-vm")
    machine = job.machine
    size = machine.name.split("-")[1].split("x")[0]
    kind = f"{TYPES[machine.generation]}-{size}"
    nodes = "" if machine.islands == 1 else f"--node-count {machine.islands} "
    named = "--node-prefix" if nodes else "--node-id"
    reach = "gcloud compute tpus tpu-vm ssh"
    if nodes:
        reach = "gcloud alpha compute tpus queued-resources ssh --node all"
    remote = shlex.quote(f"cd {shlex.quote(job.folder)} && {job.command}")
    return f"""#!/bin/bash
# Creates {machine.name} on spot, and keeps the run going there: a machine that was
# taken away is asked for again, and the same command goes on from the last checkpoint.
name={job.name}
zone={job.zone}

create() {{
    gcloud compute tpus queued-resources create "$name" {named} "$name" {nodes}\\
        --accelerator-type {kind} --runtime-version {RUNTIMES[machine.generation]} \\
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

# The first worker listens at {COORDINATOR_PORT}: a firewall has to let others through.
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
