"""Commands without a flag: their time is taken once, chance stands beside them."""

import dataclasses
import json
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.compare import doors
from experiments.compare.doors import Doors, better, compare, opened, probed, table
from medjax.vlp.corpus import open_corpus

SCORES = {
    "films": 48,
    "frechet_distance": {
        "other real films": 10.4,
        "generated": 20_000.0,
        "decoded noise": 300.0,
    },
    "denoising_error": {
        "own report": 0.41,
        "another's report": 0.42,
        "no report": 0.43,
    },
}


@pytest.fixture
def started(monkeypatch):
    """What was started; each leaves scores, and the second time nothing is."""
    seen: list[list[str]] = []

    def run(line, env):
        assert Path(env["JAX_COMPILATION_CACHE_DIR"]).is_dir(), "empty, and there"
        folder = Path(line[-1])
        seen.append(line[1:-1])
        folder.mkdir(parents=True)
        probes = [{"fraction": f, "macro_auc": 0.7 + 0.1 * f} for f in (0.1, 1.0)]
        hits = {way: {"R@10": 0.1} for way in ("image_to_text", "text_to_image")}
        said = {"linear_probe": probes, "zero_shot": {"macro_auc": 0.6}}
        said |= {"retrieval": hits, **SCORES}
        (folder / "evaluation.json").write_text(json.dumps(said))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    chance = {0: 0.70, 1: 0.71, 2: 0.72}
    monkeypatch.setattr(doors, "probed", lambda *of: chance[of[-1]])
    return seen


def test_doors_are_opened_once_and_told_beside_chance(started, tmp_path):
    config = Doors(workdir=tmp_path / "doors")
    found = compare(config)
    names = ["gloria", "mgca", "generator"]
    assert started == [["-m", f"experiments.{name}", "--workdir"] for name in names]
    assert compare(config)["doors"] == found["doors"], "kept"
    assert len(started) == 3
    row = found["doors"]["mgca"]
    assert row["trained"] == pytest.approx(0.8) and row["random"] == [0.7, 0.71, 0.72]
    shown = table(found)
    assert "| 0.800 | 0.710 ± 0.010 | 9.0 sd of 2: met |" in shown
    assert "| its films | 20,000 |" in shown and "| others' reports | 0.4200 |" in shown
    assert json.loads(json.dumps(found)) == found


def test_chance_is_judged_by_its_own_deviation():
    chance = {"mean": 0.7, "sd": 0.01}
    assert better({"trained": 0.715}, chance) == "1.5 sd of 2: NOT met"
    assert better({"trained": 0.72001}, chance) == "2.0 sd of 2: met"
    assert "not judged" in better({"trained": 0.9}, {"mean": 0.7, "sd": None})


def test_time_is_that_of_the_process(tmp_path, monkeypatch):
    """Of a program that works for a while: both clocks saw it, and it is kept."""
    line = "import time\nwhile time.process_time() < 0.2: 0"
    real = subprocess.run

    def run(command, env):
        return real([command[0], "-c", line], env=env)

    monkeypatch.setattr(subprocess, "run", run)
    began = time.perf_counter()
    took = opened("mgca", tmp_path / "run")
    assert 0.2 <= took["cpu_seconds"] and took["seconds"] <= time.perf_counter() - began
    assert opened("mgca", tmp_path / "run") == took
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=3)
    )
    with pytest.raises(RuntimeError, match=r"experiments\.gloria ended with status 3"):
        opened("gloria", tmp_path / "other")


def test_random_weights_are_of_their_seed(tmp_path):
    """On the data of the run, and with its towers' sizes; the weights are drawn."""
    _, preset, build = doors.DOORS["gloria"]
    assert preset is not None and build is not None
    data = dataclasses.replace(preset.data, patients=40, image_size=32)
    open_corpus(data, tmp_path / "data", tokenizer=None, max_tokens=32)
    size = dataclasses.replace(preset.system.augment, size=32)
    small = dataclasses.replace(
        preset,
        data=data,
        text=dataclasses.replace(preset.text, max_length=32, layers=1, layers_summed=1),
        system=dataclasses.replace(preset.system, augment=size),
        evaluation=dataclasses.replace(preset.evaluation, batch_size=16),
    )
    first, again, other = (probed(small, build, tmp_path, seed) for seed in (0, 0, 4))
    assert first == again != other
    assert all(0.2 < score < 0.95 for score in (first, other))
