"""Words as tokens: two LSTM layers of 256 units with c150's recipe, and an embedding that the softmax shares.

python -m lovecraft_jax.train --config=configs/words.py
python -m lovecraft_jax.train --config=configs/words.py:quick
python -m lovecraft_jax.train --config=configs/words.py:large

The first takes 5 min 30 s on two cores of an AMD EPYC (Zen 5), its adaptive scores included, and gives valid 1.620 bpc,
test 1.646 (medians of seeds 0 to 2), adaptive test 1.624, with a cache 1.585 (seed 0; the full Lovecraft corpus, jax
0.10.2). `quick`, once compiled, takes 37 s there and gives valid 1.730, test 1.745 (seed 0). `large` has not been
trained yet.
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
    config.optimizer.weight_decay = 0.15
    config.train.average = 0.99
    if variant == "large":
        config.data.seq_len = 70
    return config
