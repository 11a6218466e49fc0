"""From the challenge's tree to prepared sets, one per shape.

Patients differ in matrix size, so series cannot be batched as they come. Slices are
sorted into buckets of equal shape, and each bucket becomes an ArrayRecord set of its
own (``medjax.data.records``), with a row per slice: fully sampled k-space, sensitivity
maps, times and segmentation. Undersampling happens later, on the device. Reading a row
back costs a copy; opening the original files would mean decompressing all slices.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np

from medjax.data.records import Field, write_records
from medjax.mri.cmrxrecon.layout import Edition, SeriesFiles, find
from medjax.mri.cmrxrecon.reader import Slice, read_slice, shape_of
from medjax.mri.coils import inati_maps, low_resolution

Bucket = tuple[int, int, int, int]
"""Frames, coils, ky and kx of the slices of one set."""


def prepare(
    root: str | Path,
    folder: str | Path,
    *,
    name: str,
    split: Mapping[str, Sequence[str]],
    edition: Edition = 2023,
    coils: Literal["MultiCoil", "SingleCoil"] = "MultiCoil",
    acs: int = 24,
    overwrite: bool = False,
) -> dict[Bucket, Path]:
    """Write the fully sampled slices of one kind of series, sorted by shape.

    Rows hold ``kspace`` complex64 ``t c h w``, ``sensitivities`` complex64 ``c h w``
    (Inati's, from the central lines of the first frame), ``times`` float32 ``t`` (NaN
    for series without), ``label`` int32 ``h w`` (-1 where there is none), ``patient``
    and ``slice``.

    Args:
        root: the challenge's tree.
        folder: where the sets will lie, e.g. ``folder/t1map_9x10x144x512``.
        name: ``T1map``, ``T2map``, ``cine_sax``, ...
        split: split name to patients; patients in none are left out.
        edition: 2023 or 2024.
        coils: multi- or single-coil.
        acs: central lines the maps are estimated from.
        overwrite: replace finished sets.

    Returns:
        Bucket to its folder; ``RecordSource(path, "train")`` reads one.

    Raises:
        FileNotFoundError: where the tree lacks such series.
        ValueError: where no patient of the tree is in the split, or a file is damaged.
    """
    where = {patient: s for s, patients in split.items() for patient in patients}
    buckets: dict[Bucket, list[tuple[SeriesFiles, int]]] = {}
    for files in find(root, name=name, edition=edition, coils=coils):
        if files.patient not in where:
            continue
        t, depth, c, h, w = shape_of(files)
        slices = [(files, index) for index in range(depth)]
        buckets.setdefault((t, c, h, w), []).extend(slices)
    if not buckets:
        raise ValueError(f"split: no patient of {root} is in {sorted(split)}")
    written = {}
    for bucket, rows in sorted(buckets.items()):
        t, c, h, w = bucket
        place = Path(folder) / f"{name.lower()}_{t}x{c}x{h}x{w}"
        fields = {
            "kspace": Field(shape=(t, c, h, w), dtype="complex64"),
            "sensitivities": Field(shape=(c, h, w), dtype="complex64"),
            "times": Field(shape=(t,)),
            "label": Field(shape=(h, w), dtype="int32"),
            "patient": Field(kind="text"),
            "slice": Field(dtype="int32"),
        }
        title = re.sub(r"\W", "_", f"cmrxrecon_{edition}_{name}").lower()
        with write_records(
            place, name=title, fields=fields, overwrite=overwrite
        ) as writer:
            writer.metadata.update(edition=edition, coils=coils, acs=acs)
            for files, index in rows:
                row = _row(read_slice(files, index), index, min(acs, h))
                writer.add(where[files.patient], row)
        written[bucket] = place
    return written


def _row(one: Slice, index: int, acs: int) -> dict[str, object]:
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
