"""Weights come in from pickles without running them, and go out whole."""

import dataclasses
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import medjax
from experiments import convert
from medjax.mri.published import open_checkpoints
from medjax.nn import unet
from medjax.nn.resnet import RESNETS, ResNet
from medjax.vlp.augment import AugmentConfig, evaluate, evaluation
from medjax.vlp.export import Preparation
from medjax.vlp.films import read_film
from medjax.vlp.gloria import GloriaConfig
from medjax.vlp.imitate import ImitateConfig
from medjax.weights import load, to_torch
from medjax.weights.reconstruction import fastmri_unet
from tests.vlp.pairs import SIZE, SYSTEM, random_pair

torch = pytest.importorskip("torch", reason="parity needs PyTorch (extra: parity)")

TEXTS = ["There is edema.", "No edema.", "A lung mass is present.", "No lung mass."]
BATCHNORM = dataclasses.replace(SYSTEM, head="batchnorm", hidden=24)
IMITATE = ImitateConfig(
    features=16,
    hidden_image=24,
    hidden_text=24,
    hidden_reading=24,
    channel_ratios=(0.5, 0.5, 0.5, 0.5),
    token_length=192,
    # The middle of a larger film, as the papers evaluate.
    augment=dataclasses.replace(SYSTEM.augment, size=28, crop_area=(0.77, 0.77)),
)
GLORIA = GloriaConfig(width=128, text="report", augment=SYSTEM.augment)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    for i, shape in enumerate([(50, 40), (32, 32), (20, 30)]):
        film = rng.integers(1, 255, shape).astype(np.uint8)
        film[:5] = 0
        Image.fromarray(film).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize(
    ("system", "architecture", "resize"),
    [
        (SYSTEM, "vit_tiny", "mgca"),
        (BATCHNORM, "resnet_tiny", "imitate"),
        (IMITATE, "resnet_tiny", "mgca"),
        (GLORIA, "vit_tiny", "mgca"),
    ],
    ids=["vit", "batchnorm", "imitate", "gloria"],
)
def test_pytorch_scores_alike_from_the_folder_alone(
    tmp_path, films, system, architecture, resize
):
    from experiments.examples.zero_shot_in_pytorch import zero_shot

    run = random_pair(tmp_path / "run", TEXTS, system, architecture, resize)
    assert convert.main([str(run), str(tmp_path / "out")]) == 0
    theirs = zero_shot(tmp_path / "out", films, ["Edema", "Mass"]).numpy()
    ours = medjax.load(run).zero_shot(films, ["Edema", "Mass"])
    assert np.ptp(ours) > 1e-3  # random towers, but not the same for every film
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
    assert convert.main([str(run), str(tmp_path / "out")]) == 1  # nothing is replaced


def test_pytorch_brings_a_view_to_another_size_as_we_do(films):
    from experiments.examples.zero_shot_in_pytorch import network_input

    config = AugmentConfig(28, upsample=37, crop_area=(0.77, 0.77), normalise="half")
    how = Preparation(
        architecture="resnet_tiny",
        image_size=SIZE,
        resize="mgca",
        crop_area=0.77,
        input_size=28,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        pool="cls",
        max_length=8,
        compared="report",
        prompts="1",
        upsample=37,
    )
    assert how.seen() == evaluation(config)
    pixels = np.stack([read_film(film, SIZE, "mgca") for film in films])
    ours = np.asarray(evaluate(jnp.asarray(pixels), config))
    theirs = [network_input(film, dataclasses.asdict(how)).numpy() for film in films]
    assert ours.shape == (3, 37, 37, 3)
    np.testing.assert_allclose(np.moveaxis(theirs, 1, -1), ours, atol=1e-4)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def resnet(prefix=""):
    from experiments.examples.zero_shot_in_pytorch import ResNet as Torch

    torch.manual_seed(0)
    c = RESNETS["resnet_tiny"]
    tower = Torch(c.blocks, c.bottleneck, c.width, c.stem).eval()
    return tower, {f"{prefix}{k}": v for k, v in tower.state_dict().items()}


def test_a_training_programs_pickle_becomes_a_tower(tmp_path, capsys):
    tower, tensors = resnet("gloria.img_encoder.model.")
    head = {"gloria.img_encoder.global_embedder.weight": torch.zeros(2, 2)}
    saved = {"epoch": 3, "lr": 1e-4, "state_dict": {**tensors, **head}}
    torch.save(saved, tmp_path / "best.pth")
    assert convert.main([str(tmp_path / "best.pth"), str(tmp_path / "tower")]) == 0
    told = capsys.readouterr().out
    assert "network: resnet" in told and "1 left" in told
    network = ResNet(RESNETS["resnet_tiny"])
    image = np.random.default_rng(0).normal(size=(1, SIZE, SIZE, 3)).astype(np.float32)
    image = jax.numpy.asarray(image)
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)
    seen = network.apply(load(tmp_path / "tower", "resnet", shapes), image).pooled
    with torch.no_grad():
        theirs = tower(torch.tensor(np.asarray(image)).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(seen, theirs, rtol=1e-4, atol=1e-4)


def test_a_reconstructions_pickle_is_named_and_opens(tmp_path, capsys):
    net = unet.UNet(unet.fastmri(chans=2, pools=1, out_channels=1))
    weights = net.init(jax.random.key(0), jax.numpy.zeros((1, 8, 8, 1)))
    tensors = to_torch(fastmri_unet(pools=1), weights)
    # As fastMRI's Lightning module saves it.
    saved = {f"unet.{k}": torch.tensor(np.asarray(v)) for k, v in tensors.items()}
    torch.save({"epoch": 1, "state_dict": saved}, tmp_path / "knee.ckpt")
    assert convert.main([str(tmp_path / "knee.ckpt"), str(tmp_path / "knee")]) == 0
    told = capsys.readouterr().out
    assert "network: ImageUNet, for --checkpoints of experiments.cmrxrecon" in told
    (opened,) = open_checkpoints([tmp_path / "knee"]).values()
    ours, theirs = jax.tree.leaves(opened.variables), jax.tree.leaves(weights)
    for got, want in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(got, want)


def test_of_several_networks_one_is_named(tmp_path, capsys):
    both = {**resnet("q.")[1], **resnet("k.")[1]}
    torch.save(both, tmp_path / "two.bin")
    command = [str(tmp_path / "two.bin"), str(tmp_path / "tower")]
    assert convert.main(command) == 1
    assert "resnet 'k.', resnet 'q.'" in capsys.readouterr().err
    assert convert.main([*command, "--prefix", "x."]) == 1
    assert convert.main([*command, "--prefix", "q."]) == 0


@pytest.mark.parametrize("content", [Bomb(), {"state_dict": {}}, [1, 2]])
def test_what_is_no_checkpoint_of_tensors_is_refused(tmp_path, capsys, content):
    torch.save(content, tmp_path / "a.pth")
    out = tmp_path / "out"
    assert convert.main([str(tmp_path / "a.pth"), str(out)]) == 1
    error = capsys.readouterr().err
    assert "a.pth" in error and error.count("\n") == 1 and not out.exists()


def test_damaged_files_and_no_pytorch_are_said_in_a_sentence(
    tmp_path, capsys, monkeypatch
):
    (tmp_path / "cut.pth").write_bytes(pickle.dumps({"a": 1})[:5])
    command = [str(tmp_path / "cut.pth"), str(tmp_path / "out")]
    assert convert.main(command) == 1
    assert "cut.pth: " in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "torch", None)
    assert convert.main(command) == 1
    assert "takes PyTorch, which is not installed" in capsys.readouterr().err
    assert convert.main([str(tmp_path), str(tmp_path / "out")]) == 1
    assert "neither the folder of a run nor a pickle" in capsys.readouterr().err
