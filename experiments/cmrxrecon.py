"""Reconstruct k-space, classically and with trained systems; score it, fit its maps.

``python -m experiments.cmrxrecon`` simulates two hearts. Real data::

    python -m experiments.cmrxrecon tree --data.root ChallengeData \\
        --mask.acceleration 4 8 10
    python -m experiments.cmrxrecon tree --data.root ChallengeData \\
        --data.subset ValidationSet --data.sampling 4 --methods low_rank_plus_sparse \\
        --write-submission submission
    python -m experiments.cmrxrecon file --data.path scan.mat --data.key ycart \\
        --data.maps-key smap --mask.acceleration 2 4 --mask.acs 16 --write images
    python -m experiments.cmrxrecon file --data.path ksp.npy --mask.pattern measured

``--learned runs/varnet-tiny`` adds what a run of ``experiments.varnet``,
``experiments.promptmr`` or ``experiments.latent_transformer`` has trained, under the
name of its folder. Series that the weights do not fit are skipped, and it is said why.
``--coils.noise`` whitens and ``--coils.compress`` combines the coils beforehand.

It prints what every mask really measures, and leaves ``evaluation.json`` and
``report.html`` in the run's folder; ``--write DIR`` writes images, coil maps, and T1 or
T2 maps with standard errors as NIfTI, npz or cfl.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Union

import tyro

from medjax.mri.acquisition_config import (
    Data,
    FileData,
    MaskConfig,
    PhantomData,
    TreeData,
)
from medjax.mri.comparison import Comparison, run
from medjax.train.ending import ends_in_words

KINDS: Mapping[str, type[Data]] = {
    "phantom": PhantomData,
    "tree": TreeData,
    "file": FileData,
}
"""Sub-commands and what they reconstruct."""
PHANTOM = Comparison(PhantomData(), MaskConfig(acceleration=(4, 8), acs=16))
"""What is done if nothing is said."""


def command(arguments: Sequence[str] | None = None) -> Comparison[Any]:
    """The command line as data: phantom (if nothing is said), tree or file."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in (*KINDS, "-h", "--help"):
        given = ["phantom", *given]
    commands: Any = Union[  # noqa: UP007 - built from a list
        tuple(
            Annotated[
                Comparison[kind],  # pyright: ignore[reportInvalidTypeForm]
                tyro.conf.subcommand(
                    name,
                    default=PHANTOM if name == "phantom" else tyro.MISSING_NONPROP,
                    description=kind.__doc__,
                ),
            ]
            for name, kind in KINDS.items()
        )
    ]
    return tyro.cli(
        commands,
        args=given,
        description=__doc__,
        prog="python -m experiments.cmrxrecon",
    )


@ends_in_words
def main(arguments: Sequence[str] | None = None) -> None:
    """Runs; a fault of data or flags ends with its message and status 1."""
    run(command(arguments))


if __name__ == "__main__":
    sys.exit(main())
