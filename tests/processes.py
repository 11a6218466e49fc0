"""Real processes for tests: started in a clean environment, waited for, never left."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def free_address() -> str:
    """An address of this host where a first process can listen."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def slurm_step(process: int, processes: int, port: str) -> dict[str, str]:
    """The variables that ``srun --ntasks-per-node 1`` sets for one of its tasks.

    Every node is this host, so that real processes meet.
    """
    told = {
        "JOB_ID": "4711",
        "STEP_NODELIST": "localhost",
        "STEP_NUM_NODES": processes,
        "NTASKS": processes,
        "STEP_NUM_TASKS": processes,
        "STEP_TASKS_PER_NODE": f"1(x{processes})",
        "PROCID": process,
        "NODEID": process,
        "LOCALID": 0,
    }
    variables = {f"SLURM_{name}": str(value) for name, value in told.items()}
    return {**variables, "JAX_COORDINATOR_PORT": port}


def start(
    arguments: Sequence[str],
    log: Path,
    *,
    variables: Mapping[str, str] | None = None,
):
    """Starts Python; its output goes to a file, so that no pipe fills.

    Args:
        arguments: of the interpreter.
        log: the file, in a folder that is made where it is missing.
        variables: more of the environment.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]),
        **(variables or {}),
    }
    with open(log, "w") as output:
        return subprocess.Popen(
            [sys.executable, *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ROOT,
        )


def finish(folder: Path, running: Sequence[subprocess.Popen], expected: list[int]):
    """Waits for all processes; their output is the message if a status is wrong."""
    try:
        statuses = [process.wait(timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    told = "\n".join(p.read_text() for p in sorted(folder.glob("*.log")))
    assert statuses == expected, told
