"""Pieces of words as tokens (byte-pair encoding): two LSTM layers of 200 units, with c150's recipe.

python -m lovecraft_jax.train --config=configs/bpe.py
python -m lovecraft_jax.train --config=configs/bpe.py:quick

Its values are provisional: not searched yet.
"""

from ml_collections import ConfigDict

from configs import c150


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns c150 with 2,000 pieces of words as tokens; the variant `quick` is the same in 300 steps, without
    dropout."""
    if variant not in (None, "quick"):
        raise ValueError(f"unknown variant {variant!r} of this config; known: quick")
    config = c150.get_config(variant)
    config.data.level = "bpe"
    config.data.vocab_size = 2000
    config.data.seq_len = 40  # tokens
    config.model.units = 200
    config.model.embed = 128
    config.optimizer.lr = 0.016
    if variant is None:
        config.model.dropout = 0.1
        config.model.dropout_input = 0.025
        config.model.dropout_recurrent = 0.05
    return config
