"""LSTM language models on prose, in JAX and Flax: train, resume, measure, generate.

`load_run`, `Run` and `Sampling` are imported when they are first used, so that `lovecraft_jax.data` and
`lovecraft_jax.stylometry` need no JAX.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lovecraft_jax.inference.sampling import Sampling
    from lovecraft_jax.run import Run, load_run
else:

    def __getattr__(name):
        """Imports what `__all__` names; Python calls this for names that the module does not have."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from lovecraft_jax.inference.sampling import Sampling
        from lovecraft_jax.run import Run, load_run

        globals().update(Run=Run, Sampling=Sampling, load_run=load_run)
        return globals()[name]


__all__ = ["Run", "Sampling", "load_run"]
__version__ = "0.1.0"
