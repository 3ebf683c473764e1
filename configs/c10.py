"""The article's fourth model: two LSTM layers of 150 units, 10 characters of context, ten epochs, else c150.

python -m lovecraft_jax.train --config=configs/c10.py
python -m lovecraft_jax.train --config=configs/c10.py:quick
python -m lovecraft_jax.train --config=configs/c10.py:plain
python -m lovecraft_jax.train --config=configs/c10.py:article

The first takes 3 min 51 s on two cores of an AMD EPYC (Zen 5), its adaptive scores included, and gives valid 1.782
bpc, test 1.797, adaptive test 1.735. `:plain` takes 7 min 28 s on one of these cores and gives valid 1.940, test 1.957:
better than c150:plain after ten epochs, in five times as many steps (the full Lovecraft corpus, seed 0, jax 0.10.2).
"""

from ml_collections import ConfigDict

from configs import c150


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns c150 with 150 units and 10 characters of backpropagation through time."""
    config = c150.get_config(variant)
    config.model.units = 150
    config.data.seq_len = 10
    config.train.epochs = 500.0 if variant == "article" else 10.0  # how many the article trained is unknown
    if variant not in ("plain", "article"):
        # Five times as many steps an epoch as c150: a weight and its average last for as many epochs as there.
        config.optimizer.lr = 0.015
        config.optimizer.weight_decay = 0.02
        config.train.average = 0.9998
    if variant == "quick":
        config.train.steps = 1500  # as many characters as the others' 300 steps
        config.train.eval_every = 500
        config.train.checkpoint_every = 500
    return config
