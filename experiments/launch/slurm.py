"""Slurm: one task a node, asked to leave in time, and queued again after that."""

import shlex

from experiments.launch.job import GRACE, Job, again, expect


def script(job: Job) -> str:
    """A script for ``sbatch``."""
    expect(job, "gpu", "slurm")
    return f"""#!/bin/bash
#SBATCH --job-name={job.name}
#SBATCH --nodes={job.machine.hosts}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={job.devices_per_host}
#SBATCH --exclusive
#SBATCH --time={job.hours}:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@{GRACE}
# Slurm tells this script {GRACE} s before it ends the job; every task is told from
# here, saves, and the job is queued again. So is one that lost a node (status 75).
{job.remarks}cd {shlex.quote(job.folder)} || exit 1
export XLA_PYTHON_CLIENT_MEM_FRACTION=.92
asked= tasks=
trap 'asked=1; [ -z "$tasks" ] || kill -TERM "$tasks"' TERM
srun --ntasks-per-node=1 --kill-on-bad-exit=1 \\
    {job.command} &
tasks=$!
# Told before there was anybody to tell.
[ -z "$asked" ] || kill -TERM "$tasks"
# A signal ends wait, not what is waited for.
wait "$tasks"; status=$?
while kill -0 "$tasks" 2>/dev/null; do wait "$tasks"; status=$?; done
case "$status" in
    {again()}) scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit "$status"
"""
