"""Short runs of the tiny system in this process, and what tests ask of them."""

import jax
import numpy as np

from medjax import train
from tests.train.tiny import Stream, init, loss

OPTIMIZER = train.OptimizerConfig(lr=1e-2)


def run(workdir, steps=6, *, loss=loss, data=None, optimizer=OPTIMIZER, **options):
    """A short run that logs every step; loop settings and `fit` options alike."""
    names = train.TrainConfig.__dataclass_fields__
    loop = {k: options.pop(k) for k in list(options) if k in names}
    return train.fit(
        init,
        loss,
        data or Stream(),
        workdir=workdir,
        optimizer=optimizer,
        train=train.TrainConfig(steps=steps, **{"log_every": 1, **loop}),
        **options,
    )


def curve(workdir, name="loss"):
    rows = [row for row in train.read_metrics(workdir) if name in row]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row[name] for row in rows]


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
