"""One heart to follow: what is seen of it over the cycle, and what is known of it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int32, UInt8

from medjax.heart.appearance import LABELS

DENSE = 4
"""As many times as many points are kept of contours as an example has: scores need
them, since a point is some way from the next one however well a mesh fits."""
VIEWS = 2
"""Along the long axis: 2CH and 4CH, behind the slices."""


PROJECTED = 1024
"""Room for pixels of a plane where the true mesh at end-diastole meets it."""


class Subject(NamedTuple):
    """One person: a scan, and what is known of the heart.

    Attributes:
        images: short-axis slices from apex to base, then 2CH and 4CH.
        labels: of the same, :data:`medjax.heart.appearance.LABELS`.
        planes: as headers tell, mm.
        plane_mask: 1 where there is an image, 0 where it is missing.
        label_mask: 1 where labels and contours say what is on it.
        times: shares of the cycle.
        vertices: of the true mesh, or of one fitted to labels, mm; NaN in later frames
            where nothing says where they are.
        template: a mesh roughly in place, mm.
        contours: mm along rows and columns; an example has every fourth point.
        contour_mask: 1 where there is a point.
        contour_surface: which surface it lies on.
        septum: from the long axis to the middle of the septum.
        infarct: share of contraction that is lost at each vertex of the left ventricle;
            0 where nothing is known of it.
        projected: pixels where the true mesh at end-diastole meets planes, mm along
            rows and columns; None where no file tells them.
        projected_mask: 1 where there is one.
        projected_planes: 1 for planes that are compared with them.
    """

    images: Float32[np.ndarray, "t p h w"]
    labels: UInt8[np.ndarray, "t p h w"]
    planes: Float32[np.ndarray, "p 3 3"]
    plane_mask: Float32[np.ndarray, " p"]
    label_mask: Float32[np.ndarray, " p"]
    times: Float32[np.ndarray, " t"]
    vertices: Float32[np.ndarray, "t n 3"]
    template: Float32[np.ndarray, "n 3"]
    contours: Float32[np.ndarray, "t p m 2"]
    contour_mask: Float32[np.ndarray, "t p m"]
    contour_surface: Int32[np.ndarray, "p m"]
    septum: Float64[np.ndarray, " 3"]
    infarct: Float32[np.ndarray, " n"]
    projected: Float32[np.ndarray, "p q 2"] | None = None
    projected_mask: Float32[np.ndarray, "p q"] | None = None
    projected_planes: Float32[np.ndarray, " p"] | None = None

    @property
    def followed(self) -> bool:
        """Whether it is known where vertices are in all frames."""
        return bool(np.isfinite(self.vertices).all())

    @property
    def emptiest(self) -> int:
        """The frame with the smallest cavity on labelled short-axis slices."""
        shown = self.labels[:, :-VIEWS][:, self.label_mask[:-VIEWS] > 0]
        return int(np.argmin((shown == LABELS["lv"]).sum((1, 2, 3))))

    def example(
        self, frame: int, vertices_ed: Float[np.ndarray, "n 3"] | None = None
    ) -> dict[str, np.ndarray]:
        """End-diastole and a frame, without the axis ``b``.

        Args:
            frame: the frame ``t``.
            vertices_ed: the mesh at end-diastole, where it is not to be the true one.
        """
        both = [0, frame]
        images = np.asarray(self.images[both])
        told = ("projected", "projected_mask", "projected_planes")
        more = {name: getattr(self, name) for name in told}
        return {
            "sax": images[:, :-VIEWS],
            "lax": images[:, -VIEWS:],
            "planes": np.asarray(self.planes),
            "plane_mask": np.asarray(self.plane_mask),
            "label_mask": np.asarray(self.label_mask),
            "time": np.asarray(self.times[frame], np.float32),
            "vertices_ed": np.asarray(
                self.vertices[0] if vertices_ed is None else vertices_ed
            ),
            "vertices_init": np.asarray(self.template),
            "vertices_t": np.asarray(self.vertices[frame]),
            "contours": np.asarray(self.contours[both, :, ::DENSE]),
            "contour_mask": np.asarray(self.contour_mask[both, :, ::DENSE]),
            "contour_surface": np.stack([self.contour_surface[:, ::DENSE]] * 2),
            "labels": self.labels[both].astype(np.int32),
            **{k: np.asarray(v) for k, v in more.items() if v is not None},
        }
