"""What an image takes is told before it is begun, and about what it then takes."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.data.boundary import DataError
from medjax.data.nifti import Volume
from medjax.segmentation import memory
from medjax.segmentation.inference import WindowConfig
from medjax.segmentation.labels import classes
from medjax.segmentation.preparation import Channel, Preparation
from medjax.segmentation.pretrained import Segmenter
from medjax.segmentation.sampled import SampledConfig, sampled_system
from medjax.segmentation.system import SegmentationSystem
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


@pytest.fixture(scope="module")
def many():
    """Of two slices at a time, without a network: sixty classes."""
    labels = classes({f"part{i}": i for i in range(1, 60)})
    config = small(SampledConfig, labels=labels)

    def tile(variables, patches, key):
        places = jnp.linspace(-2.0, 2.0, 60).reshape(1, 1, 1, -1)
        return {"probability": jax.nn.softmax(-((patches - places) ** 2), axis=-1)}

    system = SegmentationSystem(
        init=lambda key, batch: {},
        loss=lambda *given: pytest.fail("it is not trained"),
        tile=tile,
        finish=lambda averages: averages,
    )
    preparation = Preparation((Channel("T1"),), (None, None, None))
    record = SegmentationRecord(config, preparation, "", WindowConfig(batch=2))
    return Segmenter(record, 1, system, {})


def image(*shape):
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return Volume(data, np.eye(4), (1.0, 1.0, 1.0))


def told_of(shape, **numbers):
    """Of an image of twice as many voxels as the network sees, in its eight slices."""
    i, j, k = shape
    seen = (k, i, j // 2)
    return memory.needed(seen, shape, channels=1, planes=8, **numbers)


def peak_of(work):
    work()  # what is compiled is not counted
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_it_takes_about_what_was_said(model):
    given, maps = image(48, 64, 40), ("prob", "entropy", "mi", "variance")
    peak = peak_of(lambda: model.segment([given], id="all", maps=maps))
    told = told_of((48, 64, 40), kept=5, said=6)
    assert 0.6 * told < peak < 1.3 * told
    peak = peak_of(lambda: model.segment([given], id="labels"))
    told = told_of((48, 64, 40), kept=0, said=6)
    assert 0.6 * told < peak < 1.3 * told


def test_classes_take_no_memory_of_the_whole_image(many):
    """Sixty classes of a long image: their planes, not their volumes."""
    given = image(16, 16, 160)
    peak = peak_of(lambda: many.segment([given], id="many"))
    told = memory.needed(
        (160, 16, 16), (16, 16, 160), channels=1, kept=0, said=64, planes=2
    )
    assert peak < 1.3 * told
    assert peak < 0.3 * 4 * given.data.size * 60


def test_labels_are_those_of_the_probabilities(model, many):
    """What is chosen plane by plane, and of all that was said at once."""
    for one in (model, many):
        found = one.segment([image(12, 14, 18)], id="a", maps=("prob",))
        labels = one.record.system.labels
        expected = labels.write(found.maps["prob"].data)
        np.testing.assert_array_equal(found.labels.data, expected)
        alone = one.segment([image(12, 14, 18)], id="a")
        np.testing.assert_array_equal(alone.labels.data, expected)
    options = {"id": "a", "count": 3}
    drawn = model.draw([image(12, 14, 18)], **options)
    found = model.several([image(12, 14, 18)], **options)
    for p, volume in zip(drawn, found, strict=True):
        expected = model.record.system.labels.write(p.data)
        np.testing.assert_array_equal(volume.data, expected)


def test_what_there_is_no_room_for_is_refused_before_it_is_begun(model, monkeypatch):
    given = image(8, 8, 8)
    least = told_of((8, 8, 8), kept=0, said=6)
    monkeypatch.setattr(memory, "available", lambda: least)
    model.segment([given], id="a")
    monkeypatch.setattr(memory, "available", lambda: least - 1)
    with pytest.raises(DataError, match=r"a: 8x4x8 voxels take about .* GiB are left"):
        model.segment([given], id="a")
    with pytest.raises(DataError, match="a: 8x4x8 voxels"):
        model.draw([given], id="a", count=100)
    monkeypatch.setattr(memory, "available", lambda: None)
    model.segment([given], id="a")


def test_a_whole_body_takes_its_maps_and_not_its_classes():
    """A hundred and five classes are for a machine that people have."""
    body, patch = (951, 512, 512), 64
    few, many, kept = (
        memory.needed(body, body, channels=1, kept=kept, said=said, planes=patch)
        for kept, said in ((0, 3), (0, 105), (105, 105))
    )
    assert 8 < few / 2**30 < 16 and many / 2**30 < 40 and kept / 2**30 > 300
    left = memory.available()
    assert left is None or left > 2**20
