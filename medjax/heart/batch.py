"""What one batch of moving hearts is: names, axes and units, the same for all systems.

This is what the motion systems (:mod:`medjax.heart.deepmesh`,
:mod:`medjax.heart.graph_motion`) read: dictionaries of NumPy arrays, always of one
shape; what a system does not read may be missing. :mod:`medjax.heart.motion_data` makes
them of phantom people, :mod:`medjax.heart.cine` what a trained system reads of them
from anyone's scan.

A batch has ``b`` examples; each is one subject at two times, end-diastole (ED) and some
frame ``t``, in this order on the axis ``2``. Planes are the ``d`` short-axis slices,
from apex to base, then the ``v`` long-axis views (2CH, 4CH): ``p = d + v``.

==================== ============= =====================================================
name                 axes          meaning
==================== ============= =====================================================
``sax``              b 2 d h w     short-axis images
``lax``              b 2 v h w     long-axis images, as large
``planes``           b p 3 3       where pixels are, mm: centre of pixel (0, 0), step to
                                   the next row, step to the next column
``plane_mask``       b p           1 where there is an image, 0 where it is missing
``label_mask``       b p           1 where labels and contours say what is on it
``time``             b             share of the cycle of frame t, from 0 at ED to 1
``vertices_ed``      b n 3         the mesh at ED, mm
``vertices_init``    b n 3         a template roughly in place; ED's mesh is sought
``vertices_t``       b n 3         the same points at frame t; where the truth is known
``contours``         b 2 p m 2     points on the walls, mm from the centre of pixel
                                   (0, 0) along the rows' and the columns' direction
``contour_mask``     b 2 p m       1 where there is a point
``contour_surface``  b 2 p m       which surface it lies on, as the topology counts them
``labels``           b 2 p h w     0 outside, 1 LV cavity, 2 its muscle, 3 RV cavity
``projected``        b p q 2       pixels where the true mesh at ED meets planes, mm as
                                   contours are; where folders of DeepMesh hold them
``projected_mask``   b p q         1 where there is one
``projected_planes`` b p           1 for planes that are compared with them
==================== ============= =====================================================

Everything is float32 but ``contour_surface`` and ``labels`` (int32). Places are those
of one world for all fields of an example. Faces, surfaces and tables are no part of the
batch: they are the :class:`medjax.heart.meshes.Topology` that a system is made with.
"""

from collections.abc import Sequence

import numpy as np

from medjax.typing import Batch

AXES = {
    "sax": "b 2 d h w",
    "lax": "b 2 v h w",
    "planes": "b p 3 3",
    "plane_mask": "b p",
    "label_mask": "b p",
    "time": "b",
    "vertices_ed": "b n 3",
    "vertices_init": "b n 3",
    "vertices_t": "b n 3",
    "contours": "b 2 p m 2",
    "contour_mask": "b 2 p m",
    "contour_surface": "b 2 p m",
    "labels": "b 2 p h w",
    "projected": "b p q 2",
    "projected_mask": "b p q",
    "projected_planes": "b p",
}
"""Axes by field; one letter is one size within a batch."""
WHOLE = ("contour_surface", "labels")
"""Fields of int32."""


def check(batch: Batch, fields: Sequence[str]) -> dict[str, int]:
    """Refuses a batch whose fields do not fit each other.

    Args:
        batch: arrays, or their shapes and dtypes.
        fields: names that must be there; others of the table are checked if they are.

    Returns:
        The size of every axis.

    Raises:
        ValueError: naming the field, its shape or dtype, and what was expected.
    """
    if missing := [name for name in fields if name not in batch]:
        raise ValueError(f"batch: no {missing}, expected {list(fields)}")
    sizes: dict[str, int] = {}
    for name, axes in AXES.items():
        if name not in batch:
            continue
        letters, array = axes.split(), batch[name]
        want = [int(a) if a.isdigit() else sizes.get(a, -1) for a in letters]
        fits = len(array.shape) == len(want) and all(
            w in (-1, n) for w, n in zip(want, array.shape, strict=True)
        )
        if not fits:
            told = " ".join(
                str(w) if w >= 0 else a for w, a in zip(want, letters, strict=True)
            )
            raise ValueError(
                f"batch: {name} has shape {tuple(array.shape)}, expected ({told}), "
                f"axes {axes}"
            )
        dtype = np.int32 if name in WHOLE else np.float32
        if array.dtype != dtype:
            raise ValueError(
                f"batch: {name} is {array.dtype}, expected {np.dtype(dtype)}"
            )
        sizes |= dict(zip(letters, array.shape, strict=True))
        # Planes are all slices and all views, whichever of them is met first.
        if {"d", "v"} <= set(sizes):
            sizes.setdefault("p", sizes["d"] + sizes["v"])
    return {letter: n for letter, n in sizes.items() if letter.isalpha()}
