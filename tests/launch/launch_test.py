"""The list of commands, and a user's own config and text."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unoptimized")]

ROOT = Path(__file__).parents[2]
LINES = [f"Ночь {number}: дом у моря молчал, и только ветер стучал в окно — «кто там?»" for number in range(300)]  # noqa: RUF001
CONFIG = """
from configs import tiny


def get_config(variant=None):
    config = tiny.get_config()
    config.data.corpus = "texts/night.txt"
    config.data.alphabet = variant or "ascii"
    config.model.layers = 1
    config.train.steps = 10
    config.train.eval_every = 10
    config.sample.prompt = "Ночь"
    return config
"""


def test_the_package_lists_its_commands() -> None:
    done = subprocess.run([sys.executable, "-m", "lovecraft_jax"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = set(re.findall(r"python -m lovecraft_jax\.(\w+)", done.stdout))
    files = [file for file in (ROOT / "lovecraft_jax").rglob("*.py") if "    cli.run(" in file.read_text()]
    assert listed == {file.parent.name if file.stem == "__main__" else file.stem for file in files}
    assert {"train", "sample", "evaluate"} <= listed


def test_a_users_own_config_and_text_train_from_their_folder(command: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CONFIG)
    file = tmp_path / "texts" / "night.txt"
    file.parent.mkdir()
    file.write_bytes(("\ufeff" + "".join(line + "\r\n" for line in LINES)).encode())  # as on Windows
    done = command("train", "--config=mine.py:unicode", cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr

    workdir = tmp_path / "runs" / "mine-unicode"
    text = "\n".join(LINES)  # without the byte order mark, the CRLFs and the newline at its end
    corpus, config, vocabulary = (
        json.loads((workdir / f"{name}.json").read_text()) for name in ("corpus", "config", "vocab")
    )
    cuts = [int(0.9 * len(text)), int(0.95 * len(text)), len(text)]
    assert config["data"]["corpus"] == corpus["name"] == "texts/night.txt"
    assert corpus["characters"] == {"train": cuts[0], "valid": cuts[1] - cuts[0], "test": cuts[2] - cuts[1]}
    assert corpus["dropped"] == 0
    assert corpus["sha256"] == hashlib.sha256(hashlib.sha256(file.read_bytes()).hexdigest().encode()).hexdigest()
    assert vocabulary["chars"] == "".join(sorted(set(text)))
    sample = (workdir / "samples" / "best.txt").read_text()
    assert re.fullmatch(r"Ночь.{40}\n", sample, re.DOTALL)
    assert set(sample) <= set(text)
