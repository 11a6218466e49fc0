"""Reconstructions of the same k-space side by side: scored, mapped, shown, written.

What ``experiments.cmrxrecon`` does. Every series that the data describe is read,
undersampled by every mask, reconstructed by every method, and compared with what is
known of it; a page, ``evaluation.json`` and, if asked for, image files are left.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from medjax.mri import sense
from medjax.mri.acquisition_config import (
    Data,
    MaskConfig,
    TreeData,
    describe_data,
)
from medjax.mri.acquisitions import Acquisition, open_data
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
from medjax.mri.cmrxrecon.submission import submit
from medjax.mri.coil_preparation import CoilConfig, open_noise, prepare_coils
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
    several_sets,
)
from medjax.mri.published import open_checkpoints
from medjax.mri.writing import WriteFormat, listed, write_series
from medjax.progress import Progress, say
from medjax.report.run import save_evaluation

D = TypeVar("D", bound=Data)
_PROTOCOLS: Mapping[int, Protocol] = {2023: "2023", 2024: "2024", 2025: "2025"}


@dataclasses.dataclass(frozen=True)
class Comparison(Generic[D]):
    """One command; every field is a flag."""

    data: D
    """What is reconstructed."""
    mask: MaskConfig = MaskConfig()
    """How full k-space is undersampled."""
    coils: CoilConfig = CoilConfig()
    """What is done to the coils before anything else."""
    methods: tuple[Method, ...] = METHODS
    """Which reconstructions."""
    classical: ClassicalConfig = ClassicalConfig()
    """Settings of the classical reconstructions, and of the maps that all share."""
    learned: tuple[Path, ...] = ()
    """Folders of trained runs: their systems reconstruct beside the others."""
    checkpoints: tuple[Path, ...] = ()
    """Published weights of fastMRI's U-Net or VarNet or of PromptMR, as safetensors:
    which it is, and of what size, names and shapes of the tensors tell."""
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
    write: Path | None = None
    """Write images, coil maps, and T1 or T2 maps with standard errors, in here."""
    write_format: WriteFormat = "nifti"
    """Of those files; complex maps are magnitude and phase in NIfTI."""
    workdir: Path = Path("runs/cmrxrecon")
    """Folder of the run."""


def run(config: Comparison[Any]) -> dict[str, Any]:
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
    covariance = open_noise(config.coils)
    pending = open_data(config.data)
    rows: list[Row] = []
    masks: dict[str, None] = {}
    skipped: dict[str, str] = {}
    kept: list[Kept] = []
    written: list[Path] = []
    geometry = True
    with Progress("reconstruct", len(pending), "series") as progress:
        for label, read in pending:
            progress.advance(0, remark=label)
            acquisition = prepare_coils(read(), config.coils, covariance)
            for found in evaluate(acquisition, ready, config, skipped, progress):
                about = f"{found.series} {found.sampling}: {found.mask}"
                if about not in masks:
                    masks[about] = None
                    say(about)
                rows += found.rows
                if not any(found.is_like(other) for other in kept):
                    kept.append(found)
                if config.write_submission is not None:
                    submit(
                        acquisition,
                        found,
                        config.write_submission,
                        root=config.data.root,
                        ranking=is_ranking(config),
                    )
                if config.write is not None:
                    written += write_series(
                        config.write, config.write_format, acquisition, found
                    )
                    geometry &= acquisition.affine is not None
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
    if written:
        print(listed(written, geometry=geometry, kind=config.write_format))
    print(f"report: {page.resolve()}")
    return results


def check(config: Comparison[Any]) -> None:
    """Refuses what cannot work before anything is read.

    Raises:
      ValueError: naming the flag.
    """
    if not (config.methods or config.peers or config.learned or config.checkpoints):
        raise ValueError("methods is empty, expected one at least")
    if not config.mask.acceleration:
        raise ValueError("mask.acceleration is empty, expected one number at least")
    config.coils.check(config.mask.pattern)
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


def ready_methods(config: Comparison[Any]) -> dict[str, Reconstruct]:
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
    published = open_checkpoints(config.checkpoints)
    if twice := sorted(learned.keys() & published.keys()):
        raise ValueError(f"checkpoints: {twice} are runs already: rename the files")
    learned |= published
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
    sets = 1 if acquisition.maps is None else acquisition.maps.shape[1]
    if isinstance(method, Learned):
        reason = method.reason_against(acquisition)
        if reason is None and sets > 1:
            return several_sets(sets)
        return reason or (None if maps else no_centre(mask))
    frames, _, coils = acquisition.kspace.shape[:3]
    return reason_against(
        name, frames=frames, coils=coils, mask=mask, maps=maps, sets=sets
    )


def evaluate(
    acquisition: Acquisition,
    ready: Mapping[str, Reconstruct],
    config: Comparison[Any],
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
    reference = reference_of(acquisition)
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
        sampled = jnp.asarray(mask)
        seconds = reconstruct(acquisition, sampled, usable, config, found, progress)
        for name, images in found.images.items():
            found.maps[name] = fit_maps(images, acquisition)
            row = score(found, name, acquisition, config)
            row["seconds_per_slice"] = seconds[name]
            found.rows.append(row)
        yield found


def reconstruct(
    acquisition: Acquisition,
    mask: Bool[Array, "_t h _w"],
    usable: Mapping[str, Reconstruct],
    config: Comparison[Any],
    found: Kept,
    progress: Progress,
) -> dict[str, float]:
    """Slice by slice; images and coil maps go to ``found``.

    Returns:
      Seconds per slice of every method; NaN where nobody asked for them.
    """
    depth = acquisition.kspace.shape[1]
    images: dict[str, list[np.ndarray]] = {name: [] for name in usable}
    seconds = dict.fromkeys(usable, 0.0)
    coil_maps: list[np.ndarray] = []
    for index in range(depth):
        full = jnp.asarray(acquisition.kspace[:, index])
        kspace = sense.sample(full, mask)
        if acquisition.maps is not None:
            given = jnp.asarray(acquisition.maps[index])
            maps = given[0] if len(given) == 1 else given
        elif usable.keys() <= {"zero_filled"}:
            maps = jnp.ones_like(full[0])  # nobody looks at them
        else:
            maps = estimate_maps(kspace, mask, config.classical)
        for name, method in usable.items():
            remark = f"{acquisition.name} {found.sampling} {name}"
            progress.advance(0, remark=remark)
            images[name].append(np.asarray(method(kspace, mask, maps)))
            spent = [timed(method, kspace, mask, maps) for _ in range(config.repeats)]
            seconds[name] += min(spent, default=float("nan"))
        coil_maps.append(np.asarray(maps))
    for name, slices in images.items():
        found.images[name] = cropped(np.stack(slices, axis=1), acquisition.size)
    if not usable.keys() <= {"zero_filled"} or acquisition.maps is not None:
        stacked = np.stack(coil_maps)
        found.coil_maps = stacked if stacked.ndim == 5 else stacked[:, None]
    return {name: total / depth for name, total in seconds.items()}


def score(
    found: Kept, name: str, acquisition: Acquisition, config: Comparison[Any]
) -> Row:
    """A row of the table: what a method's images and map are worth."""
    protocol = protocol_of(config, acquisition)
    row: Row = {
        "name": acquisition.name,
        "series": acquisition.series,
        "sampling": found.sampling,
        "method": name,
        "protocol": protocol,
    }
    if found.reference is not None:
        row |= image_scores(
            found.images[name],
            found.reference,
            acquisition.series,
            protocol,
            ranking=is_ranking(config),
        )
    return row | relaxation_scores(
        found.maps[name], found.reference_maps, acquisition, config.aha_level
    )


def timed(method: Reconstruct, *arguments: Array) -> float:
    """Seconds that one reconstruction takes."""
    start = time.perf_counter()
    jax.block_until_ready(method(*arguments))
    return time.perf_counter() - start


def protocol_of(config: Comparison[Any], acquisition: Acquisition) -> Protocol:
    """Whose scores, if the flags leave it open."""
    if config.protocol is not None:
        return config.protocol
    if isinstance(config.data, TreeData):
        return _PROTOCOLS[config.data.edition]
    return "fastmri" if acquisition.reference_name == "the file's own" else "2023"


def is_ranking(config: Comparison[Any]) -> bool:
    """Whether the ranked part is what counts."""
    if config.crop is None:
        return isinstance(config.data, TreeData)
    return config.crop == "ranking"
