"""Bad flags end with status 2, places that cannot be written with 1 and a sentence."""

import re
import sys
from pathlib import Path

import pytest

from experiments import cmrxrecon, embed, retrieve, varnet, zero_shot
from experiments.compare import (
    anatomy,
    attention,
    doubling,
    mixing,
    motion,
    pretraining,
    publishing,
    reconstruction,
    rounding,
    uncertainty,
)
from experiments.compare import cmrxmotion as cmrxmotion_comparison
from experiments.prepare import cmrxrecon as prepare_cmrxrecon
from experiments.prepare import lookalike, reports
from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger
from medjax.heart.data import AnatomyConfig, open_anatomies
from medjax.mri.acquisition_config import TreeData
from medjax.mri.acquisitions import open_data
from medjax.segmentation.fingerprint import PlanConfig
from medjax.segmentation.lesionmix.command import MixData, read_cohort
from medjax.segmentation.sets import SegmentationDataConfig, prepared_set
from medjax.train import experiment

COMPARISONS = (anatomy, mixing, pretraining, reconstruction, rounding, uncertainty)


def train(arguments, monkeypatch):
    """A door of training, in this process."""
    monkeypatch.setattr(sys, "argv", ["varnet.py", *arguments])
    monkeypatch.setattr(experiment, "launch", lambda config: None)
    return experiment.main(varnet.PRESETS, lambda config: pytest.fail("it ran"), "")


@pytest.mark.parametrize(
    "door",
    [embed, zero_shot, retrieve, cmrxrecon, reports, prepare_cmrxrecon, lookalike],
)
def test_flags_that_nobody_knows_are_status_2(door, capsys):
    with pytest.raises(SystemExit) as ended:
        door.main(["--no-such-flag", "1"])
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("door", COMPARISONS)
def test_comparisons_and_training_too(door, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["compare", "--no-such-flag", "1"])
    with pytest.raises(SystemExit) as ended:
        door.main()
    assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended:
        train(["tiny", "--train.steps", "many"], monkeypatch)
    assert ended.value.code == 2


def test_a_folder_below_a_file_is_refused_before_any_work(
    tmp_path, capsys, monkeypatch
):
    (tmp_path / "file").touch()
    (tmp_path / "t.csv").write_text(
        "text,patient\n"
        + "".join(f"The lungs are clear in {i}.,{i}\n" for i in range(9))
    )
    below = str(tmp_path / "file" / "run")

    def refused(status):
        told = capsys.readouterr().err.strip().split("\n")[-1]
        assert status == 1, told
        assert re.search(r"^error: .*/file.*: (Not a directory|File exists)$", told), (
            told
        )

    refused(cmrxrecon.main(["phantom", "--workdir", below]))
    refused(lookalike.main(["--root", below]))
    table = ["table", "--root", str(tmp_path / "t.csv"), "--text", "text"]
    table += ["--patient", "patient", "--image", "None"]
    refused(reports.main([*table, "--out", below]))
    refused(train(["tiny", "--workdir", below], monkeypatch))
    monkeypatch.setattr(publishing, "launch", lambda config: None)
    for door in COMPARISONS:
        monkeypatch.setattr(door, "compare", lambda config: pytest.fail("it ran"))
        monkeypatch.setattr(sys, "argv", ["compare", "--workdir", below])
        refused(door.main())


@pytest.mark.parametrize(
    ("door", "flags", "told"),
    [
        (attention, ["--seeds"], "seeds is empty"),
        (attention, ["--conditions"], "conditions is empty"),
        (pretraining, ["--seeds", "--named-seeds"], "named_seeds is empty, and so"),
        (anatomy, ["--systems"], "systems is empty"),
        (cmrxmotion_comparison, ["--seeds"], "seeds is empty"),
        (doubling, ["--seeds"], "seeds is empty"),
        (mixing, ["--train-cases"], "train_cases is empty"),
        (motion, ["--seeds"], "seeds is empty"),
        (reconstruction, ["--series"], "series is empty"),
        (uncertainty, ["--systems"], "systems is empty"),
    ],
)
def test_comparisons_of_nothing_are_refused(
    door, flags, told, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(publishing, "launch", lambda config: None)
    monkeypatch.setattr(
        sys, "argv", ["compare", "--workdir", str(tmp_path / "run"), *flags]
    )
    assert door.main() == 1
    assert f"error: {told}" in capsys.readouterr().err


def test_sources_that_are_not_there_are_named(tmp_path, capsys):
    absent = str(tmp_path / "absent")
    doors = (
        (reports, ["mimic", "--root", absent, "--out", f"{tmp_path}/a"]),
        (prepare_cmrxrecon, ["--root", absent, "--out", f"{tmp_path}/b"]),
        (cmrxrecon, ["file", "--data.path", absent, "--workdir", f"{tmp_path}/c"]),
        (cmrxrecon, ["phantom", "--learned", absent, "--workdir", f"{tmp_path}/d"]),
        (embed, [absent, "--images", absent, "--out", f"{tmp_path}/e.npz"]),
        (zero_shot, [absent, "--images", absent, "--out", f"{tmp_path}/f.csv"]),
        (retrieve, [absent, "--queries", absent, "--corpus", absent]),
    )
    for door, arguments in doors:
        assert door.main(arguments) == 1
        told = capsys.readouterr().err.strip().split("\n")[-1]
        assert told.startswith("error: ") and absent in told


RAW = Path("s3://bucket/raw")


@pytest.mark.parametrize(
    "read",
    [
        lambda folder: prepared_set(
            SegmentationDataConfig(RAW, "acdc"), PlanConfig(), folder, Ledger()
        ),
        lambda _: read_cohort(MixData(root=RAW)),
        lambda _: open_data(TreeData(RAW)),
        lambda _: open_anatomies(AnatomyConfig(root=RAW, format="acdc")),
    ],
)
def test_raw_data_at_an_address_are_refused_by_name(read, tmp_path):
    with pytest.raises(DataError, match=r"data.root.*: s3://bucket/raw: expected a pl"):
        read(tmp_path / "set")
