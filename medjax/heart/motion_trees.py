"""Hearts of a data set to follow: its scans, and meshes fitted to its label maps.

What phantoms know of their motion, a data set does not. Its frames that are labelled
are what a system learns from and is scored on: label maps on the short-axis slices,
their borders as contours, and meshes that :mod:`medjax.heart.fitting` fits to them, of
which the first is given and the others stand where a phantom's true ones do. They know
where walls are, not how muscle slides along itself. Long-axis views are seen where
there are some, and nothing says what is on them.

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
from medjax.heart.cine import Cine, prepare
from medjax.heart.contours import Contours
from medjax.heart.data import nearest_frames
from medjax.heart.datasets import SYSTOLE, Case, Labels, places
from medjax.heart.fitting import FitConfig, fit, template
from medjax.heart.meshes import unit
from medjax.heart.scanning import ScanConfig
from medjax.heart.subject import VIEWS, Subject

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
            otherwise slices stay where they are, those farthest from the heart are
            left out, and those that are missing are masked.

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
    cine, there = _as_many(cine, scan, labels, fitted.vertices[0])
    drawn = _on_planes(maps, labels, cine)
    traced = [borders(one, cine.planes, topology.names, points) for one in drawn]
    none = np.zeros(VIEWS)
    turn = [(frame - frames[0]) % cycle / cycle for frame in frames]
    return Subject(
        images=cine.images,
        labels=drawn,
        planes=cine.planes,
        plane_mask=cine.mask,
        label_mask=np.concatenate([there, none]).astype(np.float32),
        times=np.array(turn, np.float32),
        vertices=fitted.vertices.astype(np.float32),
        template=start.astype(np.float32),
        contours=np.stack([one.points for one in traced]),
        contour_mask=np.stack([one.mask for one in traced]),
        contour_surface=traced[0].surface,
        septum=septum,
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
    cine: Cine, scan: ScanConfig, labels: Labels, vertices: Float[np.ndarray, "n 3"]
) -> tuple[Cine, Bool[np.ndarray, " d"]]:
    """The stack with as many slices as the run's, and which of them are of the scan."""
    stack = cine.planes[:-VIEWS]
    step = stack[1, 0] - stack[0, 0]
    wide = 0.5 * (scan.size - 1) * (stack[0, 1] + stack[0, 2])
    # Heights of slices, counted in slices of the scan.
    inverse = np.linalg.inv(labels.affine)
    height = (stack[:, 0] + wide) @ inverse[2, :3] + inverse[2, 3]
    there = (height > -0.51) & (height < labels.data.shape[-1] - 0.49)
    away = (vertices.mean(0) - stack[0, 0]) @ step / (step @ step)
    first = round(float(away) - 0.5 * (scan.slices - 1))
    first = min(max(first, 0), max(len(stack) - scan.slices, 0))
    kept = slice(first, first + scan.slices)
    count = len(stack[kept])
    absent = scan.slices - count
    beyond = np.repeat(stack[kept][-1:], absent, axis=0)
    beyond[:, 0] += np.arange(1, absent + 1)[:, None] * step
    empty = np.zeros((len(cine.images), absent, scan.size, scan.size), np.float32)
    images = [cine.images[:, :-VIEWS][:, kept], empty, cine.images[:, -VIEWS:]]
    there = np.concatenate([there[kept], np.zeros(absent, bool)])
    mask = np.concatenate([there.astype(np.float32), cine.mask[-VIEWS:]])
    planes = np.concatenate([stack[kept], beyond, cine.planes[-VIEWS:]])
    return cine._replace(
        images=np.concatenate(images, axis=1), planes=planes, mask=mask
    ), there


def _on_planes(
    maps: Integer[np.ndarray, "t i j k"], labels: Labels, cine: Cine
) -> UInt8[np.ndarray, "t p h w"]:
    """Label maps on a scan's slices; on long-axis views there are none."""
    stack = cine.planes[:-VIEWS].astype(np.float64)
    size, affine = cine.images.shape[-1], np.eye(4)
    affine[:3] = np.stack(
        [stack[0, 1], stack[0, 2], stack[1, 0] - stack[0, 0], stack[0, 0]], axis=1
    )
    grid = Grid((size, size, len(stack)), affine)
    moved = Volume(np.moveaxis(maps, 0, -1), labels.affine, (1.0, 1.0, 1.0))
    there = resample(moved, grid, interpolation="labels").data
    drawn = np.transpose(there, (3, 2, 0, 1)).astype(np.uint8)
    return np.pad(drawn, ((0, 0), (0, VIEWS), (0, 0), (0, 0)))


def borders(
    drawn: UInt8[np.ndarray, "p h w"],
    planes: Float32[np.ndarray, "p 3 3"],
    names: Sequence[str],
    count: int,
) -> Contours:
    """Points between pixels that a surface encloses and pixels that it does not.

    Args:
        drawn: label maps of one frame.
        planes: origins and steps, mm.
        names: of the surfaces, of :data:`INSIDE`.
        count: points of each surface on a plane.

    Returns:
        As :func:`medjax.heart.contours.trace` has them, of a surface in order around
        its middle; where a border has fewer points, some come again.
    """
    points = np.zeros((len(drawn), len(names), count, 2), np.float32)
    mask = np.zeros((len(drawn), len(names), count), np.float32)
    for p, plane in enumerate(planes):
        steps = np.linalg.norm(plane[1:], axis=1)
        for k, name in enumerate(names):
            codes = [LABELS[label] for label in INSIDE[name]]
            found = _border(np.isin(drawn[p], codes)) * steps
            if len(found):
                around = found - found.mean(0)
                found = found[np.argsort(np.arctan2(around[:, 1], around[:, 0]))]
                at = np.floor((np.arange(count) + 0.5) / count * len(found))
                points[p, k], mask[p, k] = found[at.astype(int)], 1.0
    flat = len(drawn), len(names) * count
    surface = np.repeat(np.arange(len(names), dtype=np.int32), count)
    every = np.broadcast_to(surface, flat).copy()
    return Contours(points.reshape(*flat, 2), mask.reshape(flat), every)


def _border(inside: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "m 2"]:
    """Middles between neighbouring pixels of which one is inside, in pixels."""
    found = []
    for axis in (0, 1):
        between = np.argwhere(np.diff(inside.astype(np.int8), axis=axis)).astype(float)
        between[:, axis] += 0.5
        found.append(between)
    return np.concatenate(found)
