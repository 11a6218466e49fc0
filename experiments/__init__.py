"""One door per system, run as modules: ``python -m experiments`` lists them."""

import os
import sys

RANKS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "JAX_PROCESS_ID")


def greet() -> None:
    """Says a line before the seconds that JAX takes to load; one process of many."""
    # The name may stand behind -m as a word of its own, or not.
    words = (word.removeprefix("-m") for word in sys.orig_argv)
    door = next((word for word in words if word.startswith(f"{__name__}.")), None)
    others = any(os.environ.get(rank, "0") != "0" for rank in RANKS)
    if door is not None and not others:
        print(f"{door}: loading", file=sys.stderr, flush=True)


# What `python -m` sets while it looks for the module: nobody imports this by name then.
if sys.argv[0] == "-m" and not {"-h", "--help"} & set(sys.orig_argv):
    greet()
