"""`python -m launch.compile_ahead` as a user starts it."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import pytest

from launch.ahead.topologies import MISSING

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.aot]
needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason=MISSING["tpu"])


@needs_libtpu
def test_json_output_has_memory_collectives_and_versions_of_each_topology(tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("abcd" * 50)  # 180 characters of it are the training text
    done = compile_ahead("--topology=v5e:2x2,v4:2x2x1", "--batch_per_chip=6", "--json", f"--config.data.corpus={text}")
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    assert [(one["topology"], one["chips"], one["devices"], one["batch_size"]) for one in (first, second)] == [
        ("v5e:2x2", 4, 4, 24),
        ("v4:2x2x1", 4, 8, 24),
    ]
    for one in first, second:
        assert one["fits"]
        assert one["compile_seconds"] > 0
        assert [each["in_a_loop_of_the_step"] for each in one["collectives"]] == [False]
        assert sum("matmul" in loop["operations"] for loop in one["loops"]) >= 2  # forward and backward
        assert one["versions"]["jax"] == jax.__version__
    lines = done.stderr.splitlines()
    assert lines[0] == f"the dispatch of 5 steps; corpus {text}, 5 ids"
    assert lines[2] == "a batch has 192 tokens, the training text 180: training needs a longer text"
    assert len(lines) == 5, lines  # nothing from libtpu


@needs_libtpu
def test_a_run_that_does_not_fit_is_one_line_with_advice_and_the_other_topologies_follow() -> None:
    large = "--config.model.units=20480", "--config.model.layers=1", "--config.train.steps_per_dispatch=1"
    done = compile_ahead("--topology=v5e:2x2", "--topology=v5p:2x2x1", "--batch_per_chip=8", *large)
    assert done.returncode == 1
    (message,) = [line for line in done.stderr.splitlines() if "fit" in line]
    assert re.fullmatch(
        r"v5e:2x2: does not fit: needs \d\d(\.\d)? GiB of memory per device, TPU v5 lite has 15\.\d GiB; lower "
        r"--batch_per_chip \(now 8\) or config.data.seq_len \(8\), set config.model.remat \(0\), or use a "
        "smaller model",
        message,
    )
    ends = [line.split(" | ")[-1] for line in done.stdout.splitlines() if line.startswith("| v")]
    assert ends[0] == "does not fit |"
    assert re.fullmatch(r"[\d.]+ s \|", ends[1])


@needs_libtpu
@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ((), ["--topology is missing", "v5e:16x16"]),
        (("--topology=v5e:2x2,v9:2x2",), ["--topology=v9:2x2: no such topology", "v5e:2x2", "TPU v9"]),
        (("--topology=h100:2x2x2",), ["--topology=h100:2x2x2", "h100:8", "h100:2x8"]),
        (("--topology=v5e:2x2", "--config.model.backend=native"), ["'native'", "found tpu", "use auto"]),
        (("--topology=v5e:2x2", "--config.model.units=0"), ["config.model.units=0"]),
    ],
    ids=" ".join,
)
def test_wrong_input_is_an_error_of_one_line_that_names_it(flags: tuple[str, ...], names: list[str]) -> None:
    done = compile_ahead(*flags)
    assert (done.returncode, done.stdout) == (2, "")
    line = [line for line in done.stderr.splitlines() if not line.startswith(("the dispatch of", "compiling for"))]
    assert len(line) == 1, done.stderr
    assert all(name in line[0] for name in names), line[0]


@pytest.mark.parametrize(
    ("topology", "hidden", "extra"),
    [("v5e:2x2", "libtpu", "'jax[tpu]'"), ("h100:8", "jax_cuda13_plugin", "'jax[cuda13]'")],
)
def test_a_missing_compiler_is_an_error_with_the_extra_to_install(
    tmp_path: Path, topology: str, hidden: str, extra: str
) -> None:
    (tmp_path / f"{hidden}.py").write_text("raise ImportError")
    (tmp_path / "jax_plugins").mkdir()  # hides the namespace in which JAX looks for plugins
    (tmp_path / "jax_plugins" / "__init__.py").touch()
    hide = {"PYTHONPATH": str(tmp_path), "JAX_PLUGINS": ""}
    done = compile_ahead(f"--topology={topology}", env=hide)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"--topology={topology}: ")
    assert f"is not installed: pip install -r requirements.txt {extra}" in line


@needs_libtpu
def test_training_without_a_tpu_logs_nothing_from_libtpu(command: Callable) -> None:
    done = command("train", "--config=configs/tiny.py", "--platform=tpu", env={"JAX_PLATFORMS": ""})
    (line,) = done.stderr.splitlines()
    assert line.startswith("--platform=tpu: none found here")


def compile_ahead(*flags: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    """Runs the command for the tiny config as a user would."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"} | (env or {})
    # The command sets these itself. JAX sets the last one in a process that has found libtpu, such as this one.
    for name in ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD", "TPU_LIBRARY_PATH"):
        environment.pop(name, None)
    line = [sys.executable, "-m", "launch.compile_ahead", "--config=configs/tiny.py", *flags]
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)
