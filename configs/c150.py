"""The article's third model, two LSTM layers of 150 units, trained as one should.

python -m lovecraft_jax.train --config=configs/c150.py
python -m lovecraft_jax.train --config=configs/c150.py:quick
python -m lovecraft_jax.train --config=configs/c150.py:article

The first takes 5 min 40 s on two cores of an AMD EPYC (Zen 5) and gives valid 1.937 bpc, test 1.946 (the full Lovecraft
corpus, seed 0, jax 0.10.2). The second takes 25 s and still spells badly: valid 2.871, test 3.805 on the
bundled tales (its carry is not yet steady over a whole split: in 32 warmed lanes the same text scores 3.205).
The third is the article's own recipe, 850 passes of it; `--config.train.stop_at_step` ends it earlier.
"""

from ml_collections import ConfigDict

from lovecraft_jax.config import default_config


def get_config(variant: str | None = None) -> ConfigDict:
    """The whole experiment, every number with its unit or its reason.

    `quick` is the same in about a minute, `article` as it was done in 2019.
    """
    config = default_config()
    config.seed = 0

    config.data.corpus = "auto"  # the 67 tales where they can be had, else the bundled ones; or a path
    config.data.level = "chars"  # what a token is
    config.data.alphabet = "ascii"  # "unicode" keeps every character
    config.data.share = 1.0  # of the training tales; fewer show what more would bring
    config.data.regime = "stream"  # "window" is the article's: independent slices, no carry between them
    config.data.seq_len = 50  # tokens of backpropagation through time
    config.data.batch_size = 64  # lanes, over all devices

    config.model.cell = "lstm"
    # "auto": "native", its loops in C++, on a CPU with a C++ compiler, else "fused". "scan" is a plain Flax cell,
    # slower; "cudnn" is for NVIDIA GPUs.
    config.model.backend = "auto"
    config.model.layers = 2
    config.model.units = 150
    config.model.embed = 64  # width of the embedding; 0 feeds one-hot vectors, as the article did, and learns slower
    config.model.dropout_input = 0.0  # on the input
    config.model.dropout = 0.0  # on every layer's output; so small a model underfits
    config.model.forget_bias = 1.0  # of the forget gates at first, so that memories last; Keras does so too
    # "layer" (Ba et al. 2016), "batch_input" (Laurent et al. 2015), "batch" (Cooijmans et al. 2016): norm.py.
    config.model.norm = "none"
    config.model.tie = False  # the embedding as the head's kernel
    # Tokens a chunk: only the carry between chunks is kept for the way back, and the rest computed twice, so that long
    # seq_len fit into memory; near the root of seq_len is least. 0 keeps everything.
    config.model.remat = 0
    config.model.dtype = "float32"  # of the operands of products; sums, gates and carry stay float32

    config.optimizer.lr = 0.008  # peak
    config.optimizer.schedule = "cosine"  # or "constant", after the warmup
    config.optimizer.warmup = 200  # steps
    config.optimizer.end = 0.02  # of the peak, at the last step
    config.optimizer.beta1 = 0.9
    config.optimizer.beta2 = 0.99  # 0.999 remembers gradients for longer than the cosine allows
    config.optimizer.eps = 1e-8
    config.optimizer.eps_hat = False  # True adds eps before Adam corrects its bias, as Keras does
    config.optimizer.clip = 1.0  # global norm of the gradient; 0 does not

    # "binary_cross_entropy" is the article's: every character of the vocabulary a yes or no of its own (step.py).
    config.train.loss = "cross_entropy"
    config.train.epochs = 20.0  # passes over the training text
    config.train.steps = 0  # where above 0, this decides instead
    config.train.stop_at_step = 0  # ends early without changing the schedule; 0 does not
    config.train.steps_per_dispatch = 20  # steps the device takes without the host
    config.train.log_every = 100  # steps
    config.train.eval_every = 1000  # steps
    config.train.eval_lanes = None  # rows that the scheduled score reads side by side; None: 32, of short texts fewer
    config.train.checkpoint_every = 500  # steps; every evaluation saves as well
    config.train.keep = 2  # latest checkpoints; the best stays besides
    config.train.watchdog = 900.0  # seconds without a finished step or score after which a run ends; 0 waits for ever

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
        config.optimizer.warmup = 50
    elif variant == "article":
        _follow_article(config)
    elif variant is not None:
        raise ValueError(f"unknown variant {variant!r} of this config; known: quick, article")
    return config


def _follow_article(config: ConfigDict) -> None:
    """What the article did, and where it is silent what Keras did in 2019 where nothing was said.

    Not as there: the alphabet, which was of letters, digits and few marks; and the first weights, which Keras draws
    alike but for kernel_h, one orthogonal matrix for all gates instead of one each, and the head's, of another width.
    """
    config.data.regime = "window"
    config.data.batch_size = 32  # Keras's
    config.model.embed = 0  # one-hot
    config.optimizer.lr = 0.001  # Keras's Adam, with the next four
    config.optimizer.schedule = "constant"
    config.optimizer.warmup = 0
    config.optimizer.beta2 = 0.999
    config.optimizer.eps = 1e-7
    config.optimizer.eps_hat = True
    config.optimizer.clip = 0.0
    config.train.loss = "binary_cross_entropy"
    config.train.epochs = 850.0
    config.train.eval_every = 10_000  # six passes
    config.train.checkpoint_every = 2000
