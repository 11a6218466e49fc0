"""A hub that is folders on this machine, of which only what is asked for arrives."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from medjax.weights import files


def hub(
    patch: pytest.MonkeyPatch, repositories: Mapping[str, Path], cache: Path
) -> None:
    """Takes the place of the hub.

    Args:
      patch: of the test.
      repositories: folders by id.
      cache: where fetched files lie.
    """

    def fetch(repository: str, name: str, revision: str | None) -> Path | None:
        held = repositories[repository] / name
        if not held.is_file():
            return None
        copy = cache / repository / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(held, copy))

    patch.setattr(files, "_fetch", fetch)
