"""Words as tokens: two LSTM layers of 256 units, with c150's recipe.

python -m lovecraft_jax.train --config=configs/words.py
python -m lovecraft_jax.train --config=configs/words.py:quick

Its values are provisional: not searched yet.
"""

from ml_collections import ConfigDict

from configs import c150


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns c150 with words as tokens; the variant `quick` is the same in 300 steps, without dropout."""
    if variant not in (None, "quick"):
        raise ValueError(f"unknown variant {variant!r} of this config; known: quick")
    config = c150.get_config(variant)
    config.data.level = "words"
    config.data.vocab_size = 20_000  # more than the words that occur twice
    config.data.seq_len = 35  # words
    config.model.units = 256
    config.model.embed = 256
    config.model.softmax_head = 2000  # the most frequent words; the others cost less time
    config.optimizer.lr = 0.012
    config.train.epochs = 6.0
    if variant is None:
        config.model.dropout = 0.3
        config.model.dropout_input = 0.075
        config.model.dropout_recurrent = 0.15
    return config
