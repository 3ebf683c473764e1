"""A model for tests: it trains on the bundled tales in seconds and learns little.

python -m lovecraft_jax.train --config=configs/tiny.py
"""

from ml_collections import ConfigDict

from configs import c150


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns two layers of 16 units with dropout, which log, evaluate and save every few steps."""
    if variant is not None:
        raise ValueError(f"unknown variant {variant!r} of this config; it has none")
    config = c150.get_config("plain")
    config.data.corpus = "bundled"
    config.data.seq_len = 8
    config.data.batch_size = 8
    config.model.units = 16
    config.model.embed = 0
    config.model.dropout_input = 0.1
    config.model.dropout = 0.1
    config.optimizer.lr = 0.004
    config.optimizer.warmup = 4
    config.train.steps = 40
    config.train.steps_per_dispatch = 5
    config.train.log_every = 10
    config.train.eval_every = 20
    config.train.eval_rows = 8
    config.train.checkpoint_every = 10
    config.train.adaptive = False
    config.sample.length = 40
    return config
