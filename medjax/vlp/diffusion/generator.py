"""Reports to films by latent diffusion, behind the interface of the drawn ones.

A film depends on its report, the seed and its row in the call, not on how many reports
there are or what runs beside it: its noise is drawn from the seed and the row, and
every device runs the same program on a small group of a fixed size at a time. So
shapes are the same on one device and on many, and films the same bytes wherever the
compiler makes the same program of them; a chip of another kind rounds otherwise.

Every device holds all weights, or a part of them (``SamplingConfig.fsdp``): then each
network is gathered when it is asked, and nothing else ever travels.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, UInt8

from medjax.progress import Progress
from medjax.train.compiling import once
from medjax.train.mesh import BATCH_AXES, MeshConfig, make_mesh
from medjax.train.sharding import DEFAULT_RULES, Rules, param_shardings
from medjax.vlp.diffusion.folder import Pipeline, load_pipeline
from medjax.vlp.diffusion.networks import Networks, Params
from medjax.vlp.diffusion.samplers import guided, row_noise, sample
from medjax.vlp.diffusion.schedule import SamplingConfig, deciding
from medjax.vlp.reports import join_sections, split_sections

DEFAULT = SamplingConfig()


class DiffusionGenerator:
    """Makes a film of every report.

    Attributes:
      networks: sizes.
      size: side of the films.
      section: what of a report is read.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        sampling: SamplingConfig = DEFAULT,
        size: int | None = None,
        mesh: Mesh | None = None,
        rules: Rules = DEFAULT_RULES,
    ) -> None:
        """Puts the weights on all devices.

        Args:
          pipeline: networks, weights and tokenizer.
          sampling: sampler, steps and guidance.
          size: side of the films in pixels; None: the network's.
          mesh: the devices; None: all of this process, as the sampling says.
          rules: which weights are split over its axis ``fsdp``, and how.

        Raises:
          ValueError: another size than the network makes.
        """
        self.networks = pipeline.networks.with_dtype(sampling.dtype)
        self.section = pipeline.section
        self.size = self.networks.image_size
        if size not in (None, self.size):
            raise ValueError(
                f"image_size: this generator makes films of {self.size} pixels, "
                f"got {size}"
            )
        self._tokenize, self._sampling = pipeline.tokenize, sampling
        self._identity = pipeline.identity
        # Without weights, of which those on the devices are enough.
        self._pipeline = dataclasses.replace(pipeline, params=None)
        shared = MeshConfig(fsdp=sampling.fsdp)
        self._mesh = mesh or make_mesh(shared, devices=jax.local_devices())
        self._rules = rules
        shardings = param_shardings(pipeline.params, self._mesh, rules)
        self._params = jax.device_put(pipeline.params, shardings)
        self._without = pipeline.tokenize([sampling.negative])
        specs = jax.tree.map(lambda sharding: sharding.spec, shardings)
        whole, split = PartitionSpec(), PartitionSpec(BATCH_AXES)
        self._run = jax.jit(
            jax.shard_map(
                functools.partial(films, self.networks, sampling, specs=specs),
                mesh=self._mesh,
                in_specs=(specs, whole, split, split, whole),
                out_specs=split,
                check_vma=False,
            )
        )

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        sampling: SamplingConfig = DEFAULT,
        size: int | None = None,
    ) -> "DiffusionGenerator":
        """Opens a folder or hub repository of ``diffusers``; see `load_pipeline`."""
        return cls(load_pipeline(source), sampling=sampling, size=size)

    def untrained(self) -> "DiffusionGenerator":
        """The same networks, with weights as they are drawn before any training."""
        options = once(self._mesh.devices.flat[0].platform)
        init = jax.jit(self._pipeline.networks.init, compiler_options=options)
        params = init(jax.random.key(0))
        pipeline = dataclasses.replace(self._pipeline, params=params, identity="")
        return DiffusionGenerator(
            pipeline, sampling=self._sampling, mesh=self._mesh, rules=self._rules
        )

    def __call__(
        self, reports: Sequence[str], *, seed: int
    ) -> UInt8[np.ndarray, "b h w"]:
        """One film per report; equal arguments give equal films.

        Args:
          reports: with or without headers of their sections.
          seed: of the noise.
        """
        if not reports:
            return np.zeros((0, self.size, self.size), np.uint8)
        ids = self._tokenize([self.prompt(report) for report in reports])
        devices = self._mesh.size
        step = devices * self._sampling.group
        split = NamedSharding(self._mesh, PartitionSpec(BATCH_AXES))
        made: list[np.ndarray] = []
        with Progress("films from noise", len(reports), "films") as progress:
            for start in range(0, len(reports), step):
                rows = np.arange(start, start + step, dtype=np.int32)
                here = ids[np.minimum(rows, len(ids) - 1)]
                out = self._run(
                    self._params,
                    jax.random.key(seed % 2**32),
                    *jax.device_put((here, rows), split),
                    self._without,
                )
                made.append(np.asarray(out)[: len(reports) - start])
                progress.advance(len(made[-1]))
        return np.concatenate(made)

    def described(self) -> dict[str, Any]:
        """What decides its films beside the reports and the seed, as JSON holds it."""
        return {
            "name": "diffusion",
            "weights_sha256": self._identity,
            "section": self.section,
            "size": self.size,
            **deciding(self._sampling),
        }

    def prompt(self, report: str) -> str:
        """The text that conditions the film of a report."""
        found = split_sections(report)
        whole = join_sections(found.get("findings", ""), found.get("impression", ""))
        if self.section == "report":
            return whole or report
        return found.get(self.section) or whole or report


def films(
    networks: Networks,
    sampling: SamplingConfig,
    params: Params,
    key: jax.Array,
    ids: Int[Array, "b n"],
    rows: Int[Array, " b"],
    without: Int[Array, "1 n"],
    *,
    specs: Any = None,
) -> UInt8[Array, "b h w"]:
    """The films of one device's reports, one group.

    Args:
      networks: sizes.
      sampling: sampler, steps and guidance.
      params: of all networks, or this device's part of them.
      key: of the seed.
      ids: of the reports' tokens.
      rows: their places in the call.
      without: ids of what films are led away from, such as no text.
      specs: how the parameters are split; None: they are whole.
    """

    def whole(network: str) -> Params:
        if specs is None:
            return params
        gathered = jax.tree.map(_gathered, params[network], specs[network])
        return {network: gathered}

    reader = whole("text")
    text = networks.read(reader, ids)
    away = jnp.broadcast_to(networks.read(reader, without), text.shape)

    def predict(latent: Array, steps: Array, text: Array) -> Array:
        # Gathered in every step: between them a part is enough.
        return networks.predict(whole("unet"), latent, steps, text)

    latent = sample(
        guided(predict, text, away, sampling.guidance),
        row_noise(key, rows, networks.latent_shape),
        networks.schedule,
        steps=sampling.steps,
        sampler=sampling.sampler,
    )
    decoder = whole("autoencoder")
    # One by one: at 512 pixels the decoder's activations are the peak of memory.
    grey = jax.lax.map(lambda z: networks.decode(decoder, z[None])[0], latent)
    return jnp.clip(jnp.round(grey), 0.0, 255.0).astype(jnp.uint8)


def _gathered(part: Array, spec: PartitionSpec) -> Array:
    """A whole parameter of this device's part."""
    for axis, names in enumerate(spec):
        if names is not None:
            part = jax.lax.all_gather(part, names, axis=axis, tiled=True)
    return part
