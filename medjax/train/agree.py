"""One process decides, all follow.

A collective waits for every process. Whether one is entered must therefore never depend
on what a process finds on its own disk: one that sees a file a moment later than the
others, or not at all, takes the other branch, and all wait for ever. Process 0 looks,
decides and writes; what it found, or the error it met, is everyone's. Answers travel
through the store of the coordination service, not through a device: an error can be
told where no program is compiled yet, and waiting costs no timeout of a network card.
"""

import builtins
import importlib
import itertools
import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax._src import distributed

T = TypeVar("T")

PATIENCE_MS = 10_000
"""One wait for an answer; a preparation may take hours, so it is waited for again."""

_asked = itertools.count()
"""Numbers the questions of a process; all processes ask them in the same order."""


def coordination_client() -> Any:
    """The store through which the processes of a run speak to each other.

    Raises:
      ValueError: If there are several processes and no store: JAX can find the chips of
        a whole TPU pod without `jax.distributed`.
    """
    # Not exported; orbax and multihost_utils reach the same client this way.
    client: Any = distributed.global_state.client
    if client is None:
        raise ValueError(
            f"launch: {jax.process_count()} processes run together, but have not "
            "joined: call medjax.train.launch() before anything touches a device, "
            "without --launch.distributed off"
        )
    return client


def on_first(decide: Callable[[], T], *, what: str) -> T:
    """Lets process 0 decide; every process gets its answer. All have to call this.

    Args:
      decide: Looks, writes or computes; runs on process 0 alone. Its answer is what
        JSON can hold.
      what: The question, in words, for errors.

    Returns:
      The answer, after JSON where there are several processes.

    Raises:
      Exception: What `decide` raised, on every process.
      RuntimeError: If the processes are not at the same question.
    """
    if jax.process_count() == 1:
        return decide()
    client, key = coordination_client(), f"medjax/agree/{next(_asked)}"
    if jax.process_index() == 0:
        try:
            answer = decide()
        except Exception as error:
            client.key_value_set(key, json.dumps({"what": what, **_told(error)}))
            raise
        client.key_value_set(key, json.dumps({"what": what, "answer": answer}))
        return answer
    return _answer(json.loads(_wait(client, key)), what)


def everyone(value: T, *, what: str) -> list[T]:
    """What every process has to say, on every process. All have to call this.

    Args:
      value: This process's word: what JSON can hold.
      what: The question, in words, for errors.

    Returns:
      The words, by process.

    Raises:
      RuntimeError: If the processes are not at the same question.
    """
    if jax.process_count() == 1:
        return [value]
    client, key = coordination_client(), f"medjax/agree/{next(_asked)}"
    client.key_value_set(
        f"{key}/{jax.process_index()}", json.dumps({"what": what, "answer": value})
    )
    return [
        _answer(json.loads(_wait(client, f"{key}/{process}")), what)
        for process in range(jax.process_count())
    ]


def divided(
    work: Callable[[int], T], count: int, *, what: str, first: int = 0
) -> list[T]:
    """Numbered pieces of work, each done by one process. All have to call this.

    Args:
      work: Does one piece; its answer is what JSON can hold.
      count: How many there are; every process has to say the same number.
      what: The work, in words, for errors.
      first: The piece that process 0 begins with; the next one is process 1's, and so
        on, around.

    Returns:
      The answers in the order of the pieces, on every process.

    Raises:
      Exception: What `work` raised anywhere, on every process.
      RuntimeError: If the processes are not at the same question.
    """
    if jax.process_count() == 1:
        return [work(piece) for piece in range(count)]
    client, key = coordination_client(), f"medjax/agree/{next(_asked)}"
    processes, me = jax.process_count(), jax.process_index()
    failure: Exception | None = None
    try:
        mine = [p for p in range(count) if (p - first) % processes == me]
        word: dict[str, Any] = {"answer": [[piece, work(piece)] for piece in mine]}
    except Exception as error:
        word, failure = _told(error), error
    client.key_value_set(f"{key}/{me}", json.dumps({"what": what, **word}))
    if failure is not None:
        raise failure
    words = [_wait(client, f"{key}/{process}") for process in range(processes)]
    done = dict(pair for word in words for pair in _answer(json.loads(word), what))
    return [done[piece] for piece in range(count)]


def _wait(client: Any, key: str) -> str:
    """The text under a key, as soon as it is there."""
    while True:
        try:
            return client.blocking_key_value_get(key, PATIENCE_MS)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def _told(error: Exception) -> dict[str, Any]:
    """An error as JSON, and whose it is."""
    kind, text = type(error), str(error)
    told = {"module": kind.__module__, "name": kind.__qualname__, "text": text}
    return {"process": jax.process_index(), **told}


def _answer(told: dict[str, Any], what: str) -> Any:
    """What was told, or the error that was.

    Raises:
      Exception: As told: of the same class where it can be made from its text.
      RuntimeError: If the answer is to another question.
    """
    if told["what"] != what:
        raise RuntimeError(
            f"processes take different branches: process {jax.process_index()} asks "
            f"{what!r} where another is at {told['what']!r}"
        )
    if "answer" in told:
        return told["answer"]
    module, name, text = told["module"], told["name"], told["text"]
    if module == "builtins" or module.startswith("medjax."):
        home = builtins if module == "builtins" else importlib.import_module(module)
        kind = getattr(home, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                raise kind(text)
            except TypeError:  # of more than a text
                pass
    raise RuntimeError(f"process {told['process']}: {name}: {text}")
