"""What the comparison of attention is made on: conditions, hearts, the endpoint."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from medjax.data.pipeline import ArraySource
from medjax.mri.fourier import fft2c, ifft2c
from medjax.mri.reconstruction_scores import Method, fit_map
from medjax.mri.scans import TRAINED_ON, Scans, ScansConfig, batch_of, phantoms
from medjax.mri.series import zero_filled

Condition = Literal["shared", "shifted", "exchanged"]
CONDITIONS: Mapping[Condition, str] = {
    "shared": "one mask for all frames",
    "shifted": "masks that move on (positive control)",
    "exchanged": "frames of different hearts (negative control)",
}
FIELDS = ("kspace", "sensitivities", "times", "label", "image")
RANK = 2
"""Kinds of frames that others are combinations of; of three, as masks of every fourth
line move on, more is left wrong (by hand: 33 ms against 23)."""


class Hearts:
    """What one seed trains on, is watched on and judged by, under a condition.

    Args:
      data: How many hearts are scanned, and how; only those that are trained on follow
        its seed.
      condition: Which.
      watched: Hearts that only tell whether a curve is flat.
    """

    def __init__(self, data: ScansConfig, condition: Condition, watched: int) -> None:
        self.data = data
        self.exchanged = condition == "exchanged"
        key = jax.random.key(0)
        draw = {
            "train": (jax.random.fold_in(jax.random.key(data.seed), 7), data.patients),
            "watched": (jax.random.fold_in(key, 2), watched),
            "judged": (jax.random.fold_in(key, 1), data.test_patients),
        }
        rows = {
            name: without_coil(phantoms(data, count, FIELDS, key=key).arrays)
            for name, (key, count) in draw.items()
        }
        self.whole = rows
        seen = {k: exchange(v) if self.exchanged else v for k, v in rows.items()}
        self.scans = Scans(
            CONDITIONS[condition],
            ArraySource({k: seen["train"][k] for k in TRAINED_ON}),
            ArraySource(seen["judged"]),
        )
        self.seen = seen

    def errors(self, method: Method, which: str = "judged") -> np.ndarray:
        """The endpoint of every heart, ms.

        Args:
          method: A batch to images.
          which: The hearts.
        """
        seen, whole = self.seen[which], self.whole[which]
        (acceleration,) = self.data.acceleration
        images = np.stack(
            [
                np.abs(
                    method(
                        batch_of(
                            row,
                            acceleration=acceleration,
                            acs=self.data.acs,
                            shift=self.data.shift,
                        )
                    )[0]
                )
                for row in ArraySource(seen)
            ]
        )
        if self.exchanged:
            images = put_back(images)
        return np.array(
            [
                endpoint(*row)
                for row in zip(
                    images, whole["image"], whole["times"], whole["label"], strict=True
                )
            ]
        )

    def bounds(self) -> dict[str, float]:
        """What a condition leaves to win, ms: the endpoint with nothing learned.

        Returns:
          ``zero_filled`` (nothing is known of other frames), and ``subspace``: as
          little as can be known of how frames go together, by least squares.
        """
        known = known_subspace(self.whole["train"]["image"])
        methods = {"zero_filled": jax.jit(zero_filled), "subspace": known}
        return {name: float(self.errors(m).mean()) for name, m in methods.items()}


def known_subspace(images: np.ndarray, *, rank: int = RANK, steps: int = 60) -> Method:
    """Reconstruction of series whose frames are combinations of a few known ones.

    Every pixel is a combination of the first singular vectors over the frames of some
    hearts; the coefficients are least squares by conjugate gradients, and what was
    measured stays (Haldar and Liang, ISBI 2010; Tamir et al., MRM 2017). Linear: what
    it cannot win is not in the masks, or is in what hearts look like.

    Args:
      images: Noise-free series of other hearts, ``n t h w``.
      rank: How many singular vectors.
      steps: Of conjugate gradients.
    """
    frames = images.shape[1]
    flat = np.moveaxis(images, 1, 0).reshape(frames, -1)
    vectors = np.linalg.eigh(flat @ flat.conj().T)[1][:, ::-1]
    basis = jnp.asarray(vectors[:, :rank])

    @jax.jit
    def reconstruct(batch: Mapping[str, Any]) -> jax.Array:
        mask = batch["mask"]

        def ahead(parts: jax.Array) -> jax.Array:
            return jnp.einsum("tr,brhw->bthw", basis, parts)

        def back(kspace: jax.Array) -> jax.Array:
            images = ifft2c(jnp.where(mask, kspace, 0))
            return jnp.einsum("tr,bthw->brhw", basis.conj(), images)

        def normal(parts: jax.Array) -> jax.Array:
            return back(fft2c(ahead(parts))) + 1e-3 * parts

        measured = batch["kspace"][:, :, 0]
        parts, _ = jax.scipy.sparse.linalg.cg(normal, back(measured), maxiter=steps)
        return ifft2c(jnp.where(mask, measured, fft2c(ahead(parts))))

    return reconstruct


def without_coil(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same scans by a coil of sensitivity one: its phase is taken out.

    Exact for one coil, whose map has magnitude one, and the noise stays white.

    Args:
      rows: With ``kspace`` ``n t 1 h w`` and ``sensitivities`` ``n 1 h w``.
    """
    maps = rows["sensitivities"][:, None]
    kspace = np.asarray(fft2c(ifft2c(jnp.asarray(rows["kspace"])) * np.conj(maps)))
    ones = np.ones_like(rows["sensitivities"])
    return {**rows, "kspace": kspace, "sensitivities": ones}


def exchange(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Series put together of frames of different hearts: frame j is heart i + j's.

    Args:
      rows: With frames on the second axis of ``kspace`` and ``image``.

    Returns:
      The rows; times and labels are the hearts' own, and belong to no series.
    """
    return {
        **rows,
        **{
            name: _turned(rows[name], 1) for name in ("kspace", "image") if name in rows
        },
    }


def put_back(images: np.ndarray) -> np.ndarray:
    """The inverse of `exchange`, of images ``n t h w``."""
    return _turned(images, -1)


def _turned(x: np.ndarray, step: int) -> np.ndarray:
    hearts = np.arange(len(x))[:, None]
    frames = np.arange(x.shape[1])[None]
    return x[(hearts + step * frames) % len(x), frames]


def endpoint(
    images: np.ndarray, truth: np.ndarray, times: np.ndarray, label: np.ndarray
) -> float:
    """RMSE in ms of the T1 map inside the wall.

    Args:
      images: Magnitudes, ``t h w``.
      truth: The noise-free series, ``t h w``; its map is what is compared with.
      times: ms.
      label: 2 in the myocardium; its outermost pixel does not count.

    Raises:
      ValueError: Nothing is left of the wall.
    """
    inside: Any = ndimage.binary_erosion(label == 2)
    if not inside.any():
        raise ValueError(
            f"size: of a wall in {label.shape[0]} x {label.shape[1]} pixels nothing is "
            "left without its outermost one, expected more pixels"
        )
    found, true = (
        np.asarray(fit_map(jnp.asarray(np.abs(x)), jnp.asarray(times), contrast="t1"))
        for x in (images, truth)
    )
    return float(np.sqrt(np.mean((found - true) ** 2, where=inside)))
