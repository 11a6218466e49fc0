"""What a folder of training was asked for: another request is refused, not mixed in."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medjax.data.boundary import DataError
from medjax.data.documents import read_json
from medjax.data.whole import whole

ASKED = "asked.json"


def check_asked(
    workdir: Path, asked: Mapping[str, Any], *, what: str, result: Path
) -> None:
    """Holds a folder to the settings it was started with, which it keeps beside it.

    For process 0 alone (:func:`medjax.train.agree.on_first`).

    Args:
      workdir: The folder.
      asked: All that decides what is learned, by flag; JSON-able.
      what: What is trained there, as a message says it.
      result: What exists when something was trained there.

    Raises:
      DataError: They differ, or the folder does not say them.
    """
    asked = json.loads(json.dumps(asked))
    path = workdir / ASKED
    if path.exists():
        kept = read_json(path, "record of what was asked for")
        changed = sorted(
            name for name in {*kept, *asked} if kept.get(name) != asked.get(name)
        )
        if changed:
            was = {name: kept.get(name) for name in changed}
            now = {name: asked.get(name) for name in changed}
            raise DataError(
                f"workdir: the {what} in {workdir} was trained with {was}, now {now}: "
                "use another workdir"
            )
    elif result.exists():
        raise DataError(
            f"workdir: {workdir} holds a {what} without {ASKED}, which says how it was "
            "trained: use another workdir"
        )
    else:
        with whole(path) as draft:
            draft.write_text(json.dumps(asked, indent=1, sort_keys=True))
