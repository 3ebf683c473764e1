"""The article's third model, two LSTM layers of 150 units, with a better recipe.

python -m lovecraft_jax.train --config=configs/c150.py
python -m lovecraft_jax.train --config=configs/c150.py:quick
python -m lovecraft_jax.train --config=configs/c150.py:article

The first takes 5 min 40 s on two cores of an AMD EPYC (Zen 5) and gives valid 1.937 bpc, test 1.946 (the full Lovecraft
corpus, seed 0, jax 0.10.2). The second takes 25 s and still spells badly: valid 2.871, test 3.805 on the
bundled tales (its carry is not yet stable over a whole split: in 32 warmed rows the same text scores 3.205).
The third is the article's own recipe, for 850 epochs; `--config.train.stop_at_step` ends it earlier.
"""

from ml_collections import ConfigDict

from lovecraft_jax.config import default_config


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns the whole experiment, every number with its unit or its reason.

    The variant `quick` is the same in under a minute, `article` is the recipe of 2019.
    """
    config = default_config()
    config.seed = 0

    config.data.corpus = "auto"  # the 67 tales if they can be downloaded, else the bundled ones; or a path
    config.data.level = "chars"  # what a token is
    config.data.alphabet = "ascii"  # "unicode" keeps every character
    config.data.share = 1.0  # share of the training tales; lower values show what more text would bring
    config.data.regime = "stream"  # "window" is the article's: independent slices, no carry between them
    config.data.seq_len = 50  # tokens of backpropagation through time
    config.data.batch_size = 64  # rows, over all devices

    config.model.cell = "lstm"  # or "gru"
    # "auto": "native" (loops in C++) on a CPU with a C++ compiler, else "fused". "scan" is a plain Flax cell, slower.
    config.model.backend = "auto"
    config.model.layers = 2
    config.model.units = 150
    config.model.embed = 64  # width of the embedding; 0: one-hot vectors, as in the article, which learn more slowly
    config.model.dropout_input = 0.0  # on the input
    config.model.dropout = 0.0  # on every layer's output; a model this small underfits as it is
    config.model.forget_bias = 1.0  # initial bias of the forget gates, so that memories last; as in Keras
    # "layer" (Ba et al. 2016), "batch_input" (Laurent et al. 2015), "batch" (Cooijmans et al. 2016).
    config.model.norm = "none"
    config.model.tie = False  # True: the embedding is also the head's kernel
    # Tokens of a chunk: only the carry between chunks is saved for the backward pass and the rest is computed again, so
    # that a long seq_len fits into memory. The square root of seq_len takes the least. 0 saves everything.
    config.model.remat = 0
    config.model.dtype = "float32"  # of the operands of matmuls; sums, gates and carry stay float32

    config.optimizer.lr = 0.008  # peak
    config.optimizer.schedule = "cosine"  # or "constant", after the warmup
    config.optimizer.warmup = 200  # steps
    config.optimizer.end = 0.02  # learning rate at the last step, as a share of the peak
    config.optimizer.beta1 = 0.9
    config.optimizer.beta2 = 0.99  # 0.999 averages over longer than the falling rate allows
    config.optimizer.eps = 1e-8
    config.optimizer.eps_hat = False  # True adds eps before the bias correction, as Keras does
    config.optimizer.clip = 1.0  # largest global norm of the gradient; 0: no clipping

    # "binary_cross_entropy" is the article's: a yes-or-no decision for every character of the vocabulary.
    config.train.loss = "cross_entropy"
    config.train.epochs = 20.0  # over the training text
    config.train.steps = 0  # above 0: used instead of epochs
    config.train.stop_at_step = 0  # ends early without changing the schedule; 0: does not
    config.train.patience = 0  # ends a run after so many evaluations without an improvement; 0: never
    config.train.steps_per_dispatch = 20  # steps that the device runs without the host
    config.train.log_every = 100  # steps
    config.train.eval_every = 1000  # steps
    config.train.eval_lanes = None  # rows of the scheduled score; None: 32, fewer if the text is short
    config.train.checkpoint_every = 500  # steps; every evaluation saves as well
    config.train.keep = 2  # latest checkpoints; the best is kept as well
    config.train.watchdog = 900.0  # ends a run after so many seconds without a finished step or score; 0: never
    config.train.adaptive = True  # final scores by dynamic evaluation too (inference/adaptive.py), in half a minute

    # What is generated at every evaluation.
    config.sample.prompt = "The ancient house"
    config.sample.length = 500  # new tokens
    config.sample.temperature = 0.7
    config.sample.top_k = 0  # 0 keeps all
    config.sample.top_p = 1.0  # 1 keeps all

    if variant == "quick":
        config.train.steps = 300
        config.train.eval_every = 100
        config.train.checkpoint_every = 100
        config.train.adaptive = False
        config.optimizer.warmup = 50
    elif variant == "article":
        _follow_article(config)
    elif variant is not None:
        raise ValueError(f"unknown variant {variant!r} of this config; known: quick, article")
    return config


def _follow_article(config: ConfigDict) -> None:
    """Sets what the article says it did, and Keras's defaults of 2019 for the rest.

    Two things differ: the alphabet, which was letters, digits and a few marks; and the initial weights, where Keras
    draws kernel_h as one orthogonal matrix for all gates instead of one for each, and the head's with another scale.
    """
    config.data.regime = "window"
    config.data.batch_size = 32  # Keras's default
    config.model.embed = 0  # one-hot
    config.optimizer.lr = 0.001  # with the next five Keras's Adam
    config.optimizer.schedule = "constant"
    config.optimizer.warmup = 0
    config.optimizer.beta2 = 0.999
    config.optimizer.eps = 1e-7
    config.optimizer.eps_hat = True
    config.optimizer.clip = 0.0
    config.train.loss = "binary_cross_entropy"
    config.train.epochs = 850.0
    config.train.eval_every = 10_000  # six epochs
    config.train.checkpoint_every = 2000
    config.train.adaptive = False  # the article's loss is another
