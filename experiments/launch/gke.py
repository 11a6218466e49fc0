"""Kubernetes on Google's cloud: a JobSet, which starts all pods again if one fails."""

import json
import shlex

from experiments.launch.job import TRIES, Job, accelerator, expect
from medjax.train.launch import COORDINATOR_PORT

TPUS = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
    "tpu7x": "tpu7x",
}
GPUS = {"h100": "nvidia-h100-80gb", "h200": "nvidia-h200-141gb"}


def tpu(job: Job) -> str:
    """A manifest with a replicated job for each slice."""
    expect(job, "tpu", "gke-tpu")
    machine = job.machine
    xpk = (
        f"xpk workload create --cluster {shlex.quote(job.cluster)} "
        f"--workload {job.name} --tpu-type={accelerator(job)} "
        f"--num-slices={machine.islands} --max-restarts={TRIES} "
        f"--docker-image={shlex.quote(job.image)} --command={shlex.quote(job.command)}"
    )
    return _jobset(
        job,
        instead=f"# In place of this file:\n#   {xpk}\n",
        replicas=machine.islands,
        pods=job.hosts_per_island,
        selector={
            "cloud.google.com/gke-tpu-accelerator": TPUS[machine.generation],
            "cloud.google.com/gke-tpu-topology": machine.shape,
        },
        resource="google.com/tpu",
        environment={},
    )


def gpu(job: Job) -> str:
    """A manifest with one indexed job, a pod for each host."""
    expect(job, "gpu", "gke-gpu")
    first = f"{job.name}-workers-0-0.{job.name}"
    return _jobset(
        job,
        replicas=1,
        pods=job.machine.hosts,
        selector={
            "cloud.google.com/gke-accelerator": GPUS[job.machine.generation],
        },
        resource="nvidia.com/gpu",
        instead="",
        # JOB_COMPLETION_INDEX is Kubernetes' own.
        environment={
            "JAX_COORDINATOR_ADDRESS": f"{first}:{COORDINATOR_PORT}",
            "JAX_NUM_PROCESSES": str(job.machine.hosts),
            "XLA_PYTHON_CLIENT_MEM_FRACTION": ".92",
        },
    )


def _jobset(
    job: Job,
    *,
    instead: str,
    replicas: int,
    pods: int,
    selector: dict[str, str],
    resource: str,
    environment: dict[str, str],
) -> str:
    quoted = json.dumps
    if job.spot:
        selector = {**selector, "cloud.google.com/gke-spot": "true"}
    chosen = "".join(
        f"\n                {name}: {quoted(value)}" for name, value in selector.items()
    )
    told = "".join(
        f"\n                    - name: {name}\n                      value: "
        f"{quoted(value)}"
        for name, value in environment.items()
    )
    variables = f"\n                  env:{told}" if told else ""
    return f"""# kubectl apply -f {job.name}.yaml
# One failed pod ends all, and the set starts anew: the command goes on from the last
# checkpoint, which is why its workdir has to be a gs:// address or on a shared disk.
{instead}{job.remarks}apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {job.name}
spec:
  failurePolicy:
    maxRestarts: {TRIES}
  network:
    enableDNSHostnames: true
  replicatedJobs:
    - name: workers
      replicas: {replicas}
      template:
        spec:
          parallelism: {pods}
          completions: {pods}
          completionMode: Indexed
          backoffLimit: 0
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 120
              nodeSelector:{chosen}
              containers:
                - name: medjax
                  image: {quoted(job.image)}
                  workingDir: {quoted(job.folder)}
                  command: ["bash", "-c", {quoted(job.command)}]
                  ports:
                    - containerPort: {COORDINATOR_PORT}{variables}
                  resources:
                    limits:
                      {resource}: {job.devices_per_host}
"""
