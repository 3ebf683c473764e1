"""Memory and collectives of training on machines that are not at hand:
`python -m launch.compile_ahead --config=configs/c150.py --topology=v5e:16x16`.

Compiles the dispatch of training steps that `lovecraft_jax.train` runs, with the compilers of those TPUs and GPUs, and
reports whether it fits into their memory and where it communicates. Nothing is trained.
"""

import os

# Before JAX starts: compile on the CPU, cache nothing, and do not ask a metadata server whether this is a TPU VM.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # several at once, or next to a training

import json

from absl import flags

from launch.ahead import topologies
from launch.ahead.compile import compile_config, total_steps
from launch.ahead.report import Result, lines, loop_lines, table
from lovecraft_jax import cli
from lovecraft_jax.config import Config
from lovecraft_jax.data import dataset
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import DONE, FAILED
from lovecraft_jax.training.compiled import dispatch_steps
from lovecraft_jax.training.settings_by_size import choose_settings


def main() -> int:
    """Compiles for each topology and prints the results. Returns FAILED if a device of one has too little memory."""
    F = flags.FLAGS
    config = Config.of(cli.required_flag("config", "configs/c150.py"))
    flag = cli.required_flag("topology", "v5e:16x16")
    machines = [topologies.find(name.strip()) for value in flag for name in value.split(",")]  # errors before compiling
    prepared = dataset.prepare(config)
    config, _ = choose_settings(config, prepared)
    tokens = len(prepared.encoded["train"].ids)
    log(f"the dispatch of {dispatch_steps(config)} steps; corpus {prepared.name}, {prepared.tokenizer.size} ids")
    results = []
    for topology in machines:
        config = config.replace(**{"data.batch_size": F.batch_per_chip * topology.chips})
        log(f"compiling for {topology.name} ...")
        if (needed := config.data.batch_size * config.data.seq_len) > tokens:
            log(f"a batch has {needed:,} tokens, the training text {tokens:,}: training needs a longer text")
        compiled = compile_config(config, prepared.tokenizer.size, total_steps(config, tokens), topology)
        result = Result(topology, config.data.batch_size, dispatch_steps(config), compiled)
        print(json.dumps(result.record()) if F.json else lines(result), flush=True)
        if F.loops and not F.json:
            print(loop_lines(compiled.loops, config.data.seq_len), flush=True)
        if not result.fits:
            log(result.advice(config))
        results.append(result)
    if len(results) > 1 and not F.json:
        print("\n" + table(results))
    return DONE if all(result.fits for result in results) else FAILED


if __name__ == "__main__":
    cli.define_config_flag()
    flags.DEFINE_multi_string(
        "topology", None, f"The machine, such as {topologies.EXAMPLES}; several with commas or flags."
    )
    flags.DEFINE_integer(
        "batch_per_chip", 64, "Rows of the batch for each chip, instead of data.batch_size.", lower_bound=1
    )
    flags.DEFINE_bool("loops", False, "Print what the innermost loops, those over time, run in an iteration.")
    flags.DEFINE_bool("json", False, "Print one JSON object for each topology instead of text.")
    cli.run(main, find_devices=None)
