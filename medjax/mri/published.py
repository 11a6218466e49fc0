"""Published weights as reconstruction methods: fastMRI's U-Net and VarNet, PromptMR.

Which network a file is of, and its sizes, its tensors' names and shapes tell: no flag
is needed. Only safetensors are read (an error on a pickle says how to convert one).
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax.mri.image_unet import ImageUNetConfig
from medjax.mri.learned import Learned, weights_fit
from medjax.mri.promptmr import PromptMRConfig, PromptUNetConfig
from medjax.mri.systems import (
    ReconstructionConfig,
    ReconstructionKernels,
    Trained,
    build,
)
from medjax.mri.varnet import VarNetConfig
from medjax.typing import Variables
from medjax.weights.convert import from_torch, part
from medjax.weights.files import read_tensors, weight_files
from medjax.weights.names import Table
from medjax.weights.reconstruction import fastmri_unet, fastmri_varnet, promptmr

Tensors = Mapping[str, np.ndarray]
PREFIXES = ("unet.", "varnet.", "promptmr.")
"""What Lightning modules put before the names."""


class Published(NamedTuple):
    """A checkpoint read into a system of ours.

    Attributes:
        config: Of the system.
        variables: Its weights.
        table: The names that were read by, which also lead back.
    """

    config: ReconstructionConfig
    variables: Variables
    table: Table


def read_published(source: str | Path) -> Published:
    """Reads a checkpoint of fastMRI's U-Net or VarNet, or of PromptMR.

    Args:
        source: A safetensors file, a folder with one, or a hub id.

    Returns:
        Configuration, weights and name table.

    Raises:
        FileNotFoundError: No such checkpoint.
        ValueError: A pickle, a network that is none of these, or tensors that do not
            fit it.
    """
    tensors = dict(read_tensors(weight_files(source)))
    plain = {_without_prefix(name): tensor for name, tensor in tensors.items()}
    try:
        if "sens_net.norm_unet.unet.feat_extract.weight" in plain:
            config, table = _promptmr(plain), promptmr()
        elif "sens_net.norm_unet.unet.conv.layers.0.weight" in plain:
            config = _varnet(plain)
            table = fastmri_varnet(pools=config.pools, sens_pools=config.sens_pools)
        elif "conv.layers.0.weight" in plain:
            config = _unet(plain)
            table = fastmri_unet(pools=config.pools, under="unet/")
        else:
            raise ValueError(
                f"expected fastMRI's U-Net or VarNet, or PromptMR, found the tensors "
                f"{sorted(tensors)[:4]}"
            )
        shapes = jax.eval_shape(
            build(config, ReconstructionKernels()).init,
            jax.random.key(0),
            _example(config),
        )
        variables = from_torch(plain, table, shapes)
    except KeyError as error:
        raise ValueError(f"{source}: no tensor {error.args[0]!r}") from None
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    return Published(config, variables, table)


def open_checkpoints(files: Sequence[Path]) -> dict[str, Learned]:
    """Published weights as methods, by the names of their files.

    Raises:
        FileNotFoundError: For a missing file.
        ValueError: For one that cannot be used, or two of one name.
    """
    opened: dict[str, Learned] = {}
    for file in files:
        if (name := file.stem) in opened:
            raise ValueError(f"checkpoints: two are called {name!r}: rename a file")
        config, variables, _ = read_published(file)
        system = build(config, ReconstructionKernels())
        trained = Trained(
            system=config,
            magnitude=1.0,  # all of them bring their input to one magnitude
            data=f"published weights ({file.name})",
            series="t1",
            frames=1,
            coils=1,
            acceleration=(),
            acs=0,
        )
        misfit = weights_fit(system, variables)
        opened[name] = Learned(trained, 0, variables, system.reconstruct, misfit)
    return opened


def _without_prefix(name: str) -> str:
    return next((name.removeprefix(p) for p in PREFIXES if name.startswith(p)), name)


def _example(config: ReconstructionConfig) -> dict[str, Any]:
    """A batch of a size that can be pooled often enough."""
    frames = config.window if isinstance(config, PromptMRConfig) else 1
    return {
        "kspace": jax.ShapeDtypeStruct((1, frames, 2, 256, 256), jnp.complex64),
        "mask": jax.ShapeDtypeStruct((1, 1, 256, 1), jnp.bool_),
    }


def _count(tensors: Tensors, template: str) -> int:
    """How many numbers a name goes on for."""
    number = 0
    while template.format(number) in tensors:
        number += 1
    return number


def _unet(tensors: Tensors) -> ImageUNetConfig:
    chans, inputs = tensors["down_sample_layers.0.layers.0.weight"].shape[:2]
    if inputs != 1:
        raise ValueError(f"a U-Net of {inputs} input channels, expected magnitudes (1)")
    pools = _count(tensors, "down_sample_layers.{}.layers.0.weight")
    return ImageUNetConfig(chans=chans, pools=pools)


def _varnet(tensors: Tensors) -> VarNetConfig:
    first, own = "down_sample_layers.0.layers.0.weight", "sens_net.norm_unet.unet."
    block = part(tensors, "cascades.0.model.unet.")
    sens = part(tensors, own)
    return VarNetConfig(
        cascades=_count(tensors, "cascades.{}.dc_weight"),
        chans=block[first].shape[0],
        pools=_count(block, "down_sample_layers.{}.layers.0.weight"),
        sens_chans=sens[first].shape[0],
        sens_pools=_count(sens, "down_sample_layers.{}.layers.0.weight"),
    )


def _promptmr(tensors: Tensors) -> PromptMRConfig:
    block = part(tensors, "cascades.0.model.unet.")
    return PromptMRConfig(
        cascades=_count(tensors, "cascades.{}.dc_weight"),
        window=block["feat_extract.weight"].shape[1] // 2,
        network=_prompt_unet(block),
        sens_network=_prompt_unet(part(tensors, "sens_net.norm_unet.unet.")),
    )


def _prompt_unet(block: Tensors) -> PromptUNetConfig:
    """Sizes of a prompt U-Net from its tensors."""
    at = functools.partial(_count, block)

    def three(of: Any) -> Any:
        return tuple(of(level) for level in (1, 2, 3))

    def prompt(level: int) -> tuple[int, ...]:
        return block[f"prompt_level{level}.prompt_param"].shape[1:]

    features = block["feat_extract.weight"].shape[0]
    squeezed = block["enc_level1.encoder.0.CA.conv_du.0.weight"].shape[0]
    return PromptUNetConfig(
        features=features,
        widths=three(lambda i: block[f"enc_level{i}.down.weight"].shape[0]),
        prompt_widths=three(lambda i: prompt(i)[1]),
        prompt_count=prompt(1)[0],
        prompt_sizes=three(lambda i: prompt(i)[2]),
        encoder_blocks=three(lambda i: at(f"enc_level{i}.encoder.{{}}.body.0.weight")),
        decoder_blocks=three(lambda i: at(f"dec_level{i}.fuse.{{}}.body.0.weight")),
        skip_blocks=at("skip_attn1.skip_attn.{}.body.0.weight"),
        bottleneck_blocks=at("bottleneck.{}.body.0.weight"),
        reduction=features // squeezed,
    )
