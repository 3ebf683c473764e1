"""The article's third model, two LSTM layers of 150 units, with the recipe of docs/recipe.md.

python -m lovecraft_jax.train --config=configs/c150.py
python -m lovecraft_jax.train --config=configs/c150.py:quick
python -m lovecraft_jax.train --config=configs/c150.py:plain
python -m lovecraft_jax.train --config=configs/c150.py:article

The first takes 5 min 20 s on two cores of an AMD EPYC (Zen 5), its adaptive scores included, and gives valid
1.740 bpc, test 1.757, adaptive test 1.692 (medians of seeds 0 to 2; the full Lovecraft corpus, jax 0.10.2). The
second takes half a minute and gives valid 2.179, test 2.471 on the bundled tales; on Zen 4, where sums have another
order, 2.189 and 2.502. The third took 5 min 40 s and gives 1.937 and 1.946. The fourth is the article's own recipe, for
850 epochs; `--config.train.stop_at_step` ends it earlier.
"""

from ml_collections import ConfigDict

from lovecraft_jax.config import default_config


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns the whole experiment, every number with its unit or its reason.

    The variant `quick` is the same in under a minute; `plain` has none of the recipe: no norm, an input gate of its
    own, Glorot initial weights, Adam at 0.008 without weight decay, no averaged weights, 20 epochs
    (experiments/article_2019 builds on it); `article` is the recipe of 2019.
    """
    config = default_config()
    config.seed = 0

    config.data.corpus = "auto"  # the 67 tales if they can be downloaded, else the bundled ones; or a path
    config.data.level = "chars"  # what a token is; or "bpe", "words" (docs/commands.md)
    config.data.vocab_size = 2000  # ids at most, of subwords or words; too few for words: see configs/words.py
    config.data.min_count = 2  # of words: one needs so many occurrences in the training text to get an id
    config.data.rare = "spell"  # of words: what becomes of the others (docs/words.md)
    config.data.bpe_dropout = 0.0  # of subwords: probability of leaving out a merge, drawn anew in each epoch
    config.data.alphabet = "ascii"  # "unicode" keeps every character
    config.data.share = 1.0  # share of the training tales; lower values show what more text would bring
    config.data.regime = "stream"  # "window" is the article's: independent slices, no carry between them
    config.data.seq_len = 50  # tokens of backpropagation through time
    config.data.batch_size = 64  # rows, over all devices

    config.model.cell = "lstm"  # or "gru"
    config.model.input_gate = "capped"  # by 1 - f; "own": the plain LSTM's; "coupled": it is 1 - f
    # "auto": "native" (loops in C++) on a CPU with a C++ compiler, else "fused". "scan" is a plain Flax cell, slower;
    # "blocks", "wavefront" and "cuda" are for GPUs, none of which has run them yet (docs/kernels.md).
    config.model.backend = "auto"
    config.model.layers = 2
    config.model.units = 150
    config.model.embed = 64  # width of the embedding; 0: one-hot vectors, as in the article, which learn more slowly
    # "unit": embedding and kernel_x begin so that what the input adds to a gate has variance 1; "glorot": as in Keras.
    config.model.init_scale = "unit"
    # Shares that are dropped, the same at all time steps of a window; weight decay does more for a model this small.
    # None: chosen by the sizes of text and model (training/settings_by_size.py), 0 for the full corpus.
    config.model.dropout_embedding = 0.0  # of the vocabulary
    config.model.dropout_input = None  # of a token's vector
    config.model.dropout_recurrent = None  # of h, before the matmul with kernel_h
    config.model.dropout_weights = 0.0  # of kernel_h
    config.model.dropout = None  # of every layer's output
    config.model.forget_bias = 1.0  # initial bias of the forget gates, so that memories last; as in Keras
    config.model.mogrify = 0  # rounds of a Mogrifier, in which x and h modulate each other (docs/kernels.md); 0: none
    # Of each gate before its activation: "rms_gates", "layer_gates"; others: model/normalization.py.
    config.model.norm = "rms_gates"
    # True: the embedding is also the head's kernel, after a projection where its width is not that of the layers.
    config.model.tie = False
    config.model.softmax_head = 0  # of an adaptive softmax: the frequent ids that it always computes; 0: all
    config.model.skip = False  # True: every layer takes the token too, and the head the outputs of all layers
    # Tokens of a chunk: only the carry between chunks is saved for the backward pass and the rest is computed again, so
    # that a long seq_len fits into memory. The square root of seq_len takes the least. 0 saves everything.
    config.model.remat = 0
    config.model.dtype = "float32"  # of the operands of matmuls; sums and the cell state stay float32

    config.optimizer.name = "adamw"  # or "adam", "sgd"
    config.optimizer.lr = 0.03  # peak; without a norm a quarter of it
    # A weight is forgotten in 1 / (lr * weight_decay) steps, here about 670, 0.8 epochs, at the peak.
    config.optimizer.weight_decay = 0.05
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
    config.train.epochs = None  # over the training text; None: by its size, 16 for the full corpus
    config.train.steps = 0  # above 0: used instead of epochs
    config.train.stop_at_step = 0  # ends early without changing the schedule; 0: does not
    config.train.average = 0.999  # decay of the averaged weights at each step, which scores and samples use; 0: none
    config.train.patience = 0  # ends a run after so many evaluations without an improvement; 0: never
    config.train.steps_per_dispatch = 20  # steps that the device runs without the host
    config.train.log_every = 100  # steps
    config.train.log_tensors = False  # True: logs the size of each parameter, its gradient and update (docs/metrics.md)
    config.train.eval_every = None  # steps; None: a 13th of the run, from 100 to 1,000
    config.train.eval_rows = None  # rows of the scheduled score; None: 32, fewer if the text is short
    config.train.checkpoint_every = 500  # steps; every evaluation saves as well
    config.train.keep = 2  # latest checkpoints; the best is kept as well
    config.train.watchdog = 900.0  # ends a run after so many seconds without a finished step or score; 0: never
    # Final scores by dynamic evaluation too (inference/adaptive.py), in half a minute, and, unless tokens are
    # characters, by a neural cache (inference/neural_cache.py).
    config.train.adaptive = True

    # What is generated at every evaluation.
    config.sample.prompt = "The ancient house"
    config.sample.length = 500  # new tokens
    config.sample.temperature = 0.7
    config.sample.top_k = 0  # 0 keeps all
    config.sample.top_p = 1.0  # 1 keeps all

    if variant == "quick":
        _turn_off_dropout(config)  # 300 steps overfit little
        config.train.steps = 300
        config.train.eval_every = 100
        config.train.checkpoint_every = 100
        config.train.adaptive = False
        config.optimizer.warmup = 50
    elif variant in ("plain", "article"):
        _make_plain(config)
        if variant == "article":
            _follow_article(config)
    elif variant is not None:
        raise ValueError(f"unknown variant {variant!r} of this config; known: quick, plain, article")
    return config


def _turn_off_dropout(config: ConfigDict) -> None:
    config.model.dropout_input = config.model.dropout_recurrent = config.model.dropout = 0.0


def _make_plain(config: ConfigDict) -> None:
    """Sets what this config had before the recipe of docs/recipe.md."""
    _turn_off_dropout(config)
    config.model.input_gate = "own"
    config.model.init_scale = "glorot"
    config.model.norm = "none"
    config.optimizer.name = "adam"
    config.optimizer.lr = 0.008
    config.optimizer.weight_decay = 0.0
    config.train.average = 0.0
    config.train.epochs = 20.0
    config.train.eval_every = 1000


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
