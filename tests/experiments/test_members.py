"""A member of an ensemble of a real system is what it would be alone.

The law of `tests/train/test_ensemble.py` for what people train: normalisation of
instances and of the batch, convolutions, attention and Fourier transforms under
``vmap``, and whatever a loss draws. By SGD: where a gradient is nothing but rounding,
Adam would make a step of it.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.mri.varnet import VarNetConfig, varnet_system
from medjax.nn.nnunet import NNUNetConfig
from medjax.segmentation.labels import classes
from medjax.segmentation.system import SegmentationConfig, segmentation_system
from medjax.train.ensemble import ensemble, member, member_of, members_apart
from medjax.train.mesh import MeshConfig, make_mesh
from medjax.train.optimizer import OptimizerConfig
from medjax.train.program import describe
from medjax.train.settings import TrainConfig
from medjax.train.sharding import DEFAULT_RULES
from medjax.train.state import run_keys
from medjax.vlp.convirt import CONFIGS, convirt
from medjax.vlp.towers import ImageTowerConfig, TextTowerConfig
from tests.compiling import quickly

STEPS = 3
# A norm so small that every gradient is clipped.
OPTIMIZER = OptimizerConfig(name="sgd", lr=0.1, clip_norm=0.5, weight_decay=0.01)
RNG = np.random.default_rng(0)


def segmentation():
    """A U-Net of slices with its instance normalisation, and augmentation."""
    network = NNUNetConfig(
        out_channels=2,
        widths=(4, 6),
        kernels=((3, 3),) * 2,
        strides=((1, 1), (2, 2)),
        blocks=(1, 1),
        decoder_blocks=(1,),
    )
    labels = classes({"object": 1})
    config = SegmentationConfig(network, (8, 8), 1, labels)
    image = RNG.normal(size=(2, 12, 12, 1))
    return segmentation_system(config), {
        "image": jnp.asarray(image, jnp.float32),
        "label": jnp.asarray(image[..., 0] > 0.5, jnp.int32),
    }


def pretraining():
    """A tower of attention, heads with statistics of the batch, films cut at random."""
    config = CONFIGS["mgca"]
    augment = dataclasses.replace(config.augment, size=16)
    config = dataclasses.replace(
        config, features=8, hidden=8, train_text=False, augment=augment
    )
    text = TextTowerConfig("tiny", vocab_size=40, layers=1, max_length=6)
    system = convirt(config, ImageTowerConfig("vit_tiny"), text)
    return system, {
        "image": jnp.asarray(RNG.integers(0, 256, (4, 20, 20)), jnp.uint8),
        "report": jnp.asarray(RNG.integers(5, 40, (4, 6)), jnp.int32),
    }


def reconstruction():
    """A cascade of VarNet between given coils."""
    config = VarNetConfig(cascades=1, chans=2, pools=1, given_maps=True)
    real, imaginary = RNG.normal(size=(2, 2, 1, 2, 8, 8))
    mask = np.zeros((2, 1, 8, 1), bool)
    mask[:, :, ::2], mask[:, :, 3:5] = True, True
    kspace = jnp.asarray(real + 1j * imaginary, jnp.complex64)
    maps = kspace[:, 0]
    return varnet_system(config), {
        "kspace": kspace,
        "mask": jnp.asarray(mask),
        "sensitivities": maps,
    }


SYSTEMS = {
    "segmentation": segmentation,
    "pre-training": pretraining,
    "reconstruction": reconstruction,
}


def largest(system, batch):
    """The largest array of parameters as a run initialises it: all would take long."""

    def one(key):
        return max(jax.tree.leaves(system.init(key, batch)["params"]), key=jnp.size)

    return np.asarray(jax.jit(one)(run_keys(0)[0]))


def filled(system, batch):
    """Variables of the right shapes."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(system.init, jax.random.key(0), batch)
    return jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(x.dtype), shapes)


def trained(system, variables, batch, optimizer):
    """Variables after a few updates on one device, as a run makes them."""
    mesh = make_mesh(MeshConfig(data=1), devices=jax.devices()[:1])
    program = describe(
        system.init,
        system.loss,
        batch,
        optimizer=dataclasses.replace(optimizer, frozen=tuple(system.frozen)),
        train=TrainConfig(steps=STEPS),
        mesh=mesh,
        rules=system.rules or DEFAULT_RULES,
    )
    blank = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), program.state)
    extra = {k: v for k, v in variables.items() if k != "params"}
    state = dataclasses.replace(blank, params=variables["params"], extra=extra)
    given = state, batch, run_keys(0)[1], np.array(True)
    # All where it belongs, or the second step would be compiled anew.
    places = jax.tree.map(lambda x: x.sharding, program.arguments)
    state, batch, key, proceed = jax.device_put(given, places)
    with jax.set_mesh(mesh):
        for _ in range(STEPS):
            state, metrics = program.step(state, batch, key, proceed)
            proceed = metrics["finite"]
    assert proceed
    return jax.tree.map(np.asarray, state.variables)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_member_of_a_real_system_is_what_it_would_be_alone(name):
    """Both members in one program, and the second by itself."""
    system, batch = SYSTEMS[name]()
    both, one = ensemble(system, 2), member(system, 1)
    with quickly():
        np.testing.assert_allclose(
            largest(both, batch)[1], largest(one, batch), atol=1e-6
        )
        begun = filled(both, batch)
        together = trained(both, begun, batch, members_apart(OPTIMIZER))
        alone = trained(one, member_of(begun, 1), batch, OPTIMIZER)
    mine = member_of(together, 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), mine, alone)
    # Not because nothing happened to it.
    gaps = jax.tree.map(lambda a, b: np.abs(a - b).max(), alone, member_of(begun, 1))
    assert max(jax.tree.leaves(gaps["params"])) > 0.01
