"""python -m launch.compile_ahead --config=configs/c150.py --topology=v5e:16x16: what training would need there.

Compiles the dispatch of train steps that `lovecraft_jax.train` runs, for TPUs and GPUs that this machine does not have,
with the compilers that theirs would use, and tells whether it fits and where it communicates. Nothing is trained.
"""

import os

# Before JAX starts: this machine computes nothing and keeps nothing, and asks nobody whether it is a TPU's host.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # several at once, or beside a training

import json

from absl import flags

from launch.ahead import topologies
from launch.ahead.compile import compile_config, total_steps
from launch.ahead.report import Result, lines, table
from lovecraft_jax import cli
from lovecraft_jax.config import Config
from lovecraft_jax.data import dataset
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import DONE, FAILED, UserError
from lovecraft_jax.training.compiled import dispatch_steps


def main() -> int:
    """Compiles for each topology and prints what came of it; FAILED where a device of one has too little memory."""
    F = flags.FLAGS
    config = Config.of(cli.required_flag("config", "configs/c150.py"))
    if config.model.backend == "cudnn":
        raise UserError("config.model.backend='cudnn': cuDNN plans its layer on the GPU itself; use fused")
    names = [name.strip() for given in cli.required_flag("topology", "v5e:16x16") for name in given.split(",")]
    places = [topologies.find(name) for name in names]  # all of them, before anything is compiled
    prepared = dataset.prepare(config)
    tokens = len(prepared.encoded["train"].ids)
    log(f"the dispatch of {dispatch_steps(config)} steps; corpus {prepared.name}, {prepared.tokenizer.size} ids")
    results = []
    for place in places:
        config = config.replace(**{"data.batch_size": F.batch_per_chip * place.chips})
        log(f"compiling for {place.name} ...")
        if (needed := config.data.batch_size * config.data.seq_len) > tokens:
            log(f"a batch is {needed:,} tokens: to train with it, the text needs more than its {tokens:,}")
        compiled = compile_config(config, prepared.tokenizer.size, total_steps(config, tokens), place)
        result = Result(place, config.data.batch_size, dispatch_steps(config), compiled)
        print(json.dumps(result.record()) if F.json else lines(result), flush=True)
        if not result.fits:
            log(result.advice(config))
        results.append(result)
    if len(results) > 1 and not F.json:
        print("\n" + table(results))
    return DONE if all(result.fits for result in results) else FAILED


if __name__ == "__main__":
    cli.define_config_flag()
    flags.DEFINE_multi_string("topology", None, f"Where to: {topologies.EXAMPLES}; several by commas or flags.")
    flags.DEFINE_integer("batch_per_chip", 64, "Rows of the batch a chip; instead of data.batch_size.", lower_bound=1)
    flags.DEFINE_bool("json", False, "One JSON object a topology instead of text.")
    cli.run(main, find_devices=None)
