"""Two LSTM layers of 512 units: c150's recipe, which for their size has a dropout of .2.

python -m lovecraft_jax.train --config=configs/c512.py

It takes 42 minutes on two cores of an AMD EPYC (Zen 5), its adaptive scores included, and gives valid 1.652 bpc, test
1.663, adaptive test 1.584 (seed 0; the full Lovecraft corpus, jax 0.10.2).
"""

from ml_collections import ConfigDict

from configs import c150


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns c150 with 512 units and a lower learning rate; training/settings_by_size.py gives it dropout."""
    if variant is not None:
        raise ValueError(f"unknown variant {variant!r} of this config; it has none")
    config = c150.get_config()
    config.model.units = 512
    config.optimizer.lr = 0.012
    return config
