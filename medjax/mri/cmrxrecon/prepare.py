"""From the challenge's tree to prepared sets, one per shape.

Patients differ in matrix size, so series cannot be batched as they come. Slices are
sorted into buckets of equal shape, and each bucket becomes an ArrayRecord set of its
own (``medjax.data.records``), with a row per slice: fully sampled k-space, sensitivity
maps, times and segmentation. Undersampling happens later, on the device. Reading a row
back costs a copy; opening the original files would mean decompressing all slices.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from medjax.data.ledger import Ledger
from medjax.data.record_writer import write_records
from medjax.data.records import Field, read_metadata
from medjax.mri.cmrxrecon.layout import Edition, SeriesFiles, find
from medjax.mri.cmrxrecon.reader import Slice, read_slice, shape_of
from medjax.mri.coils import inati_maps, low_resolution
from medjax.progress import Progress

Bucket = tuple[int, int, int, int]
"""Frames, coils, ky and kx of the slices of one set."""
SKIPPED = "skipped.csv"
"""The list of files left out for a fault, in the folder of every set."""


def prepare(
    root: str | Path,
    folder: str | Path,
    *,
    name: str,
    split: Mapping[str, Sequence[str]],
    edition: Edition = 2023,
    coils: Literal["MultiCoil", "SingleCoil"] = "MultiCoil",
    acs: int = 24,
    ledger: Ledger | None = None,
    overwrite: bool = False,
) -> dict[Bucket, Path]:
    """Write the fully sampled slices of one kind of series, sorted by shape.

    Rows hold ``kspace`` complex64 ``t c h w``, ``sensitivities`` complex64 ``c h w``
    (Inati's, from the central lines of the first frame), ``times`` float32 ``t`` (NaN
    for series without), ``label`` int32 ``h w`` (-1 where there is none), ``patient``
    and ``slice``. A set appears when it is complete; those that an earlier call
    finished with the same settings are kept, so that a call that was stopped goes on.

    Args:
        root: the challenge's tree.
        folder: where the sets will lie, e.g. ``folder/t1map_9x10x144x512``.
        name: ``T1map``, ``T2map``, ``cine_sax``, ...
        split: split name to patients; patients in none are left out.
        edition: 2023, 2024 or 2025.
        coils: multi- or single-coil.
        acs: central lines the maps are estimated from.
        ledger: counts slices; says whether a damaged file stops the preparation or is
            left out and listed. By default it stops.
        overwrite: replace finished sets.

    Returns:
        Bucket to its folder; ``RecordSource(path, "train")`` reads one.

    Raises:
        DataError: for a damaged file (a ``ValueError``).
        FileExistsError: for a finished set that was made with other settings.
        FileNotFoundError: where the tree lacks such series.
        ValueError: where no patient of the tree is in the split, or nothing is left.
    """
    ledger = ledger or Ledger()
    where = {patient: s for s, patients in split.items() for patient in patients}
    every = find(root, name=name, edition=edition, coils=coils)
    files = ledger.keep(
        f"{name} of a patient in the split", every, lambda f: f.patient in where
    )
    if not files:
        raise ValueError(f"split: no patient of {root} is in {sorted(split)}")
    buckets = _by_shape(files, ledger)
    if not buckets:
        raise ValueError(f"root: no {name} of {root} can be read; {ledger.summary()}")
    written = {}
    for bucket, slices in sorted(buckets.items()):
        place = Path(folder) / f"{name.lower()}_{'x'.join(map(str, bucket))}"
        request = {
            "edition": edition,
            "coils": coils,
            "acs": acs,
            "rows": [[where[f.patient], f.patient, depth] for f, depth in slices],
        }
        written[bucket] = place
        if place.exists() and not overwrite:
            if read_metadata(place).get("request") != request:
                raise FileExistsError(
                    f"{place} was prepared with other settings or patients: choose "
                    "another folder, or overwrite it"
                )
            ledger.log(f"{place}: already prepared")
            continue
        title = re.sub(r"\W", "_", f"cmrxrecon_{edition}_{name}").lower()
        with write_records(
            place, name=title, fields=_fields(bucket), overwrite=overwrite
        ) as writer:
            total = sum(depth for _, depth in slices)
            with Progress(place.name, total, "slices") as progress:
                for one, index in _readable(slices, ledger):
                    row = _row(one, index, min(acs, bucket[2]))
                    writer.add(where[one.patient], row)
                    progress.advance()
            ledger.write_skipped(writer.folder / SKIPPED)
            writer.metadata.update(
                edition=edition, coils=coils, acs=acs, request=request
            )
        counts = read_metadata(place)["splits"]
        told = ", ".join(f"{part} {count}" for part, count in counts.items())
        ledger.log(f"{place.name}: slices {told}")
    return written


def _by_shape(
    files: Iterable[SeriesFiles], ledger: Ledger
) -> dict[Bucket, list[tuple[SeriesFiles, int]]]:
    """Files and their numbers of slices, in buckets of equal shape."""
    buckets: dict[Bucket, list[tuple[SeriesFiles, int]]] = {}
    for one in files:
        try:
            t, depth, c, h, w = shape_of(one)
        except (KeyError, OSError, ValueError) as error:
            ledger.fault(one.patient, str(error.args[0]))
            continue
        buckets.setdefault((t, c, h, w), []).append((one, depth))
    return buckets


def _readable(
    slices: Sequence[tuple[SeriesFiles, int]], ledger: Ledger
) -> Iterator[tuple[Slice, int]]:
    """All slices with their numbers; a file with a damaged one is left at that."""
    for files, depth in slices:
        for index in range(depth):
            try:
                one = read_slice(files, index)
            except (KeyError, OSError, ValueError) as error:
                ledger.fault(files.patient, str(error.args[0]))
                break
            yield one, index


def _fields(bucket: Bucket) -> dict[str, Field]:
    t, c, h, w = bucket
    return {
        "kspace": Field(shape=(t, c, h, w), dtype="complex64"),
        "sensitivities": Field(shape=(c, h, w), dtype="complex64"),
        "times": Field(shape=(t,)),
        "label": Field(shape=(h, w), dtype="int32"),
        "patient": Field(kind="text"),
        "slice": Field(dtype="int32"),
    }


def _row(one: Slice, index: int, acs: int) -> dict[str, Any]:
    t, _, h, w = one.kspace.shape
    low = low_resolution(jnp.asarray(one.kspace[0]), acs=acs)
    times = np.full(t, np.nan, np.float32) if one.times is None else one.times
    label = np.full((h, w), -1, np.int32) if one.labels is None else one.labels
    return {
        "kspace": one.kspace,
        "sensitivities": np.asarray(inati_maps(low)),
        "times": times,
        "label": label,
        "patient": one.patient,
        "slice": np.int32(index),
    }
