"""Words as tokens: two LSTM layers of 256 units with c150's recipe, and an embedding that the softmax shares.

python -m lovecraft_jax.train --config=configs/words.py
python -m lovecraft_jax.train --config=configs/words.py:quick
python -m lovecraft_jax.train --config=configs/words.py:large

The first gives valid 1.622 bpc, test 1.645, and with a cache test 1.592 (seed 0, the full corpus, jax 0.10.2), in
twelve minutes of one core of an AMD EPYC (Zen 4), without its adaptive scores. `large` has not been trained yet.
"""

from ml_collections import ConfigDict

from configs import c150


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns c150 with words as tokens. The variant `quick` is the same in 300 steps, without dropout; `large` is for
    one GPU."""
    if variant not in (None, "quick", "large"):
        raise ValueError(f"unknown variant {variant!r} of this config; known: quick, large")
    config = c150.get_config("quick" if variant == "quick" else None)
    config.data.level = "words"
    config.data.vocab_size = 20_000  # more than the words that occur twice
    config.data.seq_len = 35  # tokens: words, punctuation, paragraph breaks
    config.model.units = 256
    config.model.embed = 128
    config.model.tie = True  # .012 bpc better than a softmax of its own (seed 0), with half the parameters
    config.model.softmax_head = 1000  # ids that are always computed; the others, rarer words, take less time
    config.optimizer.lr = 0.02
    # A run has a sixth of c150's steps: it forgets sooner, and averages over fewer.
    config.optimizer.weight_decay = 0.15
    config.train.average = 0.99
    config.train.epochs = 9.0
    if variant != "quick":
        # More than the rule for characters gives: most words occur a few times only.
        config.model.dropout = 0.3
        config.model.dropout_input = 0.1
        config.model.dropout_recurrent = 0.15
    if variant == "large":
        config.data.seq_len = 70
        config.model.units = 1024
        config.model.embed = 256
        config.model.dtype = "bfloat16"
        config.model.dropout = 0.5
        config.model.dropout_input = 0.2
        config.model.dropout_recurrent = 0.25
        config.optimizer.lr = 0.008
        config.train.epochs = 20.0
    return config
