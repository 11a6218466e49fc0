"""Released weights of DeepMesh and CHeart become runs that find what PyTorch finds."""

import dataclasses
import functools
import importlib
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import medjax
from experiments import convert
from experiments.bench import heart_steps
from medjax.heart.cheart import cheart_system
from medjax.heart.deepmesh_networks import DeepMesh, NetworkConfig
from medjax.heart.published import deepmesh_of

torch = pytest.importorskip("torch", reason="parity needs PyTorch (extra: parity)")

NETWORK = NetworkConfig(
    levels=((4, 4), (6,)), stem=3, neck=8, up=(6,), fuse=4, volume=(4, 6)
)
SLICES, SIDE = 4, 8
SHAPE = (16, 16, 16)


def settled(network, seed):
    """In use, with parameters and statistics that tell one tensor from another.

    Kernels keep the size of what they read: where values grow from layer to layer, the
    last one's tanh turns the rounding of large sums into differences of its slope.
    """
    torch.manual_seed(seed)
    for name, value in network.state_dict().items():
        if value.ndim > 1:
            value.normal_(0.0, value[0].numel() ** -0.5)
        elif value.is_floating_point():
            value.uniform_(0.5 if name.endswith("running_var") else -0.4, 1.0)
    return network.eval()


def save(path, network, **more):
    path.parent.mkdir(exist_ok=True)
    torch.save({**network.state_dict(), **more}, path)


@pytest.fixture
def released(tmp_path):
    theirs = importlib.import_module("experiments.bench.torch_deepmesh")
    motion = settled(theirs.MotionMesh25d(NETWORK, SLICES), 0)
    stem = settled(theirs.Mesh2d(NETWORK, SLICES), 1)
    first = settled(theirs.Deformnet(NETWORK, SLICES), 2)
    other = settled(theirs.Mesh2d(NETWORK, SLICES), 3)
    save(tmp_path / "motion" / "motionEst.pth", motion)
    save(tmp_path / "motion" / "multiview.pth", stem)
    save(tmp_path / "first" / "deform.pth", first)
    save(tmp_path / "first" / "multiview.pth", other)
    return tmp_path, (motion, stem), (first, other)


def images():
    rng = np.random.default_rng(0)
    sax = rng.normal(size=(2, 2, SLICES, SIDE, SIDE)).astype(np.float32)
    lax = rng.normal(size=(2, 2, 2, SIDE, SIDE)).astype(np.float32)
    return sax, lax


def test_deepmeshs_two_stages_become_a_run(released, capsys):
    theirs = importlib.import_module("experiments.bench.torch_deepmesh")
    folder, (motion, stem), (deform, other) = released
    out = folder / "run"
    command = [str(folder / "motion" / "motionEst.pth"), str(out)]
    assert (
        convert.main([*command, "--first", str(folder / "first" / "deform.pth")]) == 0
    )
    assert f"experiments.heart track {out} cine.nii.gz" in capsys.readouterr().out
    run = medjax.load(out)
    config = run.trained.system
    assert config.network == dataclasses.replace(NETWORK, still=False)
    assert not config.given and not config.voxel_centres
    sax, lax = images()
    batch = {"sax": sax, "lax": lax}
    with torch.no_grad():
        now = theirs.field_of(motion, stem, batch)
        short, views = theirs.views(batch)
        ed = deform([short[0], *other([view[0] for view in views])])
    stages: tuple[Literal["motion", "ed"], ...] = ("motion", "ed")
    for stage, folder, found in zip(stages, (".", "ed"), (now, ed), strict=True):
        given = (jnp.asarray(sax), jnp.asarray(lax), jnp.ones((2, 2)))
        module = DeepMesh(config.network, stage)
        read = jax.jit(functools.partial(module.apply, train=False))
        field = read(run.weights[folder], *given)[stage]
        # Along columns, rows and slices there.
        expected = found.numpy().transpose(0, 2, 3, 4, 1)[..., ::-1]
        assert expected.std() > 0.01
        np.testing.assert_allclose(field, expected, atol=1e-5)


def test_one_stage_of_deepmesh_is_given_its_mesh_and_files_are_missed(released, capsys):
    folder, _, _ = released
    second, first = folder / "motion" / "motionEst.pth", folder / "first" / "deform.pth"
    assert convert.main([str(second), str(folder / "run")]) == 0
    assert medjax.load(folder / "run").trained.system.given
    assert convert.main([str(first), str(folder / "out")]) == 1
    assert "which moves nothing" in capsys.readouterr().err
    stem = folder / "motion" / "multiview.pth"
    wrong = ["--first", str(stem)]
    assert convert.main([str(second), str(folder / "out"), *wrong]) == 1
    assert "multiview.pth: expected the first stage" in capsys.readouterr().err
    assert convert.main([str(stem), str(folder / "out"), *wrong]) == 1
    assert "is not DeepMesh's second one" in capsys.readouterr().err
    stem.unlink()
    assert convert.main([str(second), str(folder / "out")]) == 1
    assert "expected multiview.pth" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_heads_of_deepmeshs_first_version_are_left_aside(released):
    folder, (motion, stem), _ = released
    tensors = {
        name: value.numpy()
        for network in (motion, stem)
        for name, value in network.state_dict().items()
    }
    heads = {
        "conv2d10_1.0.weight": np.zeros((2, 2, 3, 3), np.float32),
        "conv3d17.0.weight": np.zeros((2, 1, 3, 3, 3), np.float32),
    }
    made = deepmesh_of({**tensors, **heads}, None, data="")
    assert set(made.variables) == {"."}
    with pytest.raises(ValueError, match=r"no place for \['conv4.0.weight'\]"):
        deepmesh_of({**tensors, "conv4.0.weight": np.zeros(3)}, None, data="")


def test_chearts_becomes_a_run(tmp_path, capsys):
    theirs = importlib.import_module("experiments.bench.torch_cheart")
    config = heart_steps.cheart_config(SHAPE, 20)
    config = dataclasses.replace(config, latent=3, width=2)
    network = settled(theirs.GenCvaeSeq(config), 0)
    # Copies, and a layer that is never called, are in the released code's files.
    more = {"conv1.weight": network.encoder[0].weight, "fc_disp.bias": torch.ones(2)}
    save(tmp_path / "cheart.pth", network, **more)
    command = [str(tmp_path / "cheart.pth"), str(tmp_path / "run")]
    assert convert.main(command) == 1
    assert "features are not of volumes of (4, 8, 8)" in capsys.readouterr().err
    assert convert.main([*command, "--shape", *map(str, SHAPE)]) == 0
    run = medjax.load(tmp_path / "run")
    assert run.trained.system == config
    batch = heart_steps.cheart_batch(config, people=2)
    first, told = batch["labels"][:, 0], batch["conditions"]
    logits = jax.jit(cheart_system(config).apply["complete"])(
        run.variables, {"labels": jnp.asarray(first), "conditions": jnp.asarray(told)}
    )
    with torch.no_grad():
        one_hot = torch.eye(4)[torch.from_numpy(first.astype(np.int64))].movedim(-1, 1)
        given = torch.from_numpy(told)
        expected = network.decode(network.encode(one_hot, given)[0], given)
    expected = np.moveaxis(expected.numpy(), 2, -1)
    scale = expected.std()
    np.testing.assert_allclose(logits / scale, expected / scale, atol=1e-4)
