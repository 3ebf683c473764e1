"""The measured systems by name. Each prepares a function that runs so many training steps, or generates so many
characters of each stream. A peer's library is imported only in the process that runs it.

"lovecraft_jax" is this project as it trains and generates on the device by itself. What is changed may follow its name:
recipes, backends and dtypes (workloads.py), and "16 seeds" for as many runs as one program. For example
"lovecraft_jax, recipe, cuda, bfloat16".
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict

from benchmarks.workloads import BACKENDS, DTYPES, VARIANTS, with_changes

Run = Callable[[int], None]
OURS = "lovecraft_jax"


class System(NamedTuple):
    """`make(module, config)`, for generation `make(module, config, streams)`, prepares the function, where `module` is
    the one of benchmarks/peers/ that `peer` names. With `runs` above 1 a step is one of each of so many runs."""

    peer: str
    make: Callable[..., Run]
    runs: int = 1


def _pytorch(way: str, precision: str = "float32") -> System:
    return System("pytorch", lambda torch, config: torch.train(config, way, precision))


def _pytorch_generates(way: str, precision: str = "float32") -> System:
    return System("pytorch", lambda torch, config, streams: torch.generate(config, streams, way, precision))


PRECISIONS = ("float32", "TF32", "bfloat16")
"""Of matmuls on a GPU. TF32 is JAX's default there."""

TRAIN: dict[str, System] = {
    "PyTorch, eager": _pytorch("eager"),
    "PyTorch, compiled": _pytorch("compiled"),
    "Keras, as in 2019": System("keras_tf", lambda keras, config: keras.train_as_article(config)),
    "Keras": System("keras_tf", lambda keras, config: keras.train_at_best(config, xla=False)),
    "Keras, XLA": System("keras_tf", lambda keras, config: keras.train_at_best(config, xla=True)),
    "Keras on JAX": System("keras_jax", lambda keras, config: keras.train(config)),
    "Flax, plain": System("flax_plain", lambda flax, config: flax.train(config)),
    **{
        f"PyTorch, {way}, {precision}": _pytorch(way, precision)
        for way in ("eager", "compiled", "CUDA graph")
        for precision in PRECISIONS
    },
}

ROOFLINE: dict[str, System] = {
    "matmul in numpy": System("matmuls", lambda matmuls, config: matmuls.in_numpy(config)),
    "matmul in jax": System("matmuls", lambda matmuls, config: matmuls.in_jax(config)),
    "matmul in torch": System("matmuls", lambda matmuls, config: matmuls.in_torch(config)),
    "matmul in jax, TF32": System("matmuls", lambda matmuls, config: matmuls.in_jax(config)),
    "matmul in jax, bfloat16": System("matmuls", lambda matmuls, config: matmuls.in_jax(config, "bfloat16")),
    "matmul in torch, TF32": System("matmuls", lambda matmuls, config: matmuls.in_torch(config, "TF32")),
    "matmul in torch, bfloat16": System("matmuls", lambda matmuls, config: matmuls.in_torch(config, "bfloat16")),
    "memory in jax": System("matmuls", lambda matmuls, config: matmuls.copy_in_jax(config)),
}
"""Large matmuls, of which the fastest is the peak that training is compared with, and copies of a large array."""

GENERATE: dict[str, System] = {
    "lovecraft_jax, printing": System("ours", lambda ours, config, streams: ours.generate(config, streams, True)),
    "matmuls alone": System("ours", lambda ours, config, streams: ours.matmuls_alone(config, streams)),
    "PyTorch": _pytorch_generates("eager"),
    "PyTorch, LSTMCell": System("pytorch", lambda torch, config, streams: torch.generate_by_cells(config, streams)),
    "PyTorch, TF32": _pytorch_generates("eager", "TF32"),
    "PyTorch, CUDA graph, TF32": _pytorch_generates("CUDA graph", "TF32"),
    "PyTorch, CUDA graph, bfloat16": _pytorch_generates("CUDA graph", "bfloat16"),
    "Keras": System("keras_tf", lambda keras, config, streams: keras.generate(config, streams)),
    "Flax, plain": System("flax_plain", lambda flax, config, streams: flax.generate(config, streams)),
}

TRAIN_BY_DEVICE = {
    "cpu": [
        OURS,
        "PyTorch, eager",
        "PyTorch, compiled",
        "Keras, as in 2019",
        "Keras",
        "Keras, XLA",
        "Flax, plain",
        "matmul in numpy",
        "matmul in jax",
        "matmul in torch",
    ],
    "gpu": [
        OURS,
        f"{OURS}, bfloat16",
        f"{OURS}, cuda",
        f"{OURS}, cuda, bfloat16",
        f"{OURS}, recipe",
        f"{OURS}, recipe, bfloat16",
        f"{OURS}, recipe, cuda",
        f"{OURS}, recipe, cuda, bfloat16",
        f"{OURS}, best, bfloat16",
        f"{OURS}, best, cuda, bfloat16",
        f"{OURS}, recipe, 16 seeds",
        *(name for name in TRAIN if name.endswith(PRECISIONS)),
        "Keras on JAX",
        "Flax, plain",
        "matmul in jax, TF32",
        "matmul in jax, bfloat16",
        "matmul in torch, TF32",
        "matmul in torch, bfloat16",
        "memory in jax",
    ],
}
"""What is measured where --systems does not say it."""

GENERATE_BY_DEVICE = {
    "cpu": [
        OURS,
        "lovecraft_jax, printing",
        "matmuls alone",
        "PyTorch",
        "PyTorch, LSTMCell",
        "Keras",
        "Flax, plain",
    ],
    "gpu": [
        OURS,
        f"{OURS}, bfloat16",
        "lovecraft_jax, printing",
        "matmuls alone",
        "PyTorch, TF32",
        "PyTorch, CUDA graph, TF32",
        "PyTorch, CUDA graph, bfloat16",
        "Flax, plain",
    ],
}


def find_system(task: str, name: str) -> System:
    """Returns the system of that name for a task, "train" or "generate". Raises ValueError for an unknown one."""
    named = TRAIN | ROOFLINE if task == "train" else GENERATE
    if name in named:
        return named[name]
    known = ", ".join([OURS, *named])
    if name.split(", ")[0] != OURS:
        raise ValueError(f"unknown system {name!r}; known: {known}")
    changes, runs = changes_of(name)
    if unknown := set(changes) - {*VARIANTS, *BACKENDS, *DTYPES}:
        raise ValueError(
            f"unknown change {unknown.pop()!r} in {name!r}; known: {', '.join([*VARIANTS, *BACKENDS, *DTYPES])}, "
            "16 seeds"
        )
    if task == "generate":
        if runs > 1:
            raise ValueError(f"{name!r}: only training takes several seeds as one program; leave that out")
        return System("ours", lambda ours, config, streams: ours.generate(with_changes(config, changes), streams))
    if runs > 1:
        return System("ours", lambda ours, config: ours.train_stacked(with_changes(config, changes), runs), runs)
    return System("ours", lambda ours, config: ours.train(with_changes(config, changes)))


def changes_of(name: str) -> tuple[list[str], int]:
    """Returns the changes in the name of one of our systems, and how many runs it trains at once."""
    parts = name.split(", ")[1:] if name.startswith(OURS) else []
    seeds = {part: int(match[1]) for part in parts if (match := re.fullmatch(r"([1-9]\d*) seeds", part))}
    return [part for part in parts if part not in seeds], max(seeds.values(), default=1)


def config_of(name: str, config: ConfigDict) -> ConfigDict:
    """Returns what a training system computes, where `config` is what the peers compute."""
    return with_changes(config, changes_of(name)[0])


def precision_of(name: str, device: str) -> str:
    """Returns which of PRECISIONS a system's matmuls have."""
    last = name.split(", ")[-1]
    if last in PRECISIONS and name.startswith(("PyTorch", "matmul")):
        return last
    if name.startswith(("PyTorch", "matmul in torch")):
        return "float32"  # its default, also on a GPU
    if "bfloat16" in name:
        return "bfloat16"
    return "TF32" if device == "gpu" else "float32"
