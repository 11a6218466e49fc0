"""Write a small tree that looks like CMRxRecon's.

``python -m experiments.fabricate_cmrxrecon --root somewhere --edition 2023``

For development without the challenge's data: a few megabytes in its exact layout.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from medjax.mri.cmrxrecon import fabricate


@dataclasses.dataclass(frozen=True)
class Config:
    """What to write.

    Attributes:
        root: Where the tree goes.
        edition: Which year's layout.
        patients: How many.
    """

    root: Path = Path("cmrxrecon_lookalike")
    edition: Literal[2023, 2024] = 2023
    patients: int = 2


def main(config: Config) -> None:
    """Write the tree and say what it holds."""
    files = fabricate(config.root, edition=config.edition, patients=config.patients)
    size = sum(path.stat().st_size for path in files) / 1e6
    print(f"{len(files)} files, {size:.1f} MB in {config.root}")


if __name__ == "__main__":
    main(tyro.cli(Config))
