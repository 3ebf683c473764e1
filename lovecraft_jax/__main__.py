"""python -m lovecraft_jax: lists the commands."""

COMMANDS = """lovecraft_jax: LSTM language models on prose

  python -m lovecraft_jax.train --config=configs/c150.py      train, or go on with, a run
  python -m lovecraft_jax.sample --workdir=runs/c150          write with a run
  python -m lovecraft_jax.evaluate --workdir=runs/c150        score a split or a text exactly
  python -m lovecraft_jax.report --workdir=runs/c150          a page about a run, in report/index.html

Each lists its flags with --help. README.md tells the rest."""

if __name__ == "__main__":
    print(COMMANDS)
