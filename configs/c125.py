"""The article's second model: two LSTM layers of 125 units, 30 characters of context, else c150.

python -m lovecraft_jax.train --config=configs/c125.py
python -m lovecraft_jax.train --config=configs/c125.py:quick
python -m lovecraft_jax.train --config=configs/c125.py:plain
python -m lovecraft_jax.train --config=configs/c125.py:article

The first takes 3 min 44 s on two cores of an AMD EPYC (Zen 5), its adaptive scores included, and gives valid 1.769
bpc, test 1.783, adaptive test 1.730. `:plain` takes 8 min 55 s there, next to much other work, and gives valid 1.961,
test 1.963 (the full Lovecraft corpus, seed 0, jax 0.10.2).
"""

from ml_collections import ConfigDict

from configs import c150


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns c150 with 125 units and 30 characters of backpropagation through time."""
    config = c150.get_config(variant)
    config.model.units = 125
    config.data.seq_len = 30
    if variant == "article":
        config.train.epochs = 500.0
    return config
