"""``--kernels.implementation`` chooses a kernel, and each of them trains the same."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest

from experiments import convirt
from medjax.train.log import read_metrics
from medjax.vlp import pretraining
from medjax.vlp.pretraining import ContrastKernels
from medjax_kernels import compat
from medjax_kernels.contrastive import select


@pytest.fixture
def training_alone(monkeypatch):
    """Nothing after the last step: what follows does not depend on the kernel."""
    monkeypatch.setattr(pretraining, "evaluate", lambda *a, **o: ({}, None))
    monkeypatch.setattr(pretraining, "export_pair", lambda *a: None)
    monkeypatch.setattr(pretraining, "show", lambda *a, **o: None)


def losses(folder, implementation):
    """The logged losses of a few steps of the tiny run, by the flag."""
    change = dataclasses.replace
    preset = convirt.PRESETS["tiny"]
    config = change(
        preset,
        kernels=ContrastKernels(implementation),
        data=change(
            preset.data,
            patients=40,
            image_size=32,
            batch_size=8,
            prepared=folder / "data",
        ),
        image=change(preset.image, architecture="vit_tiny"),
        text=change(preset.text, max_length=16, layers=1),
        train=change(preset.train, steps=3, log_every=1, checkpoint_every=100),
        language=change(preset.language, steps=0),
        warmup_fraction=None,
        workdir=folder / str(implementation),
    )
    pretraining.run(config, convirt.convirt, devices=jax.devices()[:1])
    return [row["loss"] for row in read_metrics(config.workdir) if "loss" in row]


def test_every_implementation_trains_the_same(training_alone, tmp_path, monkeypatch):
    asked = []
    choose = select.select
    monkeypatch.setattr(
        "medjax_kernels.contrastive.api.select",
        lambda name, *a, **o: (asked.append(name), choose(name, *a, **o))[1],
    )
    plain = losses(tmp_path, "xla")
    assert set(asked) == {"xla"}
    assert len(plain) == 3
    assert np.isfinite(plain).all()
    # It learns from them: a kernel without a gradient would stand still.
    assert plain[0] != plain[1] != plain[2]
    for name in ("xla_chunked", "tpu"):
        asked.clear()
        here = compat.interpret(name) if name == "tpu" else contextlib.nullcontext()
        with here:
            curve = losses(tmp_path, name)
        assert set(asked) == {name}
        np.testing.assert_allclose(curve[0], plain[0], rtol=2e-5)
        # Adam takes a whole step where a gradient is nothing but rounding.
        np.testing.assert_allclose(curve, plain, rtol=3e-4)


def test_a_kernel_of_another_chip_is_refused(training_alone, tmp_path):
    with pytest.raises(NotImplementedError, match="implementation='tpu'"):
        losses(tmp_path, "tpu")
