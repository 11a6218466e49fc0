"""Reconstruct k-space, classically and with trained systems; score it, fit its maps.

``python -m experiments.cmrxrecon`` simulates two hearts. Real data::

    python -m experiments.cmrxrecon tree --data.root ChallengeData \\
        --mask.acceleration 4 8 10
    python -m experiments.cmrxrecon tree --data.root ChallengeData \\
        --data.subset ValidationSet --data.sampling 4 --methods low_rank_plus_sparse \\
        --write-submission submission
    python -m experiments.cmrxrecon file --data.path scan.mat --data.key ycart \\
        --data.maps-key smap --mask.acceleration 2 4 --mask.acs 16
    python -m experiments.cmrxrecon file --data.path ksp.npy --mask.pattern measured

``--learned runs/varnet-tiny`` adds what a run of ``experiments.varnet``,
``experiments.promptmr`` or ``experiments.latent_transformer`` has trained, under the
name of its folder. Series that the weights do not fit are skipped, and it is said why.

It prints what every mask really measures, and leaves ``evaluation.json`` and
``report.html`` in the run's folder.
"""

import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, Union

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Bool

from medjax.data import mat73
from medjax.mri import sense
from medjax.mri.acquisitions import (
    Acquisition,
    Data,
    FileData,
    MaskConfig,
    PhantomData,
    TreeData,
    describe_data,
    open_data,
)
from medjax.mri.cmrxrecon import ranking_crop
from medjax.mri.cmrxrecon.report import Kept, report
from medjax.mri.cmrxrecon.scores import (
    AhaLevel,
    Protocol,
    Row,
    cropped,
    fit_maps,
    image_scores,
    leaderboard,
    reference_of,
    relaxation_scores,
    summarise,
    table,
)
from medjax.mri.learned import Learned, open_runs
from medjax.mri.masks import describe
from medjax.mri.methods import (
    METHODS,
    ClassicalConfig,
    Method,
    Reconstruct,
    estimate_maps,
    methods,
    no_centre,
    reason_against,
)
from medjax.progress import Progress, say
from medjax.report.run import save_evaluation
from medjax.train.ending import ends_in_words

D = TypeVar("D", bound=Data)


@dataclasses.dataclass(frozen=True)
class Run(Generic[D]):
    """One evaluation; every field is a flag."""

    data: D
    """What is reconstructed."""
    mask: MaskConfig = MaskConfig()
    """How full k-space is undersampled."""
    methods: tuple[Method, ...] = METHODS
    """Which reconstructions."""
    classical: ClassicalConfig = ClassicalConfig()
    """Settings of the classical reconstructions, and of the maps that all share."""
    learned: tuple[Path, ...] = ()
    """Folders of trained runs: their systems reconstruct beside the others."""
    peers: bool = False
    """Also run sigpy and pygrappa (the extra "peers") on the same data."""
    protocol: Protocol | None = None
    """Whose image scores: a year of the challenge, or fastMRI's per volume. Default:
    the tree's edition; fastmri where a file brings its own reference; else 2023."""
    crop: Literal["ranking", "none"] | None = None
    """Score whole images, or the part that the challenge's validation ranks (default
    for a tree); the latter is also what a submission holds."""
    aha_level: AhaLevel | None = None
    """Where the slices lie: adds the map errors of the AHA segments."""
    repeats: int = 0
    """Reconstruct so many times more to measure the time, of which the least counts."""
    write_submission: Path | None = None
    """Write the images as the challenge wants them, one tree per method, in here."""
    workdir: Path = Path("runs/cmrxrecon")
    """Folder of the run."""


KINDS: Mapping[str, type[Data]] = {
    "phantom": PhantomData,
    "tree": TreeData,
    "file": FileData,
}
"""Sub-commands and what they reconstruct."""
PHANTOM = Run(PhantomData(), MaskConfig(acceleration=(4, 8), acs=16))
"""What is done if nothing is said."""


def run(config: Run[Any]) -> dict[str, Any]:
    """Reconstructs, scores and reports.

    Args:
      config: the run.

    Returns:
      The evaluation, as in ``evaluation.json``.

    Raises:
      FileNotFoundError: where a folder or a file is missing.
      ValueError: for damaged files, impossible settings, and where no method at all
        can be used.
      ImportError: where peers are asked for and not installed.
    """
    check(config)
    config.workdir.mkdir(parents=True, exist_ok=True)  # before hours of work
    ready = ready_methods(config)
    pending = open_data(config.data)
    rows: list[Row] = []
    masks: dict[str, None] = {}
    skipped: dict[str, str] = {}
    kept: list[Kept] = []
    with Progress("reconstruct", len(pending), "series") as progress:
        for label, read in pending:
            progress.advance(0, remark=label)
            acquisition = read()
            for found in evaluate(acquisition, ready, config, skipped, progress):
                about = f"{found.series} {found.sampling}: {found.mask}"
                if about not in masks:
                    masks[about] = None
                    say(about)
                rows += found.rows
                if not any(found.is_like(other) for other in kept):
                    kept.append(found)
                if config.write_submission is not None:
                    submit(acquisition, found, config)
            progress.advance()
    if not rows:
        raise ValueError(f"no method can be used: {skipped}")
    official = isinstance(config.data, TreeData) and config.data.edition == 2023
    results = {
        "data": describe_data(config.data),
        "masks": list(masks),
        "reference": sorted({one.reference_name for one in kept}),
        "summary": summarise(rows),
        "leaderboard": leaderboard(rows, config.data.coils) if official else {},
        "learned": {
            name: one.describe()
            for name, one in ready.items()
            if isinstance(one, Learned)
        },
        "skipped": skipped,
        "scores": rows,
    }
    save_evaluation(config.workdir, results)
    print(f"\n{table(results['summary'])}")
    for name, why in skipped.items():
        print(f"skipped: {name}: {why}")
    page = report(results, kept).save(config.workdir / "report.html")
    print(f"report: {page.resolve()}")
    return results


def check(config: Run[Any]) -> None:
    """Refuses what cannot work before anything is read.

    Raises:
      ValueError: naming the flag.
    """
    if not (config.methods or config.peers or config.learned):
        raise ValueError("methods is empty, expected one at least")
    if not config.mask.acceleration:
        raise ValueError("mask.acceleration is empty, expected one number at least")
    if config.repeats < 0:
        raise ValueError(f"repeats={config.repeats}, expected 0 at least")
    if config.write_submission is not None:
        if not (isinstance(config.data, TreeData) and config.data.sampling):
            raise ValueError(
                "write_submission: is for the challenge's undersampled files: tree "
                "with --data.sampling"
            )
        if config.data.slices is not None:
            raise ValueError(
                "write_submission: needs whole series, without data.slices"
            )


def ready_methods(config: Run[Any]) -> dict[str, Reconstruct]:
    """All methods of a run by name: classical, peers', learned.

    Raises:
      FileNotFoundError: where a trained run is missing.
      ValueError: where one cannot be used, or has the name of another method.
      ImportError: where peers are asked for and not installed.
    """
    ready = {name: methods(config.classical)[name] for name in config.methods}
    if config.peers:
        from medjax.mri.peers import peers

        ready |= peers(config.classical)
    learned = open_runs(config.learned)
    if twice := sorted(ready.keys() & learned.keys()):
        raise ValueError(f"learned: {twice} are methods already: rename the folders")
    return {**ready, **learned}


def why_not(
    name: str,
    method: Reconstruct,
    acquisition: Acquisition,
    mask: Bool[np.ndarray, "_t h _w"],
) -> str | None:
    """Why a method cannot be used on a series under a mask, or None."""
    maps = acquisition.maps is not None
    if isinstance(method, Learned):
        return method.reason_against(acquisition) or (None if maps else no_centre(mask))
    frames, _, coils = acquisition.kspace.shape[:3]
    return reason_against(name, frames=frames, coils=coils, mask=mask, maps=maps)


def evaluate(
    acquisition: Acquisition,
    ready: Mapping[str, Reconstruct],
    config: Run[Any],
    skipped: dict[str, str],
    progress: Progress,
) -> Iterator[Kept]:
    """One series under each of its masks by every method.

    Args:
      acquisition: the series.
      ready: methods by name.
      config: the run.
      skipped: methods that a series does not allow are noted here.
      progress: told which method is at work.

    Yields:
      Images, maps and scores of one mask.
    """
    depth = acquisition.kspace.shape[1]
    reference = reference_of(acquisition)
    protocol = protocol_of(config, acquisition)
    ranking = is_ranking(config)
    reference_maps = fit_maps(reference, acquisition)
    for sampling, mask in acquisition.masks(config.mask).items():
        found = Kept(
            name=acquisition.name,
            series=acquisition.series,
            sampling=sampling,
            mask=str(describe(mask)),
            contrast=acquisition.contrast,
            times=acquisition.times,
            label=acquisition.label,
            reference=reference,
            reference_name=acquisition.reference_name,
            truth=acquisition.truth,
            reference_maps=reference_maps,
            transposed=acquisition.transposed,
        )
        usable = {}
        for name, method in ready.items():
            reason = why_not(name, method, acquisition, mask)
            if reason is None:
                usable[name] = method
            else:
                skipped[name] = reason
        if not usable:
            continue
        images = {name: [] for name in usable}
        seconds = dict.fromkeys(usable, 0.0)
        sampled = jnp.asarray(mask)
        for index in range(depth):
            full = jnp.asarray(acquisition.kspace[:, index])
            kspace = sense.sample(full, sampled)
            if acquisition.maps is not None:
                maps = jnp.asarray(acquisition.maps[index])
            elif usable.keys() <= {"zero_filled"}:
                maps = jnp.ones_like(full[0])  # nobody looks at them
            else:
                maps = estimate_maps(kspace, sampled, config.classical)
            for name, method in usable.items():
                progress.advance(0, remark=f"{acquisition.name} {sampling} {name}")
                images[name].append(np.asarray(method(kspace, sampled, maps)))
                spent = [
                    timed(method, kspace, sampled, maps) for _ in range(config.repeats)
                ]
                seconds[name] += min(spent, default=float("nan"))
        for name in usable:
            whole = cropped(np.stack(images[name], axis=1), acquisition.size)
            fitted = fit_maps(whole, acquisition)
            found.images[name], found.maps[name] = whole, fitted
            row: Row = {
                "name": acquisition.name,
                "series": acquisition.series,
                "sampling": sampling,
                "method": name,
                "protocol": protocol,
            }
            if reference is not None:
                row |= image_scores(
                    whole, reference, acquisition.series, protocol, ranking=ranking
                )
            row |= relaxation_scores(
                fitted, reference_maps, acquisition, config.aha_level
            )
            row["seconds_per_slice"] = seconds[name] / depth
            found.rows.append(row)
        yield found


def timed(method: Reconstruct, *arguments: Array) -> float:
    """Seconds that one reconstruction takes."""
    start = time.perf_counter()
    jax.block_until_ready(method(*arguments))
    return time.perf_counter() - start


def protocol_of(config: Run[Any], acquisition: Acquisition) -> Protocol:
    """Whose scores, if the flags leave it open."""
    if config.protocol is not None:
        return config.protocol
    if isinstance(config.data, TreeData):
        return "2023" if config.data.edition == 2023 else "2024"
    return "fastmri" if acquisition.reference_name == "the file's own" else "2023"


def is_ranking(config: Run[Any]) -> bool:
    """Whether the ranked part is what counts."""
    if config.crop is None:
        return isinstance(config.data, TreeData)
    return config.crop == "ranking"


def submit(acquisition: Acquisition, found: Kept, config: Run[TreeData]) -> None:
    """Writes ``img4ranking`` of every method at the place of the k-space file."""
    files = acquisition.files
    assert files is not None and config.write_submission is not None
    place = files.kspace.relative_to(config.data.root)
    for name, images in found.images.items():
        if is_ranking(config):
            series = jnp.asarray(images)
            images = np.asarray(ranking_crop(series, name=acquisition.series))
        path = config.write_submission / name / place
        path.parent.mkdir(parents=True, exist_ok=True)
        mat73.write(path, {"img4ranking": images.astype(np.float32)})


def command(arguments: Sequence[str] | None = None) -> Run[Any]:
    """The command line as data: phantom (if nothing is said), tree or file."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in (*KINDS, "-h", "--help"):
        given = ["phantom", *given]
    commands: Any = Union[  # noqa: UP007 - built from a list
        tuple(
            Annotated[
                Run[kind],  # pyright: ignore[reportInvalidTypeForm]
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
