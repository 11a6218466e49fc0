"""Write a small tree that looks like CMRxRecon's.

``python -m experiments.prepare lookalike --root somewhere --edition 2023``

For development without the challenge's data: a few megabytes in its exact layout, of
ellipses or of the Bloch-simulated heart (breathing, noise, a diseased sector).
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import tyro

from medjax.mri.cmrxrecon import fabricate
from medjax.mri.cmrxrecon.layout import Edition
from medjax.mri.cmrxrecon.lookalike import SHAPES, Scan, ellipse_scan
from medjax.mri.phantom import PhantomConfig, cardiac_phantom
from medjax.train.ending import ends_in_words


@dataclasses.dataclass(frozen=True)
class Config:
    """What to write.

    Attributes:
        root: Where the tree goes.
        edition: Which year's layout.
        patients: How many.
        phantom: Ellipses with exact exponentials, or the Bloch simulation.
    """

    root: Path = Path("cmrxrecon_lookalike")
    edition: Edition = 2023
    patients: int = 2
    phantom: Literal["ellipses", "bloch"] = "bloch"


def bloch_scan(name: str, patient: int) -> Scan:
    """The Bloch phantom as one patient's series; slices are anatomies of their own."""
    _, depth, coils, h, w = SHAPES[name]
    config = PhantomConfig(
        sequence="t1" if name == "T1map" else "t2",
        height=h,
        width=w,
        readout_oversampling=2.0,
        coils=coils,
        breathing=0.5,
        noise=0.002,
    )
    key = jax.random.key(patient)
    scan = jax.jit(functools.partial(cardiac_phantom, config))
    slices = [scan(key=jax.random.fold_in(key, level)) for level in range(depth)]
    return Scan(
        kspace=np.stack([1e-4 * np.asarray(s.kspace) for s in slices], axis=1),
        times=np.asarray(slices[0].times, np.float64),
        labels=np.stack([np.asarray(s.label) for s in slices]),
    )


@ends_in_words
def main(arguments: Sequence[str] | None = None) -> None:
    """Write the tree and say what it holds."""
    config = tyro.cli(
        Config,
        args=arguments,
        description=__doc__,
        prog="python -m experiments.prepare lookalike",
    )
    files = fabricate(
        config.root,
        edition=config.edition,
        patients=config.patients,
        series=bloch_scan if config.phantom == "bloch" else ellipse_scan,
    )
    size = sum(path.stat().st_size for path in files) / 1e6
    print(f"{len(files)} files, {size:.1f} MB in {config.root}")
