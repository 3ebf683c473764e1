"""The article's second model: two LSTM layers of 125 units over 30 characters, otherwise as configs/c150.py.

python -m lovecraft_jax.train --config=configs/c125.py
python -m lovecraft_jax.train --config=configs/c125.py:quick
"""

from ml_collections import ConfigDict

from configs import c150


def get_config(variant: str | None = None) -> ConfigDict:
    """c150 with 125 units and 30 characters of backpropagation through time."""
    config = c150.get_config(variant)
    config.model.units = 125
    config.data.seq_len = 30
    return config
