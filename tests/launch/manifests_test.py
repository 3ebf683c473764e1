"""The files that others read: Kubernetes' YAML, the Dockerfile, and the page about them."""

import math
import re
import shlex
import tomllib
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
def jobset(request: pytest.FixtureRequest) -> Tree:
    return yaml.safe_load(request.param.read_text())


@pytest.fixture
def job(jobset: Tree) -> Tree:
    [replicated] = jobset["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    return replicated["template"]["spec"]


@pytest.fixture
def pod(job: Tree) -> Tree:
    return job["template"]["spec"]


@pytest.fixture
def container(pod: Tree) -> Tree:
    [container] = pod["containers"]
    return container


def flags(container: Tree) -> dict[str, str]:
    return dict(argument.removeprefix("--").partition("=")[::2] for argument in container["args"])


def test_there_are_manifests_for_tpus_and_gpus() -> None:
    assert [file.name for file in MANIFESTS] == ["gke_jobset_gpu.yaml", "gke_jobset_tpu.yaml"]


def test_a_jobset_is_one(jobset: Tree) -> None:
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")


def test_every_host_has_a_pod_with_a_number(job: Tree) -> None:
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"] > 1


def test_hosts_times_chips_are_the_topology(job: Tree, pod: Tree, container: Tree) -> None:
    chips = container["resources"]["limits"].get("google.com/tpu")
    if chips is None:
        assert container["resources"]["limits"]["nvidia.com/gpu"] > 0
        assert flags(container)["num_processes"] == str(job["completions"])
    else:
        topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
        assert job["completions"] * chips == math.prod(map(int, topology.split("x")))


def test_wrong_input_ends_it_and_an_interruption_does_not(jobset: Tree, job: Tree, pod: Tree, container: Tree) -> None:
    [rule] = job["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["operator"]) == ("FailJob", "In")
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert 2 in rule["onExitCodes"]["values"]
    assert not {0, 75, 134, 137, 143} & set(rule["onExitCodes"]["values"])
    assert pod["restartPolicy"] == "Never"  # else a podFailurePolicy is refused
    assert job["backoffLimit"] == 0  # a pod alone cannot come back: the others have left
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] >= 10
    [ends] = policy["rules"]
    assert (ends["action"], ends["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])


def test_a_pod_has_time_to_save_and_to_find_the_others(pod: Tree, container: Tree) -> None:
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert int(flags(container)["start_timeout"]) >= 600


def test_pods_find_each_other(jobset: Tree, container: Tree) -> None:
    assert jobset["spec"]["network"]["enableDNSHostnames"]
    told = flags(container)
    if "distributed" in told:  # GKE tells the pods of a TPU slice
        assert "google.com/tpu" in container["resources"]["limits"]
        return
    assert told["process_id"] == "$(JOB_COMPLETION_INDEX)"
    assert re.fullmatch(r"\$\(COORDINATOR\):\d+", told["coordinator_address"])
    [address] = [entry["valueFrom"]["fieldRef"] for entry in container["env"] if entry["name"] == "COORDINATOR"]
    assert address == {"fieldPath": "metadata.annotations['jobset.sigs.k8s.io/coordinator']"}
    names = [replicated["name"] for replicated in jobset["spec"]["replicatedJobs"]]
    assert jobset["spec"]["coordinator"] == {"replicatedJob": names[0], "jobIndex": 0, "podIndex": 0}


def test_what_is_to_be_filled_in_is_in_capitals(container: Tree) -> None:
    assert container["image"] == "IMAGE"
    assert flags(container)["workdir"].startswith("gs://BUCKET/")


def test_the_command_in_the_comment_fills_it_in(request: pytest.FixtureRequest, jobset: Tree) -> None:
    text = next(file for file in MANIFESTS if yaml.safe_load(file.read_text()) == jobset).read_text()
    lines = [line.removeprefix("#   ").rstrip("\\ ") for line in text.splitlines() if line.startswith("#   ")]
    replaced = [word.split("#")[1:3] for line in lines for word in shlex.split(line) if word.startswith("s#")]
    for old, new in replaced:
        text = text.replace(old, new)
    assert [old for old, _ in replaced] == ["IMAGE", "BUCKET"]
    filled = yaml.safe_load(text)
    [container] = filled["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    assert container["image"].startswith("REGION-docker.pkg.dev/")
    assert flags(container)["workdir"] == "gs://my-bucket/c150"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, each with its arguments on one line."""
    text = re.sub(r"^#.*\n", "", (LAUNCH / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2]) for line in text.splitlines() if line.strip()]


def test_every_platform_of_the_image_installs_an_extra_that_there_is() -> None:
    extras, platform = {}, ""
    for name, rest in instructions():
        platform = rest.partition(" AS ")[2] if name == "FROM" else platform
        if name == "ENV" and rest.startswith("EXTRAS="):
            extras[platform] = set(rest.removeprefix("EXTRAS=").split(","))
    assert extras == {"cpu": {"gcs"}, "gpu": {"gcs", "gpu"}, "tpu": {"gcs", "tpu"}}
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set.union(*extras.values()) <= set(known)
    assert ("ARG", "PLATFORM=cpu") in instructions()
    assert [rest for name, rest in instructions() if name == "FROM"][-1] == "${PLATFORM}"


def test_the_image_copies_what_there_is_and_is_sent() -> None:
    copied = [source for name, rest in instructions() if name == "COPY" for source in rest.split()[:-1]]
    assert {source for source in copied if not (ROOT / source).exists()} == set()
    ignored = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{source}" for source in copied} <= set(ignored)


def test_the_image_installs_before_it_has_the_code() -> None:
    steps = [f"{name} {rest}" for name, rest in instructions()]
    install = next(n for n, step in enumerate(steps) if "pip install" in step)
    before = " ".join(step for step in steps[:install] if step.startswith("COPY"))
    assert "requirements.txt" in before
    assert "lovecraft_jax" not in before
    assert any(step.startswith("COPY lovecraft_jax") for step in steps[install:])


def test_the_image_is_the_training_of_an_ordinary_user() -> None:
    last = dict(instructions())
    assert last["ENTRYPOINT"] == '["python", "-m", "lovecraft_jax.train"]'
    assert last["USER"] not in ("root", "0")
    assert int(last["USER"])  # a number, as Kubernetes' runAsNonRoot needs


def test_the_image_compiles_nothing_for_the_machine_that_builds_it() -> None:
    assert not [rest for name, rest in instructions() if name == "RUN" and "native" in rest]


def test_the_page_names_every_file() -> None:
    page = (LAUNCH / "README.md").read_text()
    files = {file.name for file in LAUNCH.iterdir() if file.suffix in (".sh", ".yaml") or file.name == "Dockerfile"}
    assert {name for name in files if name not in page} == set()


def test_the_page_names_every_exit_code() -> None:
    table = re.findall(r"^\| (\d+) \|", (LAUNCH / "README.md").read_text(), flags=re.MULTILINE)
    assert table == ["0", "2", "75", "134"]


def test_every_flag_that_is_added_is_one_of_the_training(tmp_path: Path, command: Callable) -> None:
    known = set(re.findall(r"^  --(?:\[no\])?(\w+):", command("train", "--help").stdout, flags=re.MULTILINE))
    bin = Bin(tmp_path)
    printed = [bin.run(script, DRY_RUN="1").stdout for script in ("slurm.sh", "tpu_worker.sh")]
    added = {
        flag
        for text in printed
        for flag in re.findall(r"--(\w+)", text.splitlines()[0].split("lovecraft_jax.train")[1])
    }
    for file in MANIFESTS:
        added |= set(re.findall(r"^ +- --(\w+)", file.read_text(), flags=re.MULTILINE))
    assert {"config", "distributed", "start_timeout", "process_id"} <= added
    assert added <= known
