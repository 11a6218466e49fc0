"""Hearts of a data set to follow: its scans, and meshes fitted to its label maps.

What phantoms know of their motion, a data set does not. Its frames that are labelled
are what a system learns from and is scored on: label maps on the short-axis slices,
their borders as contours, and meshes that :mod:`medjax.heart.fitting` fits to them, of
which the first is given and the others stand where a phantom's true ones do. They know
where walls are, not how muscle slides along itself. Long-axis views are seen where
there are some; what is on them is learned where label maps of all four chambers tell
it (``seg4_la_4ch`` of UK Biobank's trees), and is not asked of them otherwise.

Fitting takes seconds to a minute a frame. It is done once for a person.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Float32, Integer, UInt8

from medjax.data import nifti
from medjax.data.boundary import DataError
from medjax.data.nifti import Volume
from medjax.data.volumes import Grid, resample
from medjax.heart.appearance import LABELS
from medjax.heart.cine import VIEWS as NAMES
from medjax.heart.cine import Cine, prepare
from medjax.heart.contours import Contours
from medjax.heart.data import nearest_frames
from medjax.heart.datasets import Case
from medjax.heart.fitting import FitConfig, fit, template
from medjax.heart.label_maps import SYSTOLE, Labels, places
from medjax.heart.meshes import unit
from medjax.heart.scanning import ScanConfig
from medjax.heart.subject import VIEWS, Subject
from medjax.progress import say

INSIDE = {"endo": ("lv",), "epi": ("lv", "myo"), "rv": ("rv",)}
"""Labels that each surface encloses."""


def read_subject(
    case: Case,
    scan: ScanConfig,
    config: FitConfig,
    *,
    points: int,
    right: bool,
    resliced: bool = False,
) -> Subject:
    """One person of a data set, on the pixels of a run.

    Args:
        case: with label maps of two frames, or of all.
        scan: frames, and size, spacing, number and distance of slices.
        config: of the mesh that is fitted.
        points: of each surface's contour on a slice.
        right: with the right ventricle.
        resliced: bring the stack to the run's number of slices and their distance;
            otherwise slices stay where they are, those farthest from the middle of the
            labels are left out, and those that are missing are masked.

    Raises:
        DataError: where a file is damaged, frames are not labelled, a ventricle is
            missing, or images and labels do not fit each other.
    """
    labels, image = case.read_labels(), case.read_image()
    frames = labelled_frames(case, labels, scan.frames)
    cycle = image.data.shape[3]
    if max(frames) >= cycle:
        raise DataError(
            f"{case.name}: frame {max(frames)} is labelled, {case.image.name} has "
            f"{cycle}"
        )
    maps = labels.data[[labels.frames.index(frame) for frame in frames]]
    first = maps[0]
    if right and not (first == LABELS["rv"]).any():
        raise DataError(
            f"{case.name}: end-diastole has no right ventricle; --data.no-right leaves "
            "it out"
        )
    maps = maps if right else np.where(maps == LABELS["rv"], 0, maps)
    try:
        start, topology = template(maps[0], labels.affine, config)
        septum = _septum(first, labels)
        fitted = fit(maps, labels.affine, config)
        seen = _seen(case, image, frames)
        cine = prepare(
            seen.pop("sax"),
            seen,
            fitted.vertices[0].astype(np.float64),
            topology,
            scan,
            septum=None if right else septum,
            resliced=resliced,
        )
    except ValueError as error:
        raise DataError(f"{case.name}: {error}") from None
    cine, there = _as_many(cine, scan, labels, case.name)
    stack, size = cine.planes[:-VIEWS], scan.size
    parts, known = [_on_planes(maps, labels.affine, stack, size)], [*there]
    for plane, view in zip(cine.planes[-VIEWS:], NAMES, strict=True):
        told = _view_maps(case, view, frames, cycle, right=right)
        known.append(told is not None)
        parts.append(
            np.zeros((len(frames), 1, size, size), np.uint8)
            if told is None
            else _on_planes(*told, plane[None], size)
        )
    drawn = np.concatenate(parts, axis=1)
    traced = [
        borders(one, cine.planes, topology.names, points, views=VIEWS) for one in drawn
    ]
    turn = [(frame - frames[0]) % cycle / cycle for frame in frames]
    return Subject(
        images=cine.images,
        labels=drawn,
        planes=cine.planes,
        plane_mask=cine.mask,
        label_mask=np.array(known, np.float32),
        times=np.array(turn, np.float32),
        vertices=fitted.vertices.astype(np.float32),
        template=start.astype(np.float32),
        contours=np.stack([one.points for one in traced]),
        contour_mask=np.stack([one.mask for one in traced]),
        contour_surface=traced[0].surface,
        septum=septum,
        infarct=np.zeros(len(start), np.float32),
    )


def labelled_frames(case: Case, labels: Labels, wanted: int) -> list[int]:
    """Frames of the cycle from end-diastole on, all of which are labelled.

    Args:
        case: whose.
        labels: of two frames, or of the whole cycle.
        wanted: how many.

    Raises:
        DataError: where labels are too few, or nothing says of which frame they are.
    """
    known = labels.frames
    if SYSTOLE in known:
        raise DataError(
            f"{case.name}: nothing says which frame of {case.image.name} the labels of "
            "end-systole are of; expected labels of all frames in one file"
        )
    whole = known == tuple(range(len(known)))
    if len(known) < wanted or not (whole or len(known) == 2 == wanted):
        raise DataError(
            f"{case.name}: labels of {len(known)} frames, data.scan.frames is {wanted}"
        )
    start = known.index(case.diastole) if case.diastole in known else 0
    turned = [*known[start:], *known[:start]]
    return [turned[k] for k in nearest_frames(len(turned), wanted)]


def _septum(
    first: Integer[np.ndarray, "i j k"], labels: Labels
) -> Float[np.ndarray, " 3"]:
    """Across the slices, to the right ventricle or, without one, against the rows."""
    along, side = unit(labels.affine[:3, 2]), -labels.affine[:3, 0]
    if (first == LABELS["rv"]).any():
        middles = [
            places(first == LABELS[name], labels.affine).mean(0)
            for name in ("lv", "rv")
        ]
        side = middles[1] - middles[0]
    return unit(side - (side @ along) * along)


def _seen(case: Case, image: Volume, frames: Sequence[int]) -> dict[str, Volume]:
    """Frames of all views that there are."""
    views = {name: nifti.read(path, ndim=4) for name, path in case.long_axis.items()}
    for name, view in views.items():
        if view.data.shape[3] != image.data.shape[3]:
            raise DataError(
                f"{case.long_axis[name]}: {view.data.shape[3]} frames, "
                f"{case.image.name} has {image.data.shape[3]}"
            )
    every = {"sax": image, **views}
    return {k: replace(v, data=v.data[..., list(frames)]) for k, v in every.items()}


def _as_many(
    cine: Cine, scan: ScanConfig, labels: Labels, name: str
) -> tuple[Cine, Bool[np.ndarray, " d"]]:
    """The stack with as many slices as the run's, and which of them are of the scan.

    Slices with labels are in the middle; where they are more than the run has slices,
    it is said.
    """
    stack = cine.planes[:-VIEWS]
    step = stack[1, 0] - stack[0, 0]
    wide = 0.5 * (scan.size - 1) * (stack[0, 1] + stack[0, 2])
    # Heights of slices, counted in slices of the scan.
    inverse = np.linalg.inv(labels.affine)
    height = (stack[:, 0] + wide) @ inverse[2, :3] + inverse[2, 3]
    there = (height > -0.51) & (height < labels.data.shape[-1] - 0.49)
    held = np.flatnonzero(labels.data.any((0, 1, 2)))
    shown = np.flatnonzero((height > held[0] - 0.51) & (height < held[-1] + 0.51))
    middle = 0.5 * (shown[0] + shown[-1]) if len(shown) else 0.5 * (len(stack) - 1)
    first = round(middle - 0.5 * (scan.slices - 1))
    first = min(max(first, 0), max(len(stack) - scan.slices, 0))
    kept = slice(first, first + scan.slices)
    count = len(stack[kept])
    low, high = height[kept].min() - 0.51, height[kept].max() + 0.51
    if beyond := int(((held < low) | (held > high)).sum()):
        say(
            f"{name}: of {len(held)} slices with labels {beyond} are beyond the "
            f"{scan.slices} of data.scan.slices, and are left out"
        )
    absent = scan.slices - count
    added = np.repeat(stack[kept][-1:], absent, axis=0)
    added[:, 0] += np.arange(1, absent + 1)[:, None] * step
    empty = np.zeros((len(cine.images), absent, scan.size, scan.size), np.float32)
    images = [cine.images[:, :-VIEWS][:, kept], empty, cine.images[:, -VIEWS:]]
    there = np.concatenate([there[kept], np.zeros(absent, bool)])
    mask = np.concatenate([there.astype(np.float32), cine.mask[-VIEWS:]])
    planes = np.concatenate([stack[kept], added, cine.planes[-VIEWS:]])
    return cine._replace(
        images=np.concatenate(images, axis=1), planes=planes, mask=mask
    ), there


def _view_maps(
    case: Case, view: str, frames: Sequence[int], cycle: int, *, right: bool
) -> tuple[Integer[np.ndarray, "t i j k"], Float[np.ndarray, "4 4"]] | None:
    """Label maps of a long-axis view and their affine; None where frames have none.

    Raises:
        DataError: where they are damaged, or of another cycle than the scan.
    """
    if view not in case.view_labels:
        return None
    labels = case.read_view_labels(view)
    if labels.frames[-1] >= cycle:
        raise DataError(
            f"{case.view_labels[view]}: frame {labels.frames[-1]} is labelled, "
            f"{case.image.name} has {cycle}"
        )
    if not set(frames) <= set(labels.frames):
        return None
    maps = labels.data[[labels.frames.index(frame) for frame in frames]]
    maps = maps if right else np.where(maps == LABELS["rv"], 0, maps)
    return maps, labels.affine


def _on_planes(
    maps: Integer[np.ndarray, "t i j k"],
    affine: Float[np.ndarray, "4 4"],
    planes: Float[np.ndarray, "p 3 3"],
    size: int,
) -> UInt8[np.ndarray, "t p h w"]:
    """Label maps on slices that are equally far apart."""
    first, rows, columns = planes[0].astype(np.float64)
    step = unit(np.cross(rows, columns))
    if len(planes) > 1:
        step = planes[1, 0] - first
    onto = np.eye(4)
    onto[:3] = np.stack([rows, columns, step, first], axis=1)
    grid = Grid((size, size, len(planes)), onto)
    moved = Volume(np.moveaxis(maps, 0, -1), affine, (1.0, 1.0, 1.0))
    there = resample(moved, grid, interpolation="labels").data
    return np.transpose(there, (3, 2, 0, 1)).astype(np.uint8)


def borders(
    drawn: UInt8[np.ndarray, "p h w"],
    planes: Float32[np.ndarray, "p 3 3"],
    names: Sequence[str],
    count: int,
    *,
    views: int = 0,
) -> Contours:
    """Points between pixels that a surface encloses and pixels that it does not.

    Args:
        drawn: label maps of one frame.
        planes: origins and steps, mm.
        names: of the surfaces, of :data:`INSIDE`.
        count: points of each surface on a plane.
        views: how many planes, the last ones, lie along the heart. There the left
            ventricle is open at its base, where no wall is: its borders are those of
            muscle alone.

    Returns:
        As :func:`medjax.heart.contours.trace` has them, of a surface in order around
        its middle; where a border has fewer points, some come again.
    """
    points = np.zeros((len(drawn), len(names), count, 2), np.float32)
    mask = np.zeros((len(drawn), len(names), count), np.float32)
    for p, plane in enumerate(planes):
        steps = np.linalg.norm(plane[1:], axis=1)
        muscle = drawn[p] == LABELS["myo"]
        for k, name in enumerate(names):
            inside = np.isin(drawn[p], [LABELS[label] for label in INSIDE[name]])
            walled = p >= len(planes) - views and name != "rv"
            found = _border(inside, muscle if walled else None) * steps
            if len(found):
                around = found - found.mean(0)
                found = found[np.argsort(np.arctan2(around[:, 1], around[:, 0]))]
                at = np.floor((np.arange(count) + 0.5) / count * len(found))
                points[p, k], mask[p, k] = found[at.astype(int)], 1.0
    flat = len(drawn), len(names) * count
    surface = np.repeat(np.arange(len(names), dtype=np.int32), count)
    every = np.broadcast_to(surface, flat).copy()
    return Contours(points.reshape(*flat, 2), mask.reshape(flat), every)


def _border(
    inside: Bool[np.ndarray, "h w"], needed: Bool[np.ndarray, "h w"] | None
) -> Float[np.ndarray, "m 2"]:
    """Middles between neighbouring pixels of which one is inside, in pixels; of those
    alone that have a pixel of what is needed."""
    found = []
    for axis in (0, 1):
        apart = np.diff(inside.astype(np.int8), axis=axis) != 0
        if needed is not None:
            low, high = (np.delete(needed, end, axis=axis) for end in (-1, 0))
            apart &= low | high
        between = np.argwhere(apart).astype(float)
        between[:, axis] += 0.5
        found.append(between)
    return np.concatenate(found)
