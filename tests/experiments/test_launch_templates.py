"""Templates: shells parse them, fakes of ssh, srun and gcloud run them to their end."""

import json
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.launch.__main__ import TEMPLATES, main
from experiments.launch.job import Job
from medjax.train.plan.spot import goodput, interval
from medjax.train.plan.topologies import topology
from tests import processes
from tests.experiments.schema import faults

SCHEMA = Path(__file__).with_name("jobset.schema.json")

SHELLS = {"slurm": "h200-2x8", "tpu-vm": "v6e-256x2", "ssh": "cpu-1"}
JOIN = """
import os, sys, jax, numpy as np, tyro
from jax.experimental import multihost_utils
from medjax.train.launch import LaunchConfig, launch
import dataclasses
@dataclasses.dataclass
class Run:
    launch: LaunchConfig
run = tyro.cli(Run, args=sys.argv[3:])
launch(dataclasses.replace(run.launch, compile_cache=None))
seen = multihost_utils.process_allgather(np.int32(jax.process_index()))
os.write(1, f"joined {seen.tolist()}{os.linesep}".encode())  # whole: two write here
"""


def printed(template, name, words=("imitate", "paper"), **options):
    return TEMPLATES[template](Job(topology(name), words, **options))


def executable(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def run(script, folder, fakes, **variables):
    """Runs a script with programs of these names in place of the real ones."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name, text in fakes.items():
        executable(programs / name, text)
    root = processes.ROOT
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        env={
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(root), str(root / "kernels")]),
            "FOLDER": str(folder),
            "POLL": "0.1",
            **variables,
        },
    )


@pytest.mark.parametrize("template, name", SHELLS.items())
def test_shells_parse_the_scripts(template, name, tmp_path):
    odd = ("imitate", "paper", "--workdir", "runs/it's $HOME")
    path = tmp_path / "script"
    path.write_text(printed(template, name, odd, folder="a folder"))
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize(
    "template, name, jobs, pods, resource",
    [
        ("gke-tpu", "v6e-256x2", 2, 64, {"google.com/tpu": 4}),
        ("gke-tpu", "tpu7x-128", 1, 16, {"google.com/tpu": 4}),
        ("gke-gpu", "h100-4x8", 1, 4, {"nvidia.com/gpu": 8}),
    ],
)
def test_manifests_are_jobsets(template, name, jobs, pods, resource):
    """By the committed schema, with the numbers of the machine and the words whole."""
    yaml = pytest.importorskip("yaml")
    found = yaml.safe_load(printed(template, name, ("imitate", "--a", 'b"c')))
    schema = json.loads(SCHEMA.read_text())
    assert list(faults(found, schema)) == []
    assert found["metadata"]["name"] == "imitate"
    (workers,) = found["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    assert workers["replicas"] == jobs
    assert job["parallelism"] == job["completions"] == pods
    assert (job["completionMode"], job["backoffLimit"]) == ("Indexed", 0)
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never" and pod["nodeSelector"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == resource
    assert shlex.split(container["command"][2])[-1] == 'b"c'
    told = {one["name"]: one["value"] for one in container.get("env", ())}
    if template == "gke-gpu":
        assert told["JAX_COORDINATOR_ADDRESS"] == "imitate-workers-0-0.imitate:8482"
        assert told["JAX_NUM_PROCESSES"] == "4"
    spot = yaml.safe_load(printed(template, name, spot=True))
    assert list(faults(spot, schema)) == []
    (workers,) = spot["spec"]["replicatedJobs"]
    pod = workers["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"].pop("cloud.google.com/gke-spot") == "true"


@pytest.mark.parametrize(
    "place, value, said",
    [
        (("kind",), "Jobset", "expected 'JobSet'"),
        (("metadata", "name"), "a_b", "does not match"),
        (("spec", "failurePolicy", "maxRestart"), 3, "maxRestart is no field"),
        (("spec", "failurePolicy", "maxRestarts"), "50", "is no integer"),
        (("spec", "network", "enableDNSHostnames"), 1, "is no boolean"),
        (("spec", "replicatedJobs"), [], "too few items"),
        (("spec", "replicatedJobs", 0, "replicas"), -1, "expected 0 to"),
        (("spec", "replicatedJobs", 0, "template"), {}, "lacks spec"),
        (("spec", "replicatedJobs", 0, "name"), True, "True is no string"),
    ],
)
def test_the_schema_refuses_what_is_no_jobset(place, value, said):
    yaml = pytest.importorskip("yaml")
    found = yaml.safe_load(printed("gke-tpu", "v5e-16"))
    within = found
    for key in place[:-1]:
        within = within[key]
    within[place[-1]] = value
    (fault,) = faults(found, json.loads(SCHEMA.read_text()))
    assert said in fault
    with pytest.raises(ValueError, match="nonsense"):
        list(faults({}, {"nonsense": 1}))


def test_ssh_starts_every_host_and_they_join(tmp_path):
    """Two "hosts" that are this one, and a program in the experiment's place."""
    (tmp_path / "hosts.txt").write_text("localhost\n\nlocalhost\n")
    join = tmp_path / "join.py"
    join.write_text(JOIN)
    fakes = {
        # ssh -tt HOST COMMAND
        "ssh": '#!/bin/bash\nexec bash -c "$3"\n',
        "python": f'#!/bin/bash\nexec {sys.executable} {join} "$@"\n',
    }
    script = printed("ssh", "h200-2x1", ("imitate",), folder=".")
    port = processes.free_address().split(":")[1]
    done = run(script, tmp_path, fakes, PORT=port, JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("joined [0, 1]") == 2
    (tmp_path / "hosts.txt").write_text("localhost\n")
    refused = run(script, tmp_path, fakes)
    assert refused.returncode == 2 and "1 hosts, expected the 2" in refused.stderr


ONCE = """#!/bin/bash
# Ends with the next status of a file, one a line; writes down that it was called.
flock "$FOLDER/statuses" bash -c '
    status=$(head -n 1 "$FOLDER/statuses"); sed -i 1d "$FOLDER/statuses"
    echo "$*" >> "$FOLDER/calls"; exit "$status"' -- "$@"
"""


@pytest.mark.parametrize("statuses, calls", [((75, 143, 0), 3), ((1,), 1)])
def test_ssh_starts_again_only_what_can_go_on(statuses, calls, tmp_path):
    (tmp_path / "hosts.txt").write_text("a\n")
    (tmp_path / "statuses").write_text("".join(f"{n}\n" for n in statuses))
    done = run(printed("ssh", "cpu-1"), tmp_path, {"ssh": ONCE})
    assert done.returncode == statuses[-1], done.stderr
    found = (tmp_path / "calls").read_text().splitlines()
    assert len(found) == calls
    assert "--launch.coordinator a:8482" in found[0]


def test_one_failure_ends_all_hosts(tmp_path):
    (tmp_path / "hosts.txt").write_text("a\nb\n")
    fake = '#!/bin/bash\n[ "$2" = a ] && exit 3\nexec sleep 1000\n'
    # The script dawdles, so that the first host is gone before it is waited for.
    (tmp_path / "slow").write_text('trap() { sleep 0.3; builtin trap "$@"; }\n')
    script = printed("ssh", "h200-2x1")
    slow = {"BASH_ENV": str(tmp_path / "slow"), "GRACE": "0.1"}
    done = run(script, tmp_path, {"ssh": fake}, **slow)
    assert done.returncode == 3


@pytest.mark.parametrize("status, queued", [(0, False), (75, True), (1, False)])
def test_slurm_queues_again_what_can_go_on(status, queued, tmp_path):
    fakes = {
        "srun": f"#!/bin/bash\nexit {status}\n",
        "scontrol": '#!/bin/bash\necho "$@" > "$FOLDER/queued"\n',
    }
    script = printed("slurm", "h200-2x8", folder=".")
    done = run(script, tmp_path, fakes, SLURM_JOB_ID="4711")
    assert done.returncode == status
    assert (tmp_path / "queued").exists() == queued
    if queued:
        assert (tmp_path / "queued").read_text() == "requeue 4711\n"


def test_slurm_passes_its_signal_on_and_waits_for_the_save(tmp_path):
    """The script is told, as `--signal=B:TERM` does; the task ends in its own time."""
    task = """#!/bin/bash
trap 'sleep 0.5; echo saved > "$FOLDER/saved"; exit 143' TERM
kill -TERM "$PPID"
for i in $(seq 100); do sleep 0.1; done
"""
    fakes = {"srun": task, "scontrol": '#!/bin/bash\necho "$@" > "$FOLDER/queued"\n'}
    script = printed("slurm", "h200-2x8", folder=".")
    done = run(script, tmp_path, fakes, SLURM_JOB_ID="4711")
    assert done.returncode == 143, done.stderr
    assert (tmp_path / "saved").exists() and (tmp_path / "queued").exists()


def test_slurm_starts_tasks_that_find_each_other(tmp_path):
    """A fake of ``srun`` that sets what Slurm sets, for two tasks on this host."""
    port = processes.free_address().split(":")[1]
    join = tmp_path / "join.py"
    join.write_text(JOIN)
    started = []
    for process in range(2):
        told = processes.slurm_step(process, 2, port)
        words = shlex.join(f"{name}={value}" for name, value in told.items())
        started.append(f'env {words} "${{@:3}}" & tasks+=($!)\n')
    fakes = {
        "srun": "#!/bin/bash\n"
        + "".join(started)
        + "wait ${tasks[0]} && wait ${tasks[1]}\n",
        "python": f'#!/bin/bash\nexec {sys.executable} {join} "$@"\n',
    }
    script = printed("slurm", "h200-2x8", ("convirt",), folder=".")
    done = run(script, tmp_path, fakes, JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("joined [0, 1]") == 2


def test_a_spot_machine_that_is_gone_is_asked_for_again(tmp_path):
    """First there is none; the run then loses it; the second one lets it finish."""
    fake = """#!/bin/bash
echo "$@" >> "$FOLDER/calls"
case "$*" in
    *describe*) cat "$FOLDER/state" 2>/dev/null ;;
    *create*) echo ACTIVE > "$FOLDER/state" ;;
    *delete*) rm "$FOLDER/state" ;;
    *ssh*)
        if [ -e "$FOLDER/lost" ]; then exit 0; fi
        touch "$FOLDER/lost"; echo SUSPENDED > "$FOLDER/state"; exit 255 ;;
esac
"""
    script = printed("tpu-vm", "v5p-512")
    done = run(script, tmp_path, {"gcloud": fake}, WAIT="0")
    assert done.returncode == 0, done.stderr
    calls = [line for line in (tmp_path / "calls").read_text().splitlines()]
    done = [w for line in calls for w in ("create", "delete", " ssh ") if w in line]
    assert done == ["create", " ssh ", "delete", "create", " ssh "]
    assert any("--accelerator-type v5p-512 " in line for line in calls)


def test_the_command_prints_and_refuses(capsys):
    words = "slurm --topology h200-8x8 -- imitate paper --workdir runs/a"
    assert main(words.split()) == 0
    out = capsys.readouterr().out
    assert "--nodes=8" in out and "experiments.imitate paper --workdir runs/a" in out
    for words, message in {
        "slurm --topology v5p-512 -- imitate": "topology: v5p-512 is no GPU",
        "gke-tpu --topology h200-8x8 -- imitate": "topology: h200-8x8 is no TPU",
        "slurm --topology h200-8x8": "expected -- and an experiment",
        "tpu-vm --topology tpu7x-8 -- imitate": "tpu7x-8 is not to be had as TPU VMs",
    }.items():
        assert main(words.split()) == 1
        assert message in capsys.readouterr().err


def line(text, begins):
    (found,) = [one for one in text.splitlines() if one.strip().startswith(begins)]
    return found


def test_xpk_is_told_the_same(tmp_path):
    words = ("imitate", "paper", "--workdir", "gs://it's")
    found = printed("gke-tpu", "v5e-16x2", words, image="eu/x:1", cluster="ours")
    told = shlex.split(line(found, "#   xpk").removeprefix("#"))
    assert told[:3] == ["xpk", "workload", "create"]
    assert told[told.index("--cluster") + 1] == "ours"
    assert {"--tpu-type=v5litepod-16", "--num-slices=2", "--max-restarts=50"} < set(
        told
    )
    assert "--docker-image=eu/x:1" in told
    said = told[-1].removeprefix("--command=")
    assert shlex.split(said)[-1] == "gs://it's"
    assert "xpk" not in printed("gke-gpu", "h100-4x8")


def test_tpu_vms_listen_where_googles_rule_lets_them():
    at = "everywhere"
    found = printed("tpu-vm", "v5e-16")
    run = [one for one in found.splitlines() if one.strip().startswith(at)][-1]
    assert shlex.split(run)[1].endswith("imitate paper --launch.port 8476")
    other = printed("tpu-vm", "v5e-16", ("imitate", "--launch.port=9000"))
    assert "--launch.port=9000'" in other and "--launch.port 8476" not in other


def test_on_spot_a_run_is_told_how_often_to_save(tmp_path, capsys):
    """By a plan: of Young's formula, with what is then left of the time."""
    saved = {"every": 321, "goodput": 0.9371, "bytes": 12.5e6, "seconds": 1.0}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"topology": {"name": "v5e-16"}, "checkpoint": saved}))
    begins = f"gke-tpu --topology v5e-16 --spot --plan {path} -- imitate paper"

    def said(words):
        assert main(words.split()) == 0
        out = capsys.readouterr().out
        command = json.loads(line(out, "command:").partition(": ")[2])[2]
        return out, command.partition("experiments.")[2]

    out, command = said(f"{begins} --mirror gs://b/run")
    assert "failure every 4 h: 94%, where each 321 steps" in out
    assert "a checkpoint of 0.013 GB is written in 1 s (Young's formula)." in out
    assert command == (
        "imitate paper --mirror gs://b/run --train.checkpoint-every 321 "
        "--launch.compile-cache gs://b/run-compiled"
    )
    out, command = said(f"{begins} --workdir=/disk/r --train.checkpoint_every 9")
    assert command.endswith("9 --launch.compile-cache /disk/r-compiled")
    assert "(Young's formula); here each 9 steps." in out
    out, command = said(begins)
    assert "Name a --workdir" in out and "compile-cache" not in command
    for words, message in {
        begins.replace("v5e-16", "v5e-32"): "is of v5e-16, expected one of v5e-32",
        begins.replace("--spot ", ""): "--plan says how often",
        begins.replace(str(path), str(SCHEMA)): "not an intact plan",
    }.items():
        assert main(words.split()) == 1
        assert message in capsys.readouterr().err


def test_without_a_plan_one_is_made_of_what_plans_know(capsys):
    words = "gke-tpu --topology v5e-16 --spot -- convirt --data.batch-size 64"
    assert main(words.split()) == 0
    out = capsys.readouterr().out
    assert "--train.checkpoint-every" in line(out, "command:") and "goodput" in out
    assert main("tpu-vm --topology v5e-16 -- anything".split()) == 0
    assert "No plan knows this experiment" in capsys.readouterr().out


def test_what_spot_machines_leave():
    """Young's interval is where least is lost, as far as failures are rare."""
    best = interval(9.0, 7200.0)
    assert best == 360.0
    found = [goodput(each, 9.0, between=7200.0) for each in (180.0, best, 720.0)]
    assert max(found) == found[1]
    # Of 2 h in 40 times 369 s 9 each, half of 360, and 600 s until it goes on.
    assert found[1] == pytest.approx((7200 * 360 / 369 - 180) / (7200 + 600))
    assert goodput(1e6, 9.0) == 0


def test_options_of_the_job_are_flags():
    assert json.dumps("x:1") in printed("gke-gpu", "h100-4x8", image="x:1")
