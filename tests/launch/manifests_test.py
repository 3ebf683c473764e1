"""The Kubernetes manifests and the Dockerfile agree with themselves, with the repository and with the training."""

import math
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.stand_ins import Bin

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
MANIFESTS = sorted(LAUNCH.glob("*.yaml"))
Tree = dict[str, Any]


@pytest.fixture(params=MANIFESTS, ids=lambda file: file.stem)
def manifest(request: pytest.FixtureRequest) -> str:
    return request.param.read_text()


def parts(manifest: str) -> tuple[Tree, Tree, Tree]:
    """The job of the manifest's JobSet, its pod and the pod's container."""
    [replicated] = yaml.safe_load(manifest)["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    return job, pod, container


def flags(container: Tree) -> dict[str, str]:
    return dict(argument.removeprefix("--").partition("=")[::2] for argument in container["args"])


def test_pods_times_chips_match_the_topology(manifest: str) -> None:
    job, pod, container = parts(manifest)
    assert job["parallelism"] == job["completions"] > 1
    chips = container["resources"]["limits"].get("google.com/tpu")
    if chips is None:
        assert container["resources"]["limits"]["nvidia.com/gpu"] > 0
        assert flags(container)["num_processes"] == str(job["completions"])
    else:
        topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
        assert job["completions"] * chips == math.prod(map(int, topology.split("x")))


def test_wrong_input_fails_the_job_and_an_interruption_restarts_it(manifest: str) -> None:
    job, pod, container = parts(manifest)
    [rule] = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert 2 in rule["onExitCodes"]["values"]
    assert not {0, 75, 134, 137, 143} & set(rule["onExitCodes"]["values"])
    assert pod["restartPolicy"] == "Never"  # Kubernetes refuses a podFailurePolicy otherwise
    assert job["backoffLimit"] == 0  # one pod alone cannot rejoin, since the others exit


def test_the_command_in_the_comment_fills_in_every_placeholder(manifest: str) -> None:
    lines = [line.removeprefix("#   ").rstrip("\\ ") for line in manifest.splitlines() if line.startswith("#   ")]
    replaced = [word.split("#")[1:3] for line in lines for word in shlex.split(line) if word.startswith("s#")]
    filled = manifest
    for old, new in replaced:
        assert old in manifest
        filled = filled.replace(old, new)
    _, _, container = parts(filled)
    assert container["image"].startswith("REGION-docker.pkg.dev/")
    assert flags(container)["workdir"] == "gs://my-bucket/c150"


def instructions() -> list[tuple[str, str]]:
    """Returns the Dockerfile's instructions, each with its arguments on one line."""
    text = re.sub(r"^#.*\n", "", (LAUNCH / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2]) for line in text.splitlines() if line.strip()]


def test_the_image_copies_existing_files_of_the_build_context() -> None:
    copied = [source for name, rest in instructions() if name == "COPY" for source in rest.split()[:-1]]
    assert {source for source in copied if not (ROOT / source).exists()} == set()
    ignored = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{source}" for source in copied} <= set(ignored)


def test_every_flag_of_scripts_and_manifests_is_one_of_the_training(tmp_path: Path, command: Callable) -> None:
    known = set(re.findall(r"^  --(?:\[no\])?(\w+):", command("train", "--help").stdout, flags=re.MULTILINE))
    bin = Bin(tmp_path)
    printed = [bin.run(script, DRY_RUN="1").stdout for script in ("slurm.sh", "tpu_worker.sh")]
    used = {
        flag
        for text in printed
        for flag in re.findall(r"--(\w+)", text.splitlines()[0].split("lovecraft_jax.train")[1])
    }
    for file in MANIFESTS:
        used |= set(re.findall(r"^ +- --(\w+)", file.read_text(), flags=re.MULTILINE))
    assert {"config", "distributed", "start_timeout", "process_id"} <= used
    assert used <= known
