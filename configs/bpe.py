"""Subwords (byte-pair encoding) as tokens: two LSTM layers of 256 units with c150's recipe, and an embedding that the
softmax shares.

python -m lovecraft_jax.train --config=configs/bpe.py
python -m lovecraft_jax.train --config=configs/bpe.py:quick
python -m lovecraft_jax.train --config=configs/bpe.py:large

The first takes 4 min 10 s on two cores of an AMD EPYC (Zen 5), its adaptive scores included, and gives valid 1.715 bpc,
test 1.725 (medians of seeds 0 to 2), adaptive test 1.652, with a cache 1.673 (seed 0; the full Lovecraft corpus, jax
0.10.2). `quick`, once compiled, takes 31 s there and gives valid 1.980, test 1.962 (seed 0). `large` has not been
trained yet.
"""

from ml_collections import ConfigDict

from configs import c150


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns c150 with 2,000 subwords as tokens. The variant `quick` is the same in 300 steps, without dropout;
    `large` is for one GPU."""
    if variant not in (None, "quick", "large"):
        raise ValueError(f"unknown variant {variant!r} of this config; known: quick, large")
    config = c150.get_config("quick" if variant == "quick" else None)
    config.data.level = "bpe"
    config.data.vocab_size = 2000
    config.model.units = 256
    config.model.embed = 128
    # Tried on words, seed 0: .012 bpc better than a softmax of its own, with half the parameters (docs/words.md).
    config.model.tie = True
    config.optimizer.lr = 0.02
    # A run has a sixth of c150's steps: it forgets sooner, and averages over fewer.
    config.optimizer.weight_decay = 0.1
    config.train.average = 0.995
    if variant == "large":
        config.data.seq_len = 100
        config.model.units = 1024
        config.model.embed = 256
        config.model.dtype = "bfloat16"
        config.optimizer.lr = 0.008
        config.train.epochs = 20.0
    return config
