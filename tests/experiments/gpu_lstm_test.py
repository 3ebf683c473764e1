"""The index arithmetic of the CUDA kernels, run on a CPU against a plain LSTM in double."""

import subprocess
from pathlib import Path
from shutil import which

import pytest

import experiments.gpu_lstm

CUDA = Path(experiments.gpu_lstm.__file__).with_name("cuda")
KERNELS = ("Cluster160x1", "Cluster160x2", "Cluster160x5")
"""Those that are emulated in less than a second."""


@pytest.mark.slow
@pytest.mark.skipif(not which("g++"), reason="no g++")
def test_every_thread_of_the_kernels_reads_and_writes_what_the_lstm_needs(tmp_path: Path) -> None:
    command = [
        "g++",
        "-O0",
        "-std=c++17",
        "-fno-strict-aliasing",
        str(CUDA / "emulate.cpp"),
        "-o",
        str(tmp_path / "it"),
    ]
    subprocess.run(command, check=True)
    done = subprocess.run([tmp_path / "it", *KERNELS], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == list(KERNELS)
    assert all(line.endswith("ok") for line in lines), done.stdout
    assert done.returncode == 0
