"""Hosts that only ssh reaches: a file with one a line; one failure ends all."""

import shlex

from experiments.launch.job import TRIES, Job, again
from medjax.train.launch import COORDINATOR_PORT


def script(job: Job) -> str:
    """A script for the machine from which the run is started."""
    machine, file = job.machine, shlex.quote(job.hosts)
    remote = shlex.quote(f"cd {shlex.quote(job.folder)} && {job.command}")
    return f"""#!/bin/bash
# Starts the run on every host of a file, the first of which leads. If one fails the
# others are ended, and all are started again unless the fault is the run's own.
{job.remarks}mapfile -t hosts < <(grep -v '^[[:space:]]*$' {file})
count=${{#hosts[@]}}
if [ "$count" -ne {machine.hosts} ]; then
    echo {file}": $count hosts, expected the {machine.hosts} of {machine.name}" >&2
    exit 2
fi
port=${{PORT:-{COORDINATOR_PORT}}}

run() {{
    local pids=() i
    for i in "${{!hosts[@]}}"; do
        # -tt: a host whose connection is cut ends its process.
        ssh -tt "${{hosts[$i]}}" {remote}" --launch.coordinator ${{hosts[0]}}:$port \
            --launch.num-processes $count --launch.process-id $i" < /dev/null &
        pids+=($!)
    done
    trap 'kill -TERM "${{pids[@]}}" 2>/dev/null' TERM INT
    # Asked for by number: `wait -n` misses a host that ends before it is called.
    local status=0 one
    while [ "${{#pids[@]}}" -gt 0 ]; do
        sleep "${{POLL:-1}}" & wait $!
        for i in "${{!pids[@]}}"; do
            kill -0 "${{pids[$i]}}" 2>/dev/null && continue
            wait "${{pids[$i]}}"; one=$?
            unset "pids[$i]"
            # The first failure is the one to know; the others have a minute for theirs.
            if [ "$one" -ne 0 ] && [ "$status" -eq 0 ]; then
                status=$one
                (sleep "${{GRACE:-60}}"; kill -TERM "${{pids[@]}}") > /dev/null 2>&1 &
                disown $!
            fi
        done
    done
    return "$status"
}}

for try in $(seq {TRIES}); do
    run; status=$?
    case "$status" in
        {again()}|255) ;;  # asked to leave, left by another, or a host is gone
        *) exit "$status" ;;
    esac
done
exit "$status"
"""
