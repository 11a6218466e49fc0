"""Every learned reconstruction by name: settings kept and read back, kernels chosen."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from experiments import latent_transformer, promptmr, varnet
from medjax.mri import image_unet, unrolled
from medjax.mri import latent_transformer as single_coil
from medjax.mri import promptmr as prompts
from medjax.mri import varnet as variational
from medjax.mri.systems import FAMILIES, ReconstructionKernels, Trained, build, family

EVERY = [
    *single_coil.CONFIGS.values(),
    *unrolled.CONFIGS.values(),
    *variational.CONFIGS.values(),
    *prompts.CONFIGS.values(),
    *image_unet.CONFIGS.values(),
]
FEW_LINES = {
    "kspace": jax.ShapeDtypeStruct((1, 3, 2, 16, 16), jnp.complex64),
    "mask": jax.ShapeDtypeStruct((1, 1, 16, 1), jnp.bool_),
}


def trained(system) -> Trained:
    return Trained(system, 2.5e-4, "hearts", "t1", 9, 10, (4, 8), 24)


@pytest.mark.parametrize("system", EVERY)
def test_settings_come_back_from_the_record(system, tmp_path):
    if hasattr(system, "dtype"):
        system = dataclasses.replace(system, dtype=jnp.bfloat16)
    kept = trained(system)
    kept.save(tmp_path)
    assert Trained.load(tmp_path) == kept


def test_an_older_record_has_the_defaults_and_a_newer_one_is_refused(tmp_path):
    trained(variational.CONFIGS["tiny"]).save(tmp_path)
    path = tmp_path / "system.json"
    text = path.read_text()
    path.write_text(text.replace('"acs_lines": null,', ""))
    assert Trained.load(tmp_path).system == variational.CONFIGS["tiny"]
    path.write_text(text.replace('"acs_lines"', '"acs_columns"'))
    with pytest.raises(ValueError, match="VarNetConfig has no field 'acs_columns'"):
        Trained.load(tmp_path)


def test_every_preset_is_of_a_family():
    presets = [
        preset.system
        for experiment in (latent_transformer, promptmr, varnet)
        for preset in experiment.PRESETS.values()
    ]
    assert {family(system) for system in [*presets, *EVERY]} == set(FAMILIES)


@pytest.mark.parametrize(
    "system", [variational.CONFIGS["tiny"], prompts.CONFIGS["tiny"]]
)
def test_the_kernels_flag_reaches_networks_on_coil_images(system):
    """The other families: ``test_latent_transformer``."""
    plain = build(system, ReconstructionKernels())
    variables = jax.eval_shape(plain.init, jax.random.key(0), FEW_LINES)
    image = jax.eval_shape(plain.reconstruct, variables, FEW_LINES)
    assert image.shape == (1, 3, 16, 16)
    with pytest.raises(NotImplementedError, match="tpu"):
        other = build(system, ReconstructionKernels("tpu"))
        jax.eval_shape(other.reconstruct, variables, FEW_LINES)
