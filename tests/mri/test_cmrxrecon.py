"""CMRxRecon: both editions read back, faults are named, rows can be trained on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.prepare import lookalike as lookalike_command
from medjax.data import mat73, nifti
from medjax.data.boundary import DataError
from medjax.data.pipeline import PipelineConfig
from medjax.data.records import RecordSource
from medjax.mri import cmrxrecon, masks, sense
from medjax.mri.cmrxrecon import lookalike
from medjax.mri.cmrxrecon.times import DEFAULTS, read_times
from medjax.train import MeshConfig, TrainConfig, fit, make_mesh, read_metrics


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("cmrxrecon")
    cmrxrecon.fabricate(root / "2023")
    cmrxrecon.fabricate(root / "2024", edition=2024, patients=1)
    return root


@pytest.fixture
def one(tree, tmp_path):
    """A copy of one T1 series whose files a test may break."""
    files = cmrxrecon.find(tree / "2023", name="T1map", sampling="4")[0]
    copies = {}
    for field in ("kspace", "mask", "times", "labels"):
        path = getattr(files, field)
        copies[field] = tmp_path / path.name
        copies[field].write_bytes(path.read_bytes())
    return dataclasses.replace(files, **copies)


@pytest.mark.parametrize("name", ["T1map", "T2map"])
@pytest.mark.parametrize("coils", ["MultiCoil", "SingleCoil"])
def test_a_2023_series_reads_back_as_it_was_made(tree, name, coils):
    found = cmrxrecon.find(tree / "2023", name=name, coils=coils)
    assert [files.patient for files in found] == ["P001", "P002"]
    scan = lookalike.ellipse_scan(name, 2)
    series = cmrxrecon.read_series(found[1])
    expected = scan.kspace
    if coils == "SingleCoil":
        expected = scan.kspace.mean(axis=2, keepdims=True)
    np.testing.assert_allclose(series.kspace, expected, atol=1e-10)
    assert series.mask.shape == (expected.shape[-2], 1) and series.mask.all()
    np.testing.assert_allclose(series.times[1], scan.times)
    np.testing.assert_array_equal(series.labels, scan.labels)


@pytest.mark.parametrize("acceleration", [4, 8, 10])
def test_undersampled_series_come_with_their_masks(tree, acceleration):
    files = cmrxrecon.find(tree / "2023", name="T1map", sampling=str(acceleration))[0]
    series = cmrxrecon.read_series(files)
    expected = masks.cmrxrecon(36, acceleration=acceleration, acs=8)
    np.testing.assert_array_equal(series.mask, expected)
    assert (series.kspace[..., ~series.mask[:, 0], :] == 0).all()
    assert masks.describe(series.mask).nominal == acceleration


def test_one_slice_is_that_slice(tree):
    files = cmrxrecon.find(tree / "2023", name="T1map")[0]
    series, one = cmrxrecon.read_series(files), cmrxrecon.read_slice(files, 1)
    np.testing.assert_array_equal(one.kspace, series.kspace[:, 1])
    np.testing.assert_array_equal(one.times, series.times[1])
    np.testing.assert_array_equal(one.labels, series.labels[1])
    with pytest.raises(DataError, match=r"T1map\.mat: slice 2 of 2"):
        cmrxrecon.read_slice(files, 2)


def test_the_2024_layout(tree):
    root = tree / "2024"
    full = cmrxrecon.find(root, name="T2map", edition=2024)[0]
    assert cmrxrecon.read_series(full).kspace.shape == (3, 2, 4, 28, 48)
    for sampling, shape in (("Uniform4", (28, 1)), ("ktUniform4", (3, 28, 1))):
        files = cmrxrecon.find(
            root, name="T2map", edition=2024, subset="ValidationSet", sampling=sampling
        )[0]
        with pytest.warns(UserWarning, match=r"T2map\.csv \(absent\) has 0 rows"):
            series = cmrxrecon.read_series(files)
        assert series.mask.shape == shape and not series.mask.all()
        mask = np.broadcast_to(series.mask, (3, 28, 1))
        assert (series.kspace * ~mask[:, None, None] == 0).all()


def test_the_phantoms_k_space_holds_its_t1(tree):
    """The images follow the signal model that the maps are fitted with."""
    files = cmrxrecon.find(tree / "2023", name="T1map")[0]
    one = cmrxrecon.read_slice(files, 0)
    k = np.fft.ifftshift(one.kspace, (-2, -1))
    image = np.fft.fftshift(np.fft.ifft2(k, norm="ortho"), (-2, -1))
    blood = np.sqrt((np.abs(image) ** 2).sum(1))[:, one.labels == 1].mean(1)
    t1 = lookalike.TISSUE[1, 0]
    expected = np.abs(1 - 1.9 * np.exp(-one.times * 0.9 / t1))
    np.testing.assert_allclose(blood / blood[-1], expected / expected[-1], atol=0.02)


def test_unknown_requests_are_named(tree, tmp_path):
    with pytest.raises(ValueError, match="name='dwi' is none of"):
        cmrxrecon.find(tree / "2023", name="dwi")
    with pytest.raises(
        FileNotFoundError, match="Cine.*no such folder of CMRxRecon 2023"
    ):
        cmrxrecon.find(tree / "2023", name="cine_sax")
    with pytest.raises(ValueError, match="sampling='Uniform4' is neither"):
        cmrxrecon.find(tree / "2023", name="T1map", sampling="Uniform4")
    with pytest.raises(ValueError, match="2024 edition is MultiCoil only"):
        cmrxrecon.find(tree / "2024", name="T1map", edition=2024, coils="SingleCoil")
    empty = tmp_path / "MultiCoil/Mapping/TrainingSet/FullSample/P001"
    empty.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no patient has T1map.mat"):
        cmrxrecon.find(tmp_path, name="T1map")


def test_damaged_k_space_is_named(one):
    whole = one.kspace.read_bytes()
    one.kspace.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"T1map\.mat.*(intact|truncated)"):
        cmrxrecon.read_series(one)
    mat73.write(one.kspace, {"kspace_sub08": np.zeros((9, 2, 4, 36, 64), "c8")})
    with pytest.raises(
        DataError, match=r"no variable 'kspace_sub04', only \['kspace_sub"
    ):
        cmrxrecon.read_series(one)
    mat73.write(one.kspace, {"kspace_sub04": np.zeros((1, 9, 2, 4, 36, 64), "c8")})
    with pytest.raises(ValueError, match=r"'kspace_sub04' has shape \(1, 9, 2, 4, 36"):
        cmrxrecon.read_series(one)
    kspace = np.zeros((9, 2, 4, 36, 64), "c8")
    kspace[3, 1, 2, 30, 5] = np.nan
    mat73.write(one.kspace, {"kspace_sub04": kspace})
    told = r"T1map\.mat: .*frame 3, slice 1, coil 2, ky 30, kx 5"
    with pytest.raises(DataError, match=told):
        cmrxrecon.read_series(one)
    with pytest.raises(DataError, match=told):
        cmrxrecon.read_slice(one, 1)
    assert cmrxrecon.read_slice(one, 0).kspace.shape == (9, 4, 36, 64)
    mat73.write(one.kspace, {"kspace_sub04": np.zeros((9, 2, 4, 36, 64), "f4")})
    with pytest.raises(
        ValueError, match=r"'kspace_sub04' is float32, expected complex"
    ):
        cmrxrecon.read_series(one)


@pytest.mark.filterwarnings("ignore:.*nominal times")
def test_the_axes_that_matlab_drops_come_back(one):
    kspace = mat73.read(one.kspace, "kspace_sub04")
    bare = dataclasses.replace(one, labels=None)
    for kept in (kspace[0], kspace[0, 0]):  # one frame; and one slice
        mat73.write(one.kspace, {"kspace_sub04": kept})
        series = cmrxrecon.read_series(bare)
        assert series.kspace.shape == (1,) * (5 - kept.ndim) + kept.shape
        np.testing.assert_array_equal(series.kspace[0, 0], kspace[0, 0])
        last = cmrxrecon.read_slice(bare, series.kspace.shape[1] - 1)
        np.testing.assert_array_equal(last.kspace, series.kspace[:, -1])


def test_double_precision_k_space_is_accepted(one):
    stored = mat73.read(one.kspace, "kspace_sub04")
    mat73.write(one.kspace, {"kspace_sub04": stored.astype(np.complex128)})
    series = cmrxrecon.read_series(one)
    assert series.kspace.dtype == np.complex64
    np.testing.assert_array_equal(series.kspace, stored)


def test_misfitting_masks_and_labels_are_named(one):
    mat73.write(one.mask, {"mask04": np.ones((30, 64))})
    with pytest.raises(ValueError, match=r"mask\.mat: variable 'mask04' has shape"):
        cmrxrecon.read_series(one)
    bare = dataclasses.replace(one, mask=None)
    nifti.write(one.labels, np.zeros((64, 36, 3), int), affine=np.eye(4))
    with pytest.raises(
        ValueError, match=r"label\.nii\.gz: shape \(64, 36, 3\), expect"
    ):
        cmrxrecon.read_series(bare)
    nifti.write(one.labels, np.full((64, 36, 2), 7), affine=np.eye(4))
    with pytest.raises(ValueError, match=r"labels \[7\] are not in"):
        cmrxrecon.read_series(bare)


def test_label_numbers_can_be_told_apart_by_name(one):
    usual = cmrxrecon.read_series(one).labels
    swapped = cmrxrecon.read_series(
        one, label_names={1: "lv", 2: "rv", 3: "myocardium"}
    ).labels
    np.testing.assert_array_equal(swapped == 2, usual == 3)
    np.testing.assert_array_equal(swapped == 3, usual == 2)


NOMINAL = [0, 35, 55]


@pytest.mark.parametrize(
    ("text", "expected", "warning"),
    [
        (",a,b,,\n1,0,1,,\n2,3,4,,\n3,5,6,,\n,,,,\n", [[0, 3, 5], [1, 4, 6]], None),
        ("x,a\n1,0\n2,30\n3,50\n", [[0, 30, 50], [0, 30, 50]], None),
        ("x,a,NaN\n1,0,NaN\n2,3,NaN\n3,5,NaN\nNaN,,\n", [[0, 3, 5]] * 2, None),
        ("x,a,b,c\n1,0,1,9\n2,3,4,9\n3,5,6,9\n", [[0, 3, 5], [1, 4, 6]], None),
        ("x,a,b\n1,0,1\n2,3,4\n", [NOMINAL] * 2, "has 2 rows of times for 3"),
        ("", [NOMINAL] * 2, "has 0 rows of times for 3"),
        ("x,a,b\n1,0,1\n2,3,\n3,5,6\n", [[0, 3, 5], NOMINAL], r"gaps in slices \[1\]"),
        ("x,a,b\n1,0,1\n2,3,-4\n3,5,6\n", [[0, 3, 5], NOMINAL], r"impossible .*\[1\]"),
        ("x;a;b\n1;0;1\n2;3;4\n3;5;6\n", [[0, 3, 5], [1, 4, 6]], None),
        ("x;a;b\n1;0,5;1,5\n2;3;4\n3;5;6\n", [[0.5, 3, 5], [1.5, 4, 6]], None),
        ("a,b\n0,1\n3,4\n5,6\n", [[0, 3, 5], [1, 4, 6]], None),
        ("1,0,1\n2,3,4\n3,5,6\n", [[0, 3, 5], [1, 4, 6]], None),
        (",1,2\n1,0,1\n2,3,4\n3,5,6\n", [[0, 3, 5], [1, 4, 6]], None),
        ("x,a\n1,0\n2,.03\n3,.05\n", [[0, 30, 50]] * 2, "hold seconds"),
        (f"x,a\n1,0\n2,{'3' * 200_000}\n", [NOMINAL] * 2, "cannot be read"),
    ],
)
def test_times_survive_the_faults_of_real_files(tmp_path, text, expected, warning):
    path = tmp_path / "T2map.csv"
    path.write_text(text)
    if warning is None:
        times = read_times(path, name="T2map", frames=3, slices=2)
    else:
        with pytest.warns(UserWarning, match=rf"T2map\.csv .*{warning}"):
            times = read_times(path, name="T2map", frames=3, slices=2)
    np.testing.assert_allclose(times, expected)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-8-sig"])
def test_times_survive_every_encoding(tmp_path, encoding):
    path = tmp_path / "T2map.csv"
    path.write_text("\N{MICRO SIGN}s,a\n1,0\n2,3\n3,5\n", encoding)
    times = read_times(path, name="T2map", frames=3, slices=1)
    np.testing.assert_array_equal(times, [[0, 3, 5]])


def test_missing_times_and_columns_fall_back_to_nominal_ones(tmp_path):
    with pytest.warns(UserWarning, match=r"T1map\.csv \(absent\)"):
        times = read_times(None, name="T1map", frames=9, slices=1)
    np.testing.assert_array_equal(times[0], DEFAULTS["t1map"])
    assert read_times(None, name="cine_sax", frames=12, slices=1) is None
    path = tmp_path / "T2map.csv"
    path.write_text("x,a,b\n1,0,1\n2,3,4\n3,5,6\n")
    with pytest.warns(UserWarning, match="has 2 columns for 3 slices"):
        times = read_times(path, name="T2map", frames=3, slices=3)
    np.testing.assert_array_equal(times, [[0, 3, 5], [1, 4, 6], [0, 35, 55]])


def test_published_splits():
    patients = [f"P{i:03d}" for i in range(120, 0, -1)]
    split = cmrxrecon.latent_transformer_split(patients)
    assert {name: len(p) for name, p in split.items()} == {
        "train": 100,
        "validation": 10,
        "test": 10,
    }
    assert set().union(*split.values()) == set(patients)
    assert {"P001", "P069", "P028"} <= set(split["validation"])
    assert {"P079", "P003", "P093"} <= set(split["test"])
    assert cmrxrecon.promptmr_split(patients)["validation"][0] == "P101"
    with pytest.raises(ValueError, match="of 120 patients, got 119"):
        cmrxrecon.promptmr_split(patients[1:])


def test_preparation_sorts_slices_by_shape_and_split(tree, tmp_path):
    split = {"train": ["P001"], "validation": ["P002", "P099"]}
    sets = cmrxrecon.prepare(tree / "2023", tmp_path, name="T2map", split=split, acs=8)
    assert list(sets) == [(3, 4, 28, 48)]
    source = RecordSource(sets[3, 4, 28, 48], "validation")
    assert len(source) == 2
    row = source[1]
    files = cmrxrecon.find(tree / "2023", name="T2map")[1]
    expected = cmrxrecon.read_slice(files, 1)
    np.testing.assert_array_equal(row["kspace"], expected.kspace)
    np.testing.assert_array_equal(row["label"], expected.labels)
    np.testing.assert_array_equal(row["times"], expected.times)
    assert (row["patient"], int(row["slice"])) == ("P002", 1)
    size = np.sqrt((np.abs(row["sensitivities"]) ** 2).sum(0))
    np.testing.assert_allclose(size[expected.labels > 0], 1, atol=1e-4)
    with pytest.raises(ValueError, match="no patient of .* is in"):
        cmrxrecon.prepare(
            tree / "2023", tmp_path / "b", name="T2map", split={"train": ["P050"]}
        )


def test_the_command_writes_a_tree(tmp_path, capsys):
    arguments = ["--root", str(tmp_path), "--patients", "1", "--phantom", "ellipses"]
    assert lookalike_command.main(arguments) == 0
    assert "46 files" in capsys.readouterr().out
    assert len(cmrxrecon.find(tmp_path, name="T1map", sampling="4")) == 1


def test_the_bloch_phantom_fits_the_tree(tmp_path):
    scan = lookalike_command.bloch_scan("T2map", 1)

    def series(name: str, patient: int) -> lookalike.Scan:
        return scan if name == "T2map" else lookalike.ellipse_scan(name, patient)

    cmrxrecon.fabricate(tmp_path, patients=1, series=series)
    back = cmrxrecon.read_series(cmrxrecon.find(tmp_path, name="T2map")[0])
    np.testing.assert_array_equal(back.kspace, scan.kspace)
    np.testing.assert_array_equal(back.labels, scan.labels)
    assert set(np.unique(back.labels)) == {0, 1, 2, 3}


def test_the_training_stream_gives_batches_of_one_shape(tree, tmp_path):
    split = {"train": ["P001", "P002"]}
    sets = {}
    for name in ("T1map", "T2map"):
        sets |= cmrxrecon.prepare(
            tree / "2023", tmp_path, name=name, split=split, acs=8
        )
    config = PipelineConfig(batch_size=2, threads=1, prefetch=1)
    stream = cmrxrecon.training_stream(sets, "train", config, acceleration=4, acs=8)
    iterator = iter(stream)
    batches = [next(iterator) for _ in range(8)]
    shapes = {batch["kspace"].shape for batch in batches}
    assert shapes == {(2, 9, 4, 36, 64), (2, 3, 4, 28, 48)}
    offsets = set()
    for batch in batches:
        b, t, c, h, w = batch["kspace"].shape
        assert batch["sensitivities"].shape == (b, c, h, w)
        assert batch["mask"].shape == (b, 1, h, 1) and batch["times"].shape == (b, t)
        outside = batch["mask"][:, 0, : h // 2 - 4, 0]
        assert (outside.sum(axis=1) >= (h // 2 - 4) // 4).all()
        offsets |= set(outside.argmax(axis=1).tolist())
    assert len(offsets) > 1  # masks are drawn row by row
    again = iter(
        cmrxrecon.training_stream(sets, "train", config, acceleration=4, acs=8)
    )
    again.set_state(iterator.get_state())
    np.testing.assert_array_equal(next(again)["mask"], next(iterator)["mask"])
    # Two processes read it half by half, in the same shapes.
    halves = [
        iter(
            cmrxrecon.training_stream(
                sets,
                "train",
                config,
                acceleration=4,
                acs=8,
                process_index=i,
                process_count=2,
            )
        )
        for i in range(2)
    ]
    for batch in batches:
        both = [next(half) for half in halves]
        for name in ("kspace", "mask", "index"):
            together = np.concatenate([half[name] for half in both])
            np.testing.assert_array_equal(together, batch[name])
    check_trains(stream, tmp_path / "run")
    once = dataclasses.replace(config, epochs=1)
    epoch = list(cmrxrecon.training_stream(sets, "train", once, acceleration=4, acs=8))
    index = np.concatenate([batch["index"] for batch in epoch])
    assert sorted(index) == list(range(8))  # two slices of two patients, twice


def check_trains(stream, workdir):
    """A network of one weight learns from matrices of both sizes."""

    def image(batch):
        return sense.adjoint(
            batch["kspace"], batch["sensitivities"][:, None], batch["mask"]
        )

    def loss(variables, batch, key):
        del key
        full = {**batch, "mask": jnp.ones_like(batch["mask"])}
        scale = 1 / jnp.max(jnp.abs(image(full)))
        weight = variables["params"]["weight"].astype(jnp.complex64)
        error = weight * image(batch) - image(full)
        return jnp.mean(jnp.abs(error)) * scale, ({}, {})

    fit(
        lambda key, batch: {"params": {"weight": jnp.zeros(())}},
        loss,
        stream,
        workdir=workdir,
        train=TrainConfig(steps=8, log_every=1),
        mesh=make_mesh(MeshConfig(), devices=jax.devices()[:1]),
    )
    assert [row["compiled_shapes"] for row in read_metrics(workdir)][-1] == 2
