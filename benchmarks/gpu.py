"""Everything about a GPU in six minutes: `python -m benchmarks.gpu --to=DIR`.

Checks each backend's values and gradients, and then measures training steps, whole trainings, seeds as one program and
generation, the most important first, each part in its own processes with a time limit. DIR/gpu.json has all results so
far at any time, DIR/gpu.txt the tables, DIR/gpu.log what went to standard error; plots come at the end. It needs this
repository with jax[cuda13], and no network: LOVECRAFT_CORPUS names a folder with the tales, and PyTorch is measured
where it is installed. The parts, of which --parts chooses:

  kernels    the CUDA kernels alone, for every division of a layer (benchmarks.kernels)
  values     each backend against a float64 loop (benchmarks.values)
  steps      training steps of three sizes, with PyTorch's fastest and the roofline (benchmarks.train_step)
  start      c150 from the start of the process to its scores, cold and warm (benchmarks.training)
  seeds      sixteen seeds as one program against one
  generate   one stream and 256 (benchmarks.generate)
  precision  c150 in bfloat16 against float32, three seeds (benchmarks.precision)
  large      configs/best.py, bpe.py:large and words.py:large, whole trainings
  more       training steps with 512 rows, those of all peers, and c150's start in float32
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from benchmarks.gpu_summary import plot, summarise
from benchmarks.turns import ROOT, machine

PARTS = ("kernels", "values", "steps", "start", "seeds", "generate", "precision", "large", "more")
LEAST, TO_END = 20.0, 10.0
"""Seconds with which a command is still begun, and those of its limit in which it writes what it has."""


class Command(NamedTuple):
    """A module of benchmarks/ with its flags, and the seconds after which it is ended."""

    limit: float
    module: str
    flags: Sequence[str]


def main() -> int:
    """Runs the parts, prints their tables and a summary; returns 1 if a value or gradient is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path("runs/benchmarks/gpu"), help="a folder for what was measured")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=360.0, help="for everything; no part begins without time left")
    parser.add_argument(
        "--backend", choices=["auto", "cuda"], help="of whole trainings; by default cuda if its values are right"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="every part on the CPU with tiny sizes, to test this script"
    )
    args = parser.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was measured is kept
    with tempfile.TemporaryDirectory() as folder, open(args.to / "gpu.txt", "w") as text:
        run = Run(args, Path(folder), text)
        try:
            for part in args.parts:
                run.part(part)
        finally:
            run.merge()
            run.show(summarise(run.results, run.parts))
            plot(run.results, args.to)
    return int(any(one["is_wrong"] for one in [*run.values(), *run.found("kernels")]))


class Run:
    """The parts so far: `results` by command and JSON file, as "steps-0/train_step-c150-gpu", and for each part its
    commands."""

    def __init__(self, args: argparse.Namespace, folder: Path, text: TextIO) -> None:
        self.args, self.folder, self.text = args, folder, text
        self.device, self.stop = "cpu" if args.tiny else "gpu", time.monotonic() + args.seconds
        self.about = machine(len(os.sched_getaffinity(0)), self.device)
        self.results: dict[str, Any] = {}
        self.parts: dict[str, list[dict[str, Any]]] = {}

    def part(self, name: str) -> None:
        """Runs the commands of a part, one after the other, as long as there is time."""
        done = self.parts.setdefault(name, [])
        plan = _tiny_plan if self.args.tiny else _plan
        for number, command in enumerate(plan(self.backend(name))[name]):
            limit = min(command.limit, self.stop - time.monotonic())
            if limit < LEAST:
                done.append({"command": command.module, "why": "not begun: no time was left"})
                continue
            to = self.folder / f"{name}-{number}"
            flags = [*command.flags, f"--device={self.device}", f"--to={to}"]
            if command.module in ("train_step", "generate"):
                flags.append(f"--within={limit - TO_END}")
            elif command.module == "values":
                flags.append(f"--limit={limit - TO_END}")
            began = time.monotonic()
            self.show(f"\n## {name}: python -m benchmarks.{command.module} {' '.join(command.flags)}")
            why = self.execute([sys.executable, "-m", f"benchmarks.{command.module}", *flags], limit)
            done.append({"command": command.module, "seconds": time.monotonic() - began, "why": why})
            self.merge()

    def backend(self, part: str) -> str:
        """Returns the backend of a part's trainings: "cuda" where the part "values" has shown that it is right, for the
        sizes of c150, or for all, and in their dtype."""
        if self.args.backend:
            return str(self.args.backend)
        dtype = "float32" if part == "more" else "bfloat16"
        cases = [one for one in self.values() if one["system"] == f"cuda {dtype}"]
        cases = [one for one in cases if part == "large" or one["size"].startswith("c150")]
        return "cuda" if cases and not any(one["is_wrong"] or "left_out" in one for one in cases) else "auto"

    def values(self) -> list[dict[str, Any]]:
        """Returns the cases that the part "values" has checked."""
        return self.found("values")

    def found(self, part: str) -> list[dict[str, Any]]:
        """Returns the results of a part that checks."""
        return list(self.results.get(f"{part}-0/{part}-{self.device}", {}).get("results", []))

    def execute(self, command: list[str], limit: float) -> str:
        """Runs a command, shows what it prints, and returns why it failed; "" where it has not."""
        end = time.monotonic() + limit
        with open(self.folder / "out.txt", "w+") as out, open(self.args.to / "gpu.log", "a") as log:
            environment = os.environ | {"PYTHONUNBUFFERED": "1"}
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=out, stderr=log, start_new_session=True
            )
            why = ""
            try:
                while process.poll() is None:
                    if time.monotonic() > end:
                        why = f"ended after {limit:.0f} s"
                        break
                    time.sleep(0.5)
                    self.merge()
            finally:
                _kill_group(process)
                out.seek(0)
                self.show(out.read().rstrip())
        return why or (f"exit code {process.returncode}; gpu.log says more" if process.returncode else "")

    def merge(self) -> None:
        """Writes DIR/gpu.json from the files of all parts."""
        for file in sorted(self.folder.glob("*/*.json")):
            try:
                self.results[f"{file.parent.name}/{file.stem}"] = json.loads(file.read_text())
            except ValueError:
                continue  # half written: the next time
        merged = {"machine": self.about, "parts": self.parts, "results": self.results}
        part = self.args.to / "gpu.json.part"
        part.write_text(json.dumps(merged, indent=1) + "\n")
        part.replace(self.args.to / "gpu.json")

    def show(self, text: str) -> None:
        """Prints a text, to DIR/gpu.txt too."""
        print(text, flush=True)
        print(text, file=self.text, flush=True)


def _kill_group(process: subprocess.Popen) -> None:
    """Ends a command and the processes that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


OURS = "lovecraft_jax"
ROOFLINE = ["matmul in jax, TF32", "matmul in jax, bfloat16", "memory in jax"]
GRAPHS = ["PyTorch, CUDA graph, bfloat16", "PyTorch, CUDA graph, TF32"]


def _ours(*changes: str) -> list[str]:
    return [", ".join([OURS, change]) for change in changes]


def _plan(backend: str) -> dict[str, list[Command]]:
    """Returns the commands of each part, where `backend` is that of whole trainings."""
    quick = ["--rounds=5", "--seconds=0.25", "--limit=45"]
    bfloat16, is_cuda = "model.dtype=bfloat16", backend == "cuda"
    with_backend = " model.backend=cuda" if is_cuda else ""

    def steps(limit: float, size: str, systems: Sequence[str] = ()) -> Command:
        return Command(limit, "train_step", ["--sizes", size, *quick, *(["--systems", *systems] if systems else [])])

    # The most important first: the last ones are left out where time is short.
    plain, recipe, best = (
        _ours(*(f"{name}{change}bfloat16" for change in ("cuda, ", "wavefront, ", "blocks, ", "")))
        for name in ("", "recipe, ", "best, ")
    )
    alone = recipe[0 if is_cuda else -1]
    streams = ["--streams", "1", "256", "--systems", OURS, *_ours("bfloat16"), "PyTorch, CUDA graph, TF32"]
    large = ["configs/best.py", "configs/bpe.py:large", "configs/words.py:large"]
    one_start = ["--starts", "cold", "--settings", with_backend.strip()]
    return {
        "kernels": [Command(100, "kernels", [])],
        "values": [Command(95, "values", [])],
        "steps": [
            steps(105, "c150", [OURS, *plain, *GRAPHS, *recipe, *_ours("cuda", "recipe, cuda"), *ROOFLINE]),
            steps(70, "u512-b64", [OURS, *plain, *GRAPHS, *recipe[:1]]),
            steps(85, "u1024-b128", [OURS, *plain, *GRAPHS, *best]),
        ],
        "start": [Command(150, "training", ["--name=start", "--limit=100", "--settings", bfloat16 + with_backend])],
        "seeds": [steps(50, "c150", [alone, f"{alone}, 16 seeds"])],
        "generate": [Command(60, "generate", ["--sizes", "c150", *quick, *streams])],
        "precision": [Command(300, "precision", ["--limit=120"])],
        "large": [Command(200, "training", ["--name=large", f"--configs={config}", *one_start]) for config in large],
        "more": [
            *(steps(90, size, [OURS, *plain, *GRAPHS]) for size in ("c150-b512", "u512-b512", "u1024-b512")),
            Command(150, "training", ["--name=start-float32", "--limit=100", "--settings", with_backend.strip()]),
            *(steps(300, size) for size in ("c150", "u512-b64", "u1024-b128")),
        ],
    }


def _tiny_plan(backend: str) -> dict[str, list[Command]]:
    """Returns the same with tiny sizes, for a CPU."""
    del backend
    quick = ["--sizes", "tiny", "--rounds=1", "--seconds=0.01"]
    few = "model.backend=fused train.steps=5 train.eval_every=5 train.checkpoint_every=5"
    train = ["--configs", "configs/tiny.py", "--starts", "cold", "--settings", few]
    precision = ["--config=configs/tiny.py", "--seeds=1", "--settings", f"{few} model.dtype=bfloat16"]
    of_steps = [OURS, *_ours("recipe, 2 seeds"), *GRAPHS[:1]]
    return {
        "kernels": [Command(200, "kernels", ["--tiny"])],
        "values": [Command(400, "values", ["--sizes", "tiny", "--systems", "fused float32", "cuda bfloat16"])],
        "steps": [Command(400, "train_step", [*quick, "--systems", *of_steps])],
        "start": [Command(400, "training", ["--name=start", *train])],
        "seeds": [Command(400, "train_step", [*quick, "--systems", *_ours("fused", "fused, 2 seeds")])],
        "generate": [Command(400, "generate", [*quick, "--streams", "2", "--systems", OURS])],
        "precision": [Command(400, "precision", precision)],
        "large": [Command(400, "training", ["--name=large", *train[:-1], "model.backend=cuda model.dtype=bfloat16"])],
        "more": [Command(400, "train_step", [*quick, "--systems", "memory in jax"])],
    }


if __name__ == "__main__":
    sys.exit(main())
