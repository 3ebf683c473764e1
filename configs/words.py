"""Words as tokens: two LSTM layers of 256 units with c150's recipe, and an embedding that the softmax shares.

python -m lovecraft_jax.train --config=configs/words.py
python -m lovecraft_jax.train --config=configs/words.py:quick
python -m lovecraft_jax.train --config=configs/words.py:large

The first gives valid 1.622 bpc, test 1.645, and with a cache test 1.592 (seed 0, the full corpus, jax 0.10.2), in
twelve minutes of one core of an AMD EPYC (Zen 4), without its adaptive scores. `large` has not been trained yet.
"""

from ml_collections import ConfigDict

from configs import bpe


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns configs/bpe.py with words as tokens, and its variants: `quick`, and `large` for one GPU."""
    config = bpe.get_config(variant)
    config.data.level = "words"
    config.data.vocab_size = 20_000  # more than the words that occur twice
    config.data.seq_len = 35  # tokens: words, punctuation, paragraph breaks
    # The ids that are always computed; the others, rarer words, take less time.
    config.model.softmax_head = 1000
    # A run has a sixth of c150's steps: it forgets sooner, and averages over fewer.
    config.optimizer.weight_decay = 0.15
    config.train.average = 0.99
    if variant is None:
        # More than the rule for characters gives: most words occur a few times only.
        config.model.dropout = 0.3
        config.model.dropout_input = 0.1
        config.model.dropout_recurrent = 0.15
    if variant == "large":
        config.data.seq_len = 70
        config.model.dropout = 0.5
        config.model.dropout_input = 0.2
        config.model.dropout_recurrent = 0.25
    return config
