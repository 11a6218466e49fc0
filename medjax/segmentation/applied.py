"""A trained system applied to an image in memory.

The image is prepared as in training, the network says something of its tiles, and what
comes out lies on the image's own grid. Planes are taken as they get finished: label
maps are made of them at once (:mod:`.restoring`), and only maps that are asked for are
held as a whole, so that the memory goes with the image and not with the classes.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from medjax.data.nifti import Volume
from medjax.data.volumes import grid_of, to_canonical
from medjax.segmentation.inference import Tile, WindowConfig, planes
from medjax.segmentation.memory import needed, refuse_too_large
from medjax.segmentation.preparation import Prepared, prepare, target_grid
from medjax.segmentation.restoring import RunningLabels, restore
from medjax.segmentation.sampled import every_draw
from medjax.segmentation.segmented import Segmented
from medjax.segmentation.system import SegmentationSystem
from medjax.segmentation.systems import SegmentationRecord, family
from medjax.segmentation.uncertainty import entropy
from medjax.train.mesh import BATCH_AXES
from medjax.typing import Variables

WRITTEN = ("prob", "entropy")
"""What can be written beside the label map of every system."""
OF_DRAWS = ("mi", "variance")
"""What can be written beside it of systems that give several answers."""
LEVELS = "levels"
"""The same of each level by itself, of systems that have latents at several."""


@dataclasses.dataclass(frozen=True)
class Applied:
    """A trained system with all that it takes to say something of an image.

    Attributes:
        record: Its settings.
        step: Updates behind the weights.
        system: Its pure functions.
        variables: The weights.
        mesh: Devices that tiles are split over; None: one. The answer is the same.
    """

    record: SegmentationRecord
    step: int
    system: SegmentationSystem
    variables: Variables
    mesh: Mesh | None = None

    @property
    def written(self) -> tuple[str, ...]:
        """Names of the maps that can be written beside the label map."""
        found = WRITTEN if self.system.sample is None else WRITTEN + OF_DRAWS
        return (*found, LEVELS) if self.system.parts else found

    def segment(
        self,
        volumes: Sequence[Volume],
        *,
        id: str,
        maps: Sequence[str] = (),
        window: WindowConfig | None = None,
    ) -> Segmented:
        """One image in memory.

        Args:
            volumes: One for each channel.
            id: For messages.
            maps: Of :attr:`written`.
            window: Tiles; those of the run by default.

        Raises:
            DataError: For an image that does not fit the run, or the memory.
        """
        labels, order = self.record.system.labels, self.record.preparation.order
        said = labels.channels + len(self.written)
        kept = len(set(maps) - {"prob", LEVELS}) + labels.channels * ("prob" in maps)
        kept += len(self.system.parts) * (LEVELS in maps)
        case = self._prepared(volumes, id, kept=kept, said=said, window=window)
        running = RunningLabels(case, order, labels)
        names = {name: name for name in maps if name != LEVELS}
        names |= {"prob": "probability"} if "prob" in maps else {}
        found = self._kept(case, names, window, running)
        if LEVELS in maps:
            for name, part in self.system.parts.items():
                alone = dataclasses.replace(self, variables={**self.variables, **part})
                found |= alone._kept(case, {name: "mi"}, window)
        restored = {}
        for name in list(found):
            outside = labels.nothing if name == "prob" else (0.0,)
            volume = restore(found.pop(name), case, order, outside=outside)
            if name != "prob":
                volume = dataclasses.replace(volume, data=volume.data[..., 0])
            restored[name] = volume
        return Segmented(id, running.volume, restored)

    def several(
        self,
        volumes: Sequence[Volume],
        *,
        id: str,
        count: int,
        seed: int = 0,
        window: WindowConfig | None = None,
    ) -> list[Volume]:
        """Label maps of several answers to one image.

        Probabilities are never held of the whole image. Arguments are those of
        :meth:`draw`.
        """
        labels, order = self.record.system.labels, self.record.preparation.order
        case, pieces = self._draws(volumes, id, count, seed, window, kept=False)
        found = [RunningLabels(case, order, labels) for _ in range(max(count, 1))]
        for piece in pieces:
            each = np.split(piece, len(found), axis=-1)
            for running, one in zip(found, each, strict=True):
                running.add(one)
        return [running.volume for running in found]

    def draw(
        self,
        volumes: Sequence[Volume],
        *,
        id: str,
        count: int,
        seed: int = 0,
        window: WindowConfig | None = None,
    ) -> list[Volume]:
        """Probabilities of several answers to one image, a fourth axis of channels.

        Args:
            volumes: One for each channel.
            id: For messages.
            count: How many; 0: one in which nothing is drawn.
            seed: Of the draws.
            window: Tiles, without their mirror images: what noise does to one of them
                is another draw, and the mean of draws is none. Those of the run by
                default.

        Raises:
            ValueError: For a system that has one answer.
            DataError: For an image that does not fit the run, or the memory.
        """
        labels, order = self.record.system.labels, self.record.preparation.order
        case, pieces = self._draws(volumes, id, count, seed, window, kept=True)
        every = np.concatenate(list(pieces))
        answers = np.split(every, every.shape[-1] // labels.channels, axis=-1)
        return [restore(p, case, order, outside=labels.nothing) for p in answers]

    def _draws(
        self,
        volumes: Sequence[Volume],
        id: str,
        count: int,
        seed: int,
        window: WindowConfig | None,
        *,
        kept: bool,
    ) -> tuple[Prepared, Iterator[np.ndarray]]:
        """An image as the network sees it, and planes of all draws, ``z y x (m k)``.

        Args:
            volumes: One for each channel.
            id: For messages.
            count: Draws.
            seed: Of them.
            window: Tiles.
            kept: Whether there has to be room for all planes together.
        """
        if self.system.sample is None:
            raise ValueError(
                f"samples: a run of {family(self.record.system)!r} has one answer"
            )
        numbers = max(count, 1) * self.record.system.labels.channels
        window = self.record.window if window is None else window
        window = dataclasses.replace(window, mirror=False)
        room = numbers if kept else max(count, 1)
        case = self._prepared(volumes, id, kept=room, said=numbers, window=window)
        tile = every_draw(self.system.sample, count)
        # One key for all tiles: an answer is one of the whole image.
        found = self._raw(case, tile, window, seed=seed, shared=True)
        return case, (piece["draw"] for piece in found)

    def _prepared(
        self,
        volumes: Sequence[Volume],
        id: str,
        *,
        kept: int,
        said: int,
        window: WindowConfig | None,
    ) -> Prepared:
        """The image as the network sees it, once there is room for what is said of it.

        Args:
            volumes: One for each channel.
            id: For messages.
            kept: Numbers of every voxel that are held until the end.
            said: Numbers of every voxel, of a few planes at a time.
            window: Tiles.
        """
        preparation, patch = self.record.preparation, self.record.system.patch
        original = grid_of(to_canonical(volumes[0]))
        seen = target_grid(original, preparation.spacing).shape
        window = self.record.window if window is None else window
        thick = patch[0]
        if len(patch) == 2:
            mesh = {} if self.mesh is None else self.mesh.shape
            thick = window.batch * math.prod(mesh.get(axis, 1) for axis in BATCH_AXES)
        size = needed(
            [seen[i] for i in preparation.order],
            original.shape,
            channels=len(preparation.channels),
            kept=kept,
            said=said,
            planes=thick,
        )
        refuse_too_large(id, size, seen)
        return prepare(volumes, preparation, id=id)

    def _kept(
        self,
        case: Prepared,
        names: Mapping[str, str],
        window: WindowConfig | None,
        running: RunningLabels | None = None,
    ) -> dict[str, np.ndarray]:
        """Maps in the network's axes, ``z y x q``; all else is passed on or forgotten.

        Args:
            case: Prepared as in training.
            names: Of the maps, each with what the system calls it.
            window: Tiles; those of the run by default.
            running: Takes probabilities.
        """
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for piece in self._raw(case, self.system.tile, window):
            said = self._finished(piece)
            if running is not None:
                running.add(said["probability"])
            for name, called in names.items():
                parts[name].append(said[called])
        return {name: np.concatenate(every) for name, every in parts.items()}

    def _raw(
        self,
        case: Prepared,
        tile: Tile,
        window: WindowConfig | None,
        *,
        seed: int = 0,
        shared: bool = False,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Averages over tiles, piece by piece."""
        config = self.record.window if window is None else window
        shared = shared or config.shared_key or self.system.shared_key
        return planes(
            tile,
            self.variables,
            case.image,
            patch=self.record.system.patch,
            config=dataclasses.replace(config, shared_key=shared),
            key=jax.random.key(seed),
            mesh=self.mesh,
        )

    def _finished(self, averages: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What follows from averages over tiles; not compiled, shapes are many."""
        found = dict(self.system.finish(jax.tree.map(jnp.asarray, dict(averages))))
        if "entropy" not in found:
            found["entropy"] = entropy(found["probability"], self.record.system.labels)
        return {name: np.asarray(value) for name, value in found.items()}
