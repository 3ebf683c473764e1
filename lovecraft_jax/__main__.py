"""lovecraft_jax: LSTM language models on prose

  python -m lovecraft_jax.train --config=configs/c150.py      trains a run, or resumes it
  python -m lovecraft_jax.sample --workdir=runs/c150          generates text
  python -m lovecraft_jax.evaluate --workdir=runs/c150        scores a split or a text exactly
  python -m lovecraft_jax.report --workdir=runs/c150          makes a page about a run: report/index.html

Each lists its flags with --help; README.md has the rest."""

if __name__ == "__main__":
    print(__doc__)
