"""python -m lovecraft_jax.sample --workdir=runs/c150 --prompt="The ancient house": writes with a run."""

import json
import sys

from absl import flags

from lovecraft_jax import cli
from lovecraft_jax.errors import UserError
from lovecraft_jax.generate import Sampling
from lovecraft_jax.run import load_run


def main() -> int:
    """Prints prompt and text, several samples separated by a line `---`, or one JSON line with --json."""
    F = flags.FLAGS
    sampling = Sampling(F.temperature, F.top_k, F.top_p)
    for name, value, least, end in (
        ("length", F.length, 1, 2**31),
        ("samples", F.samples, 1, 2**31),
        ("seed", F.seed, 0, 2**32),
    ):
        if not least <= value < end:
            raise UserError(f"--{name}={value}: expected a whole number from {least} to {end - 1}")
    if F.stream and (F.json or F.samples > 1):
        raise UserError("--stream prints one sample while it is written: leave --json and --samples out")
    run = load_run(cli.required("workdir", "runs/c150"), F.checkpoint)
    if F.stream:
        sys.stdout.write(F.prompt)
        for ids_SN in run.stream(F.prompt, F.length, F.seed, sampling):
            sys.stdout.write(run.vocab.decode(ids_SN[0]))
            sys.stdout.flush()
        sys.stdout.write("\n")
        return 0
    texts = run.write(F.prompt, F.length, F.seed, sampling, F.samples)
    if F.json:
        print(json.dumps({"prompt": F.prompt, "samples": texts, "seed": F.seed, "step": int(run.state.step)}))
    else:
        print("\n---\n".join(F.prompt + text for text in texts))
    return 0


if __name__ == "__main__":
    cli.define_run_flags()
    flags.DEFINE_string("prompt", "", "The text to go on from.")
    flags.DEFINE_integer("length", 1000, "New tokens to write.")
    flags.DEFINE_float("temperature", 0.7, "0 takes the likeliest token; higher is bolder.")
    flags.DEFINE_integer("top_k", 0, "Draw from the k likeliest only; 0 keeps all.")
    flags.DEFINE_float("top_p", 1.0, "Draw from the fewest tokens whose probabilities reach this; 1 keeps all.")
    flags.DEFINE_integer("seed", 0, "The same seed writes the same text.")
    flags.DEFINE_integer("samples", 1, "How many texts to write.")
    flags.DEFINE_bool("stream", False, "Print while writing.")
    flags.DEFINE_bool("json", False, "Print one JSON object.")
    cli.run(main)
