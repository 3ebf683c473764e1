"""The article's second model: two LSTM layers of 125 units over 30 characters, else as configs/c150.py.

python -m lovecraft_jax.train --config=configs/c125.py
python -m lovecraft_jax.train --config=configs/c125.py:quick
python -m lovecraft_jax.train --config=configs/c125.py:article

The first takes 8 min 55 s, much other work beside it, on two cores of an AMD EPYC (Zen 5) and gives valid 1.961 bpc,
test 1.963 (the full Lovecraft corpus, seed 0, jax 0.10.2). The second takes 17 s and gives valid 2.878, test 3.089 on
the bundled tales.
"""

from ml_collections import ConfigDict

from configs import c150


def get_config(variant: str | None = None) -> ConfigDict:
    """c150 with 125 units and 30 characters of backpropagation through time."""
    config = c150.get_config(variant)
    config.model.units = 125
    config.data.seq_len = 30
    if variant == "article":
        config.train.epochs = 500.0
    return config
