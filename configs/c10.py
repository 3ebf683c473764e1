"""The article's fourth model: two LSTM layers of 150 units over 10 characters, otherwise as configs/c150.py.

python -m lovecraft_jax.train --config=configs/c10.py
python -m lovecraft_jax.train --config=configs/c10.py:quick
"""

from ml_collections import ConfigDict

from configs import c150


def get_config(variant: str | None = None) -> ConfigDict:
    """c150 with 150 units and 10 characters of backpropagation through time."""
    config = c150.get_config(variant)
    config.model.units = 150
    config.data.seq_len = 10
    return config
