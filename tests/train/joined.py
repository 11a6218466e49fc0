"""A program of several processes that do nothing but wait for each other.

``python joined.py '{"process": 0, ...}'`` joins, and meets the others in a collective
again and again; at the third meeting the victim does what it is told.
"""

import json
import os
import signal
import sys
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from medjax.data.boundary import DataError
from medjax.train import agree, lock, watch
from medjax.train.ending import ends_in_words
from medjax.train.launch import LaunchConfig, launch


def suffer(what):
    """What befalls a process."""
    if what.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, what))
    elif what == "bug":
        raise AttributeError("nobody foresaw this")
    elif what == "hang":
        time.sleep(60)
    else:
        raise DataError(what)


def questions():
    """What processes can ask each other; on a line of their own."""

    def refuse():
        raise DataError("the first process found no file")

    answer = agree.on_first(lambda: jax.process_index(), what="who")
    words = agree.everyone(10 + jax.process_index(), what="words")
    try:
        agree.on_first(refuse, what="file")
    except DataError as error:
        refused = str(error)
    try:
        agree.on_first(lambda: 0, what=f"branch {jax.process_index()}")
        mixed = "no"
    except RuntimeError as error:
        mixed = str(error)
    mine = []
    shares = agree.divided(lambda i: mine.append(i) or i * i, 5, what="work", first=1)
    try:
        # Of the second process alone, and everyone's.
        agree.divided(lambda i: refuse() if i == 1 else i, 3, what="half")
    except DataError as error:
        refused += f", {error}"
    try:
        # Of a class that is not made again elsewhere: then it is told whose it is.
        agree.divided(lambda i: json.loads("{") if i == 1 else i, 2, what="third")
        strange = "no"
    except (ValueError, RuntimeError) as error:
        strange = str(error)
    told = [answer, words, refused, mixed, shares, mine, strange]
    print("agreed", json.dumps(told), flush=True)


@ends_in_words
def main():
    """Joins, asks, meets."""
    options = json.loads(sys.argv[1])
    launch(LaunchConfig(compile_cache=None, **options["launch"]))
    questions()
    if workdir := options.get("workdir"):
        lock.VISIBLE = 1.0
        os.chdir(options.get("cwd", "."))
        with lock.hold(workdir):
            print("held", flush=True)
    watch.moved("step", 0)
    for meeting in range(options.get("meetings", 1000)):
        if meeting == 3 and jax.process_index() == options.get("victim"):
            suffer(options["what"])
        multihost_utils.process_allgather(np.float32(meeting))
        watch.moved("step", meeting + 1)


if __name__ == "__main__":
    sys.exit(main())
