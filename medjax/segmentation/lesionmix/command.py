"""Mixing a cohort from files or phantoms, and writing what comes out."""

import csv
import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax.data import nifti
from medjax.data.nifti import Volume
from medjax.data.whole import whole
from medjax.metrics.lesionwise import components
from medjax.progress import track
from medjax.segmentation.lesionmix.bank import (
    BOXES,
    Case,
    LesionBank,
    make_bank,
    refuse_shared,
)
from medjax.segmentation.lesionmix.host import Host, batch_of, host_of
from medjax.segmentation.lesionmix.loads import LoadLaw, LoadName, load_law
from medjax.segmentation.lesionmix.mix import LesionMixConfig, Mixed, lesionmix_batch
from medjax.segmentation.lesionmix.mixing import Mixing, mix_batch, mixes
from medjax.segmentation.lesionmix.pairs import Cohort, find_pairs, read_pairs
from medjax.segmentation.lesionmix.populate import VERDICTS, verdict_counts
from medjax.segmentation.lesionmix.report import Shown, mixing_report
from medjax.segmentation.phantoms.lesions import LesionConfig, lesion_phantom
from medjax.train.sets import on_disk
from medjax.typing import Key


@dataclasses.dataclass(frozen=True)
class MixData:
    """Where cases come from."""

    root: Path | None = None
    """Folder of images and masks; none: phantoms are drawn."""
    image: str = "{case}_FLAIR.nii.gz"
    """Path of an image below it."""
    mask: str = "{case}_GT.nii.gz"
    """Path of a lesion mask below it."""
    hold_out: tuple[str, ...] = ()
    """Cases to validate on: they are left out of everything."""
    phantoms: int = 8
    """How many are drawn without a folder."""
    phantom: LesionConfig = LesionConfig(lesions=(4.0, 20.0))
    """What is drawn."""


def read_cohort(data: MixData) -> Cohort:
    """Cases from files, or phantoms."""
    if data.root is None:
        return draw_cohort(data.phantom, data.phantoms)
    on_disk(data.root, "data.root")
    pairs = find_pairs(data.root, image=data.image, mask=data.mask)
    kept = tuple(pair for pair in pairs if pair.case not in data.hold_out)
    if absent := sorted(set(data.hold_out) - {pair.case for pair in pairs}):
        raise ValueError(f"data.hold-out: {absent} are no cases of {data.root}")
    pictured = sum(pair.image is not None for pair in kept)
    print(f"cases: {pictured} with an image, {len(kept) - pictured} masks alone")
    return read_pairs(kept)


def draw_cohort(config: LesionConfig, count: int) -> Cohort:
    """Phantoms as a cohort; every one follows from its number."""
    keys = jax.vmap(jax.random.key)(jnp.arange(count))
    drawn = jax.vmap(lambda key: lesion_phantom(config, key=key))(keys)
    rank = len(config.shape)
    spacing = (config.spacing,) * rank
    affine = np.diag([*spacing, *(1.0,) * (4 - rank)])
    image, numbers, organ = (
        np.asarray(x) for x in (drawn.image, drawn.components, drawn.organ)
    )
    names = [f"phantom{i:03d}" for i in range(count)]
    cases = [
        Case(name, image[i], numbers[i] > 0, organ[i], spacing)
        for i, name in enumerate(names)
    ]
    volumes = {name: Volume(image[i], affine, spacing) for i, name in enumerate(names)}
    return Cohort(tuple(cases), volumes, (0,) * rank)


def mix_and_write(
    cohort: Cohort,
    out: Path,
    *,
    mixing: Mixing,
    load: LoadName,
    log_normal: tuple[float, float] | None,
    config: LesionMixConfig,
    hold_out: tuple[str, ...],
    copies: int,
    seed: int,
) -> Path:
    """Mixes every case that has an image, and writes images, labels, table and page.

    Args:
        cohort: the cases.
        out: folder of the results.
        mixing: the method.
        load: law of the load, of LesionMix.
        log_normal: its numbers, where it is log-normal.
        config: of LesionMix.
        hold_out: cases that no lesion may come from.
        copies: results per case.
        seed: of everything random.

    Returns:
        The page.

    Raises:
        ValueError: for less than one copy, or a peer with less than two cases.
        DataError: if there is no lesion to be had.
    """
    if copies < 1:
        raise ValueError(f"copies={copies}: expected one at least")
    boxes = [min(box, 2 * (max(cohort.cases[0].lesion.shape) // 2)) for box in BOXES]
    bank = make_bank(cohort.cases, boxes=sorted(set(boxes)))
    refuse_shared(bank, hold_out)
    dropped = ", ".join(f"{n} {reason}" for reason, n in bank.dropped.items())
    print(
        f"bank: {bank.lesions} lesions of {len(bank.cases)} cases (left out: {dropped})"
    )
    most = _room(cohort.cases)
    pictured = [case for case in cohort.cases if case.image is not None]
    hosts = [host_of(case, most=most) for case in pictured]
    law = load_law(load, bank.loads, log_normal=log_normal)
    key = jax.random.key(seed)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    shown: list[Shown] = []
    each = track(pictured, "mix", len(pictured), "cases")
    for number, case in enumerate(each):
        for copy in range(copies):
            row = number * copies + copy
            if mixing == "lesionmix":
                mixed = _lesionmix(hosts[number], bank, law, config, row, key)
            else:
                mixed = _peer(mixing, hosts, number, row, case.spacing, key)
            name = f"{case.name}_mix{copy}"
            _write(cohort, case.name, out / name, mixed)
            rows.append(_row(name, mixed))
            if copy == 0:
                shown.append(_shown(case, name, mixed))
    with whole(out / "mixed.csv") as draft, draft.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    told = "" if mixing != "lesionmix" else f", load {load}"
    page = mixing_report(
        rows,
        bank.loads,
        _most_telling(shown),
        title="LesionMix"
        if mixing == "lesionmix"
        else f"{mixing}, a peer of LesionMix",
        subtitle=f"{len(rows)} results of {len(pictured)} cases{told}, seed {seed}",
        spacing=bank.spacing,
    )
    return page.save(out / "report.html")


def _lesionmix(
    host: Host,
    bank: LesionBank,
    law: LoadLaw,
    config: LesionMixConfig,
    row: int,
    key: Key,
) -> Mixed:
    mixed = lesionmix_batch(
        batch_of([host]),
        bank.donors,
        law,
        bank.spacing,
        config,
        jnp.asarray([row]),
        key=key,
    )
    return jax.tree.map(lambda x: x[0], mixed)


def _peer(
    mixing: Mixing,
    hosts: list[Host],
    number: int,
    row: int,
    spacing: tuple[float, ...],
    key: Key,
) -> Mixed:
    """A peer's result in LesionMix's terms: it has no target but what it reached."""
    if len(hosts) < 2:
        raise ValueError(f"mixing={mixing}: needs two cases with an image at least")
    # Another case than the host, each as often as any.
    step = 1 + row % (len(hosts) - 1)
    donor = (number + step) % len(hosts)
    names = jnp.asarray([number]), jnp.asarray([donor])
    one, other = batch_of([hosts[number]]), batch_of([hosts[donor]])
    pasted = mix_batch(
        mixes(spacing)[mixing], one, other, names, jnp.asarray([row]), key=key
    )
    reached = jnp.sum(pasted.label[0], dtype=jnp.float32) * math.prod(spacing)
    return Mixed(
        pasted.image[0],
        pasted.label[0],
        target=reached,
        before=hosts[number].load,
        load=reached,
        removed=jnp.zeros((), jnp.int32),
        verdicts=jnp.zeros(len(VERDICTS), jnp.int32),
    )


def _room(cases: tuple[Case, ...]) -> int:
    """For the components of the case that has most, in steps that few shapes follow."""
    most = max(components(case.lesion)[1] for case in cases)
    return 64 * math.ceil(max(most, 1) / 64)


def _write(cohort: Cohort, case: str, path: Path, mixed: Mixed) -> None:
    """Image and labels in the original grid; around the box the image is as it was."""
    volume = cohort.volumes[case]
    nothing = np.zeros(volume.data.shape, np.uint8)
    parts = {
        "": cohort.whole(case, np.asarray(mixed.image), outside=volume.data),
        "_label": cohort.whole(
            case, np.asarray(mixed.label).astype(np.uint8), outside=nothing
        ),
    }
    for suffix, part in parts.items():
        data = part.data[..., None] if part.data.ndim == 2 else part.data
        nifti.write(f"{path}{suffix}.nii.gz", data, affine=part.affine)


def _row(name: str, mixed: Mixed) -> dict[str, Any]:
    loads = {
        k: round(float(getattr(mixed, k)), 3) for k in ("target", "before", "load")
    }
    counts = verdict_counts(np.asarray(mixed.verdicts).tolist())
    return {"result": name, **loads, "removed": int(mixed.removed), **counts}


def _shown(case: Case, name: str, mixed: Mixed) -> Shown:
    assert case.image is not None
    after = np.asarray(mixed.image), np.asarray(mixed.label)
    return Shown(name, (case.image, case.lesion), after, int(mixed.removed))


def _most_telling(shown: list[Shown], most: int = 3) -> list[Shown]:
    """The results that changed most, of both kinds."""

    def change(one: Shown) -> float:
        return float(np.abs(one.after[0] - one.before[0]).sum())

    ordered = sorted(shown, key=change, reverse=True)
    less = [one for one in ordered if one.removed][:most]
    return less + [one for one in ordered if not one.removed][:most]
