"""What an image takes is told before it is begun, and about what it then takes."""

import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from medjax.data.boundary import DataError
from medjax.data.nifti import Volume
from medjax.segmentation import memory
from medjax.segmentation.inference import WindowConfig
from medjax.segmentation.preparation import Channel, Preparation
from medjax.segmentation.pretrained import Segmenter
from medjax.segmentation.sampled import SampledConfig, sampled_system
from medjax.segmentation.systems import SegmentationRecord
from tests.segmentation.drawing import small


@pytest.fixture(scope="module")
def model():
    """Of slices, without a network: two classes and two draws."""

    def sample(variables, patches, key, count):
        share = 0.5 + 0.1 * jnp.tanh(patches)
        p = jnp.concatenate([share, 1 - share], -1)
        return jnp.stack([p] * max(count, 1))

    config = small(SampledConfig, samples=2)
    system = sampled_system(
        config,
        init=lambda key, batch: {},
        loss=lambda *given: pytest.fail("it is not trained"),
        sample=sample,
        shared_key=True,
    )
    preparation = Preparation((Channel("T1"),), (None, 2.0, 1.0))
    record = SegmentationRecord(config, preparation, "", WindowConfig(batch=8))
    return Segmenter(record, 1, system, {})


def image(*shape):
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return Volume(data, np.eye(4), (1.0, 1.0, 1.0))


def test_it_takes_about_what_was_said(model):
    """Of an image of twice as many voxels as the network sees."""
    given = image(48, 64, 40)
    maps = ("prob", "entropy", "mi", "variance")
    model.segment([given], id="first", maps=maps)  # what is compiled is not counted
    tracemalloc.start()
    model.segment([given], id="second", maps=maps)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    told = memory.needed((48, 32, 40), (48, 64, 40), channels=1, numbers=6)
    assert 0.6 * told < peak < 1.3 * told


def test_what_there_is_no_room_for_is_refused_before_it_is_begun(model, monkeypatch):
    given = image(8, 8, 8)
    least = memory.needed((8, 4, 8), (8, 8, 8), channels=1, numbers=6)
    monkeypatch.setattr(memory, "available", lambda: least)
    model.segment([given], id="a")
    monkeypatch.setattr(memory, "available", lambda: least - 1)
    with pytest.raises(DataError, match=r"a: 8x4x8 voxels take about .* GiB are left"):
        model.segment([given], id="a")
    with pytest.raises(DataError, match="a: 8x4x8 voxels"):
        model.draw([given], id="a", count=100)
    monkeypatch.setattr(memory, "available", lambda: None)
    model.segment([given], id="a")


def test_a_whole_body_is_gigabytes_and_more_draws_are_more():
    body = (951, 512, 512)
    few, many = (memory.needed(body, body, channels=1, numbers=n) for n in (6, 60))
    assert 15 < few / 2**30 < 40 and many > 5 * few
    left = memory.available()
    assert left is None or left > 2**20
