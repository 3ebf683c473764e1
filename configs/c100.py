"""The article's first model: two LSTM layers of 100 units over 50 characters, otherwise as configs/c150.py.

python -m lovecraft_jax.train --config=configs/c100.py
python -m lovecraft_jax.train --config=configs/c100.py:quick
"""

from ml_collections import ConfigDict

from configs import c150


def get_config(variant: str | None = None) -> ConfigDict:
    """c150 with 100 units and 50 characters of backpropagation through time."""
    config = c150.get_config(variant)
    config.model.units = 100
    config.data.seq_len = 50
    return config
