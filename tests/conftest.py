"""Strictness for every test, eight simulated devices, and the one tiny run that tests share."""

import os

# Before jax starts. Several CPU devices in one process can hang in a collective for want of threads, unless the process
# is bound to one core; so each pytest worker takes a core of its own.
if hasattr(os, "sched_setaffinity"):
    # Workers inherit the one core of the process that starts them, for it has come by here too: all are in CORES.
    cores = os.environ.setdefault("CORES", " ".join(map(str, sorted(os.sched_getaffinity(0))))).split()
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    os.sched_setaffinity(0, {int(cores[worker % len(cores)])})
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"

import fcntl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from etils import epath
from jax._src import compiler, lru_cache
from ml_collections import ConfigDict

from configs import tiny
from tests.helpers import store
from tests.helpers.keep_programs import sitecustomize

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).parents[1]
UNOPTIMIZED: dict[str, Any] = {"xla_backend_optimization_level": 0}
"""Options with which XLA compiles for CPUs in a fifth of the time."""
if jax.__version_info__ < (0, 11):  # later ones do not know it
    UNOPTIMIZED["xla_cpu_use_fusion_emitters"] = False
XLA_FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in UNOPTIMIZED.items())


def run_folder(factory: pytest.TempPathFactory) -> Path:
    """The folder of the test run, which all its workers have."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A cache folder of the test run's own, and the compiled programs of all workers and their child processes."""
    base = tmp_path_factory.getbasetemp()
    programs = str(run_folder(tmp_path_factory) / "programs")
    sitecustomize.write_whole_programs(lru_cache)
    os.environ["XDG_CACHE_HOME"] = str(base.parent / "cache")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = programs
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", programs)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    path = str(ROOT / "tests" / "helpers" / "keep_programs"), os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    os.environ.pop("LOVECRAFT_CORPUS", None)


@pytest.fixture(scope="module")
def unoptimized() -> Iterator[None]:
    """Programs that XLA does not optimize, here and in child processes, as compiling takes most of the time of tests.

    For files that compare values within a tolerance, compare runs of one program, or test what processes do. Those that
    compare the bits of different programs need them as users have them.
    """
    options = compiler.get_compile_options

    def with_changes(*args: Any, env_options_overrides: dict[str, Any] | None = None, **more: Any) -> Any:
        return options(*args, env_options_overrides=UNOPTIMIZED | (env_options_overrides or {}), **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", with_changes)
        patch.setenv("XLA_FLAGS", XLA_FLAGS)
        yield
    jax.clear_caches()  # of programs that other files would share


@pytest.fixture
def config() -> ConfigDict:
    """The tiny config, fresh."""
    return tiny.get_config()


@pytest.fixture(params=["disk", "store"])
def workdir(request: pytest.FixtureRequest, tmp_path: Path) -> epath.Path:
    """A run's directory: a folder on a disk, then one in an object store."""
    store.use(tmp_path / "objects")
    return epath.Path(tmp_path if request.param == "disk" else "gs://bucket/runs/a")


Command = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def command() -> Command:
    """Runs `python -m lovecraft_jax.<name>` with flags, on one device, as a user would; returns what came back."""

    def run(name: str, *args: str, env: dict[str, str] | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess:
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"} | (env or {})
        line = [sys.executable, "-m", f"lovecraft_jax.{name}", *args]
        return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, check=False)

    return run


@pytest.fixture(scope="session")
def trained(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a finished tiny run, of `unoptimized` programs. Read it; copy it before you change it."""
    folder = run_folder(tmp_path_factory) / "trained"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first worker that comes by trains for all
        if not folder.exists():
            part = tmp_path_factory.mktemp("trained")
            done = command(
                "train", "--config=configs/tiny.py", f"--workdir={part / 'run'}", env={"XLA_FLAGS": XLA_FLAGS}
            )
            assert done.returncode == 0, done.stderr
            part.rename(folder)
    return folder / "run"
