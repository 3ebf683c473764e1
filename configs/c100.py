"""The article's first model: two LSTM layers of 100 units, 50 characters of context, else c150.

python -m lovecraft_jax.train --config=configs/c100.py
python -m lovecraft_jax.train --config=configs/c100.py:quick
python -m lovecraft_jax.train --config=configs/c100.py:plain
python -m lovecraft_jax.train --config=configs/c100.py:article

The first gives valid 1.811 bpc, test 1.817, adaptive test 1.768 (the full Lovecraft corpus, seed 0, jax 0.10.2) in 340
seconds of one core of an AMD EPYC (Zen 5). `:plain` takes 5 min 15 s, next to other work, on two such cores and gives
valid 2.029, test 2.031.
"""

from ml_collections import ConfigDict

from configs import c150


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns c150 with 100 units and 50 characters of backpropagation through time."""
    config = c150.get_config(variant)
    config.model.units = 100
    config.data.seq_len = 50
    if variant == "article":
        config.train.epochs = 500.0
    return config
